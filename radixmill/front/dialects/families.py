"""The families. To add one: a class here, and its name in FAMILIES.

Examples are written by hand from what the vendors document, for families of which we have no chat template.
"""

from __future__ import annotations

from dataclasses import replace

from radixmill.front.dialects.calls.base import Calls, Tags
from radixmill.front.dialects.calls.gemma import GemmaObject
from radixmill.front.dialects.calls.harmony import Harmony
from radixmill.front.dialects.calls.json_array import JsonArray, JsonRun
from radixmill.front.dialects.calls.json_object import JsonObject
from radixmill.front.dialects.calls.mistral import MistralArray, MistralNamed
from radixmill.front.dialects.calls.named import NamedJson, NumberedJson
from radixmill.front.dialects.calls.parameters import Parameters
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


class DeepSeekV32(Dialect):
    """DeepSeek-V3.2: calls in DSML."""

    reasoning_parsers = ("deepseek-v3",)
    tool_call_parsers = ("deepseekv32",)
    think = Thoughts(switch="thinking", default=False)
    calls = Parameters(
        section=Tags("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
        inset="\n",
        call=Tags('<｜DSML｜invoke name="', "</｜DSML｜invoke>"),
        name=Tags("", '">'),
        key=Tags('<｜DSML｜parameter name="', '" string="'),
        value=Tags('true">', "</｜DSML｜parameter>"),
        json_value='false">',
        end="",
        pad="",
    )


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


class Glm45(Dialect):
    """GLM-4.5 and 4.6."""

    reasoning_parsers = ("glm45",)
    tool_call_parsers = ("glm45", "glm")
    think = Thoughts(switch="enable_thinking", ended_by_call=True)
    calls = Parameters(
        name=Tags(),
        key=Tags("<arg_key>", "</arg_key>"),
        joint="\n",
        value=Tags("<arg_value>", "</arg_value>"),
        end="",
        pad="",
    )


class Glm47(Dialect):
    """GLM-4.7 and 5: the same without line ends. Its example is from memory."""

    tool_call_parsers = ("glm47",)
    think = Glm45.think
    calls = replace(Glm45.calls, joint="", line="", gap="")
    example = (
        "<think>why</think><tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value>"
        "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call><tool_call>now</tool_call>"
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


class Hunyuan(Dialect):
    """Hunyuan-A13B's thoughts and answers, and the calls of its successors. The example is from memory."""

    reasoning_parsers = ("hunyuan",)
    tool_call_parsers = ("hunyuan",)
    think = Thoughts(switch="enable_thinking", ended_by_call=True)
    calls = Parameters(
        section=Tags("<tool_calls>", "</tool_calls>"),
        name=Tags("", "<tool_sep>"),
        key=Glm45.calls.key,
        value=Glm45.calls.value,
        end="",
        line="",
        pad="",
        gap="",
    )
    answer_opens = ("<answer>\n", "<answer>")
    answer_close = "</answer>"
    example = (
        "<think>why</think>\n<tool_calls><tool_call>get_weather<tool_sep><arg_key>city</arg_key>"
        "<arg_value>Paris</arg_value><arg_key>days</arg_key><arg_value>3</arg_value></tool_call>"
        "<tool_call>now<tool_sep></tool_call></tool_calls>"
    )


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


class MiniMaxM2(Dialect):
    """MiniMax-M2: each answer begins within thoughts that its template opens."""

    reasoning_parsers = ("minimax",)
    tool_call_parsers = ("minimax-m2",)
    think = Thoughts(ended_by_call=True)
    calls = Parameters(
        section=Tags("<minimax:tool_call>", "</minimax:tool_call>"),
        inset="\n",
        call=Tags('<invoke name="', "</invoke>"),
        name=Tags("", '">'),
        key=Tags('<parameter name="', '">'),
        end="",
        pad="",
    )


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
    """Nemotron 3, with the calls of Qwen3-Coder."""

    reasoning_parsers = ("nemotron_3",)
    think = Thoughts(switch="enable_thinking", ended_by_call=True)
    calls = Parameters()
    example = (
        "<think>why</think>\n"
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    )


class Qwen3(Dialect):
    """Qwen3 with thoughts that can be turned off, and QwQ."""

    reasoning_parsers = ("qwen3",)
    tool_call_parsers = ("qwen25", "qwen")
    think = Thoughts(switch="enable_thinking", ended_by_call=True)


class Qwen3Coder(Dialect):
    """Qwen3-Coder: no thoughts. Qwen3-Thinking pairs with its calls, too."""

    tool_call_parsers = ("qwen3_coder",)
    calls = Parameters()


class Qwen3Thinking(Dialect):
    """Qwen3-Thinking-2507, whose chat templates open the thoughts."""

    reasoning_parsers = ("qwen3-thinking",)
    think = Thoughts(ended_by_call=True)


class Step3(Dialect):
    """Step3 thinks without an opening tag. The example is from memory."""

    reasoning_parsers = ("step3",)
    tool_call_parsers = ("step3",)
    think = Thoughts(assumed=True)
    calls = Parameters(
        section=Tags("<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"),
        call=Tags("<｜tool_call_begin｜>", "<｜tool_call_end｜>"),
        lead=("function", "<｜tool_sep｜>"),
        name=Tags('<steptml:invoke name="', '">'),
        key=Tags('<steptml:parameter name="', '">'),
        value=Tags("", "</steptml:parameter>"),
        end="</steptml:invoke>",
        line="",
        pad="",
        gap="",
    )
    example = (
        "why</think><｜tool_calls_begin｜>"
        '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="get_weather">'
        '<steptml:parameter name="city">Paris</steptml:parameter><steptml:parameter name="days">3</steptml:parameter>'
        "</steptml:invoke><｜tool_call_end｜>"
        '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="now"></steptml:invoke><｜tool_call_end｜>'
        "<｜tool_calls_end｜>"
    )


FAMILIES: tuple[type[Dialect], ...] = (
    DeepSeekR1,
    DeepSeekV31,
    DeepSeekV32,
    Gemma4,
    Glm45,
    Glm47,
    GptOss,
    Granite,
    Hermes,
    Hunyuan,
    InternS1,
    Kimi,
    KimiK2,
    Llama3,
    Llama4,
    MiniMaxM2,
    Mistral,
    MistralCompact,
    Nemotron,
    Qwen3,
    Qwen3Coder,
    Qwen3Thinking,
    Step3,
)

GENERIC = Dialect()
THINKING = Dialect(think=Thoughts())
