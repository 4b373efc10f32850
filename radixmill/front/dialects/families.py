"""The families. To add one: a class here, and its name in FAMILIES."""

from __future__ import annotations

from radixmill.front.dialects.calls.harmony import Harmony
from radixmill.front.dialects.dialect import Dialect, Thoughts


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


class Hermes(Dialect):
    """Calls as JSON in `<tool_call>`: Hermes 2 and 3, Qwen2.5; and any model whose template knows no tools."""

    tool_call_parsers = ("hermes", "qwen", "qwen25")


class Qwen3(Dialect):
    """Qwen3 with thoughts that can be turned off, and QwQ."""

    reasoning_parsers = ("qwen3", "qwen3-thinking")
    think = Thoughts(switch="enable_thinking", ended_by_call=True)


FAMILIES: tuple[type[Dialect], ...] = (
    GptOss,
    Hermes,
    Qwen3,
)

GENERIC = Dialect()
THINKING = Dialect(think=Thoughts())
