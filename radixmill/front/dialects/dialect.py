"""How a family of models writes thoughts and tool calls: constants only; what reads and writes by them stands beside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

ToolShape = Literal["object", "input", "text"]
"""How a call passes its input on.

object   JSON arguments
input    free text, wrapped as `{"input": "…"}`
text     free text as it is, behind the call's head, to the closing tag: a grammar of the text can bind it there
"""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The tags of one family; "" where it has none.

    <think>…</think> content <tool_call>
    {"name": "f", "arguments": {…}}
    </tool_call>
    """

    think_open: str = ""
    think_close: str = ""
    call_open: str = "<tool_call>"
    call_close: str = "</tool_call>"
    gap: str = "\n"  # between a tag and what it holds, and between calls, as the family's models write it
    name_key: str = "name"
    arguments_key: str = "arguments"
    tools_open: str = "<tools>"
    tools_close: str = "</tools>"
    result_open: str = "<tool_response>"
    result_close: str = "</tool_response>"

    @property
    def tags(self) -> frozenset[str]:
        """What the model writes that splits its text."""
        return frozenset((self.think_open, self.think_close, self.call_open, self.call_close)) - {""}

    def head(self, name: str, shape: ToolShape = "object") -> str:
        """A call up to where its input begins, as the family writes it."""
        begun = f'{self.call_open}{self.gap}{{"{self.name_key}": {json.dumps(name, ensure_ascii=False)}'
        return f"{begun}}}{self.gap}" if shape == "text" else f'{begun}, "{self.arguments_key}": '

    def tail(self, shape: ToolShape = "object") -> str:
        """A call from where its input ends."""
        return f"{'' if shape == 'text' else '}'}{self.gap}{self.call_close}"


GENERIC = Dialect()
THINKING = Dialect(think_open="<think>", think_close="</think>")
