"""Calls as a name and JSON behind it: `<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radixmill.front.dialects.calls.base import (
    FENCE,
    Begun,
    Callee,
    Calls,
    Format,
    Given,
    Reader,
    Tags,
    Target,
    ToolShape,
    constant,
    regex,
    sequence,
    word,
)
from radixmill.front.dialects.calls.json_object import object_given
from radixmill.front.dialects.scan import Malformed, Scan, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedJson(Calls):
    """call.open  kind  sep  NAME  id_mark  ID  mark  {…}  end  call.close

    White space may stand between all of these, and be missing. The id need not be there, and is never written.
    Arguments that are left out, null or empty are `{}`.
    """

    section: Tags = Tags("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
    call: Tags = Tags("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
    gap: str = ""
    kind: str = ""
    sep: str = ""
    id_mark: str = ""
    mark: str = "<｜tool▁sep｜>"
    end: str = ""

    @property
    def tags(self) -> set[str]:
        return {*self.section, *self.call, *self.also, self.sep, self.id_mark, self.mark.strip()}

    # --- reading

    def body(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        for part in (self.kind, self.sep):
            yield from scan.space()
            yield from scan.expect(part)
        yield from scan.space()
        begun = yield from self._begun(scan, tools)
        yield begun
        yield from scan.space()
        yield from scan.expect(self.mark.strip())
        if begun.name in tools and tools[begun.name].shape == "text":
            yield from scan.expect(self._fence.open[len(self.mark.rstrip()) :])
            yield from self.free_text(scan)
            return
        yield from scan.space()
        yield from self._arguments(scan)
        if self.end:
            yield from scan.space()
            yield from scan.expect(self.end.strip())

    def _begun(self, scan: Scan, tools: Mapping[str, Callee]) -> Steps[Begun]:
        ends = (self.mark.strip(), *([self.id_mark] if self.id_mark else []))
        name = yield from word(scan, *ends)
        yield from scan.space()
        if not self.id_mark or not (yield from scan.takes(self.id_mark)):
            return Begun(name)
        yield from scan.space()
        return Begun(name, (yield from word(scan, *ends)))

    def _arguments(self, scan: Scan) -> Reader:
        if (yield from scan.which("{")):
            yield from object_given(scan, told=True)
        elif (yield from scan.takes("null")) or (yield from self._ends(scan)):
            yield Given("{}")
        else:
            raise Malformed

    def _ends(self, scan: Scan) -> Steps[bool]:
        """Whether what stands behind the arguments comes here; nothing need."""
        tags = [tag for tag in (self.end.strip(), self.call.close) if tag]
        return bool(tags) and bool((yield from scan.which(*tags)))

    # --- writing

    @property
    def _fence(self) -> Tags:
        """Around the input; a text needs a fence where no tag ends the call."""
        if self.call.close:
            return Tags(self.mark, self.end)
        return Tags(f"{self.mark}{FENCE.open}", FENCE.close)

    def head(self, name: str, shape: ToolShape = "object") -> str:
        return f"{self.call.open}{self.kind}{self.sep}{name}{self._fence.open if shape == 'text' else self.mark}"

    def tail(self, shape: ToolShape = "object") -> str:
        return f"{self._fence.close if shape == 'text' else self.end}{self.call.close}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedJson(NamedJson):
    """The name stands in an id, `functions.NAME:0`, which the model counts itself. The name alone, and the id without
    its first part, are read, too."""

    section: Tags = Tags("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
    call: Tags = Tags("<|tool_call_begin|>", "<|tool_call_end|>")
    mark: str = "<|tool_call_argument_begin|>"
    first_part: str = "functions."

    def _begun(self, scan: Scan, tools: Mapping[str, Callee]) -> Steps[Begun]:
        written = yield from word(scan, self.mark)
        name = _NUMBER.sub("", written)
        if name not in tools:
            name = name.removeprefix(self.first_part)
        return Begun(name, written if _NUMBER.search(written) else "")

    def is_begun(self, rest: str, name: str, shape: ToolShape) -> bool:
        return NamedJson.is_begun(self, re.sub(r":[0-9]+", ":0", rest), name, shape)

    def head(self, name: str, shape: ToolShape = "object") -> str:
        return self._numbered(name, 0)

    def _numbered(self, name: str, number: int) -> str:
        return f"{self.call.open}{self.first_part}{name}:{number}{self.mark}"

    def all_written(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        texts = [json.dumps(arguments, ensure_ascii=False) for _, arguments in calls]
        written = [f"{self._numbered(name, i)}{texts[i]}{self.tail()}" for i, (name, _) in enumerate(calls)]
        return f"{self.section.open}{self.gap.join(written)}{self.section.close}"

    def tag(self, target: Target) -> Format:
        """With any number: how many calls the conversation has had so far, only the model knows."""
        begin = f"{self.call.open}{self.first_part}{target.name}:"
        content = sequence(regex("[0-9]{1,4}"), constant(self.mark), self.content(target))
        return {"type": "tag", "begin": begin, "content": content, "end": self.tail(target.shape)}


_NUMBER = re.compile(r":[0-9]+$")
