"""A call as a message to a tool: OpenAI's Harmony format, of gpt-oss.

    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>    as the models write it
     to=functions.f<|channel|>commentary json<|message|>{…}<|call|>                 as their template writes earlier ones

Both stand behind `<|start|>assistant`, which ends the prompt. Sources: "OpenAI harmony response format" in OpenAI's
cookbook, from memory, and the chat template of gpt-oss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from radixmill.front.dialects.calls.base import (
    Begun,
    Callee,
    Calls,
    Format,
    Given,
    Reader,
    Tags,
    Target,
    ToolShape,
    Whole,
)
from radixmill.front.dialects.calls.json_object import object_given
from radixmill.front.dialects.extent import SPACE
from radixmill.front.dialects.scan import Malformed, Scan, Steps

CHANNEL, CONSTRAIN, MESSAGE = "<|channel|>", "<|constrain|>", "<|message|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmony(Calls):
    """The recipient is `namespace` and a tool's name, or a name alone, as for tools that are built in. It may stand
    before the channel or behind it, and the type of the content with `<|constrain|>` or without; the type is not looked
    at.

    `<|call|>` ends not only the call but the answer, so a grammar leaves it to the model and takes one call only. The
    engine takes it out of the text: a call is whole if its arguments are. `ends`: what else ends messages.
    """

    call: Tags = Tags(f"{CHANNEL}commentary to=", "<|call|>")
    others: tuple[str, ...] = (f"{CHANNEL}analysis to=", f"{CHANNEL}final to=")  # openers that models write at times
    first_openers: tuple[str, ...] = ("to=",)
    ends: tuple[str, ...] = ("<|end|>", "<|return|>")
    namespace: str = "functions."

    @property
    def openers(self) -> tuple[str, ...]:
        return (self.call.open, *self.others)

    @property
    def tags(self) -> set[str]:
        return {*self.openers, self.call.close, *self.ends, CHANNEL, CONSTRAIN, MESSAGE}

    # --- reading

    def _one(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        yield from scan.expect(*self.openers, *self.first_openers)
        yield from self.body(scan, tools)
        yield from scan.space()
        if not (yield from scan.takes(*self.ends)):
            yield from scan.close(self.call.close)
        yield Whole()

    def body(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        recipient = yield from _word(scan)
        name = recipient.removeprefix(self.namespace)
        name = recipient if recipient in tools and name not in tools else name
        if not name:
            raise Malformed
        yield from self._header(scan)
        yield Begun(name)
        if name in tools and tools[name].shape == "text":
            yield from self.free_text(scan)
        else:
            yield from self._arguments(scan)

    def _header(self, scan: Scan) -> Steps[None]:
        """From behind the recipient to where the input begins."""
        for mark in (CHANNEL, CONSTRAIN):
            yield from scan.space()
            yield from scan.takes(mark)
            yield from _word(scan)
        yield from scan.space()
        yield from scan.expect(MESSAGE)

    def _arguments(self, scan: Scan) -> Reader:
        """A JSON object; none at all is `{}`, if the message has an end."""
        yield from scan.space()
        if (yield from scan.which(self.call.close, *self.ends)):
            yield Given("{}")
        else:
            yield from object_given(scan, True)

    def free_text(self, scan: Scan) -> Reader:
        """Input of shape "text": all to the end of the message, or of the answer."""
        while True:
            at, tag = scan.seek((self.call.close, *self.ends), scan.at)
            if at > scan.at:
                text, scan.at = scan.text[scan.at : at], at
                yield Given(text)
            if tag or scan.last:
                return
            yield

    # --- writing

    def head(self, name: str, shape: ToolShape = "object") -> str:
        kind = "code" if shape == "text" else f"{CONSTRAIN}json"
        return f"{self.call.open}{self.namespace}{name} {kind}{MESSAGE}"

    def tail(self, shape: ToolShape = "object") -> str:
        return self.call.close

    # --- grammar

    def only(self, targets: Sequence[Target], *, parallel: bool) -> Format:
        return self._run(targets, False)

    def tag(self, target: Target) -> Format:
        return {
            "type": "tag",
            "begin": self.head(target.name, target.shape),
            "content": self.content(target),
            "end": "",
        }


def _word(scan: Scan) -> Steps[str]:
    """Characters up to white space or a tag."""
    start = scan.at
    while (char := (yield from scan.peek())) and char not in f"{SPACE}<":
        scan.at += 1
    return scan.text[start : scan.at]
