"""The families. To add one: a class here, and its name in FAMILIES."""

from __future__ import annotations

from radixmill.front.dialects.dialect import Dialect, Thoughts


class Hermes(Dialect):
    """Calls as JSON in `<tool_call>`: Hermes 2 and 3, Qwen2.5; and any model whose template knows no tools."""

    tool_call_parsers = ("hermes", "qwen", "qwen25")


class Qwen3(Dialect):
    """Qwen3 with thoughts that can be turned off, and QwQ."""

    reasoning_parsers = ("qwen3", "qwen3-thinking")
    think = Thoughts(switch="enable_thinking", ended_by_call=True)


FAMILIES: tuple[type[Dialect], ...] = (Hermes, Qwen3)

GENERIC = Dialect()
THINKING = Dialect(think=Thoughts())
