"""The families. To add one: a class here, and its name in FAMILIES.

Examples are written by hand from what the vendors document, for families of which we have no chat template.
"""

from __future__ import annotations

from radixmill.front.dialects.calls.base import Calls, Tags
from radixmill.front.dialects.calls.gemma import GemmaObject
from radixmill.front.dialects.calls.harmony import Harmony
from radixmill.front.dialects.calls.json_array import JsonArray, JsonRun
from radixmill.front.dialects.calls.json_object import JsonObject
from radixmill.front.dialects.calls.mistral import MistralArray, MistralNamed
from radixmill.front.dialects.calls.named import NamedJson, NumberedJson
from radixmill.front.dialects.calls.pythonic import Pythonic
from radixmill.front.dialects.dialect import Dialect, Thoughts


class DeepSeekR1(Dialect):
    """DeepSeek-R1, R1-0528 and the models distilled from them; DeepSeek-V3 without thoughts."""

    reasoning_parsers = ("deepseek-r1",)
    tool_call_parsers = ("deepseekv3",)
    think = Thoughts(switch="enable_thinking", assumed=True)
    calls = NamedJson(gap="\n", kind="function", sep="<｜tool▁sep｜>", mark="\n```json\n", end="\n```")


class DeepSeekV31(Dialect):
    """DeepSeek-V3.1; thoughts of V3.2, too."""

    reasoning_parsers = ("deepseek-v3",)
    tool_call_parsers = ("deepseekv31",)
    think = Thoughts(switch="thinking", default=False)
    calls = NamedJson()


class Gemma4(Dialect):
    """Gemma 4. A thought begins with the channel's name."""

    reasoning_parsers = ("gemma4",)
    tool_call_parsers = ("gemma4",)
    think = Thoughts(open="<|channel>thought\n", close="<channel|>", switch="enable_thinking", default=False)
    calls = GemmaObject()
    example = (
        "<|channel>thought\nwhy<channel|>"
        '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>'
    )


class GptOss(Dialect):
    """gpt-oss: messages in channels. Thoughts can't be turned off, and an answer has one call at most."""

    reasoning_parsers = ("gpt-oss",)
    tool_call_parsers = ("gpt-oss",)
    think = Thoughts(open="<|channel|>analysis<|message|>", close="<|end|>", interleaved=True, ended_by_call=True)
    calls = Harmony()
    answer_opens = (
        "<|channel|>final<|message|>",
        "<|channel|>commentary<|message|>",
        "<|channel|>final <|constrain|>json<|message|>",
        "<|channel|>final json<|message|>",
        "<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>commentary json<|message|>",
    )
    aside = "<|channel|>commentary<|message|>"
    answer_close = "<|end|>"
    answer_end = "<|return|>"
    turn = "<|start|>assistant"
    efforts = ("low", "medium", "high")
    one_call = True
    example = (
        "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city": "Paris", "days": 3}<|call|><|start|>assistant<|channel|>commentary '
        "to=functions.now <|constrain|>json<|message|>{}<|call|>"
    )


class Granite(Dialect):
    """Granite 3.2 and 3.3, which marks its answers when it thinks; 3.0 and 3.1 without thoughts."""

    reasoning_parsers = ("granite",)
    tool_call_parsers = ("granite",)
    think = Thoughts(switch="thinking", default=False)
    calls = JsonArray(also=("<tool_call>",), end="</tool_call>")
    answer_opens = ("<response>",)
    answer_close = "</response>"
    answer_bare = True
    example = (
        "<think>why</think>"
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}, {"name": "now", "arguments": {}}]'
    )


class Hermes(Dialect):
    """Calls as JSON in `<tool_call>`: Hermes 2 and 3, Qwen2.5; and any model whose template knows no tools."""

    tool_call_parsers = ("hermes", "qwen", "qwen25")


class InternS1(Dialect):
    """Intern-S1 and InternLM."""

    reasoning_parsers = ("interns1",)
    tool_call_parsers = ("interns1",)
    think = Thoughts(switch="enable_thinking", ended_by_call=True)
    calls = JsonObject(
        call=Tags("<|action_start|><|plugin|>", "<|action_end|>"),
        also=("<|action_start|> <|plugin|>", "<|action_start|>\n<|plugin|>"),
        arguments_keys=("parameters", "arguments"),
    )
    example = (
        "<think>why</think>"
        '<|action_start|><|plugin|>\n{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}\n<|action_end|>\n'
        '<|action_start|><|plugin|>\n{"name": "now", "parameters": {}}\n<|action_end|>'
    )


class Kimi(Dialect):
    """Kimi k1.5 and k1.6, which have no calls of their own."""

    reasoning_parsers = ("kimi",)
    think = Thoughts(open="◁think▷", close="◁/think▷")
    example = (
        "◁think▷why◁/think▷"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    )


class KimiK2(Dialect):
    """Kimi K2 and K2-Thinking."""

    reasoning_parsers = ("kimi_k2",)
    tool_call_parsers = ("kimi_k2",)
    think = Thoughts(switch="thinking", ended_by_call=True)
    calls = NumberedJson()
    call_ids = "indexed"


class Llama3(Dialect):
    """Llama 3.1 to 3.3."""

    tool_call_parsers = ("llama3",)
    calls = JsonRun()


class Llama4(Dialect):
    """Llama 4, and others that write calls as Python does."""

    tool_call_parsers = ("pythonic",)
    calls = Pythonic()
    example = '[get_weather(city="Paris", days=3), now()]'


class Mistral(Dialect):
    """Mistral's models with calls as an array; Magistral's thoughts."""

    reasoning_parsers = ("mistral",)
    tool_call_parsers = ("mistral",)
    think = Thoughts(open="[THINK]", close="[/THINK]", switch="reasoning_effort", default=False)
    calls: Calls = MistralArray()
    call_ids = "nine"


class MistralCompact(Mistral):
    """Those with calls as a name and arguments: Mistral Small 3.2, Magistral, Devstral."""

    calls = MistralNamed()
    example = '[THINK]why[/THINK][TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}[TOOL_CALLS]now[ARGS]{}'


class Nemotron(Dialect):
    """Nemotron 3."""

    reasoning_parsers = ("nemotron_3",)
    think = Thoughts(switch="enable_thinking", ended_by_call=True)
    example = (
        "<think>why</think>\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    )


class Qwen3(Dialect):
    """Qwen3 with thoughts that can be turned off, and QwQ."""

    reasoning_parsers = ("qwen3",)
    think = Thoughts(switch="enable_thinking", ended_by_call=True)


class Qwen3Thinking(Dialect):
    """Qwen3-Thinking-2507, whose chat templates open the thoughts."""

    reasoning_parsers = ("qwen3-thinking",)
    think = Thoughts(ended_by_call=True)


FAMILIES: tuple[type[Dialect], ...] = (
    DeepSeekR1,
    DeepSeekV31,
    Gemma4,
    GptOss,
    Granite,
    Hermes,
    InternS1,
    Kimi,
    KimiK2,
    Llama3,
    Llama4,
    Mistral,
    MistralCompact,
    Nemotron,
    Qwen3,
    Qwen3Thinking,
)

GENERIC = Dialect()
THINKING = Dialect(think=Thoughts())
