"""Events of a session → events of the stream, and the response as far as it has been said.

A response, streamed or not, is what this fold leaves: `response` after the last event.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from radixmill.core.errors import ServeError
from radixmill.front.api.openai.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    Completed,
    Created,
    Error,
    Failed,
    Incomplete,
    InProgress,
    InputDelta,
    InputDone,
    ItemAdded,
    ItemDone,
    PartAdded,
    PartDone,
    Queued,
    StreamEvent,
    TextDelta,
    TextDone,
    ThoughtDelta,
    ThoughtDone,
)
from radixmill.front.api.openai.responses.items import (
    CustomCallItem,
    FunctionCallItem,
    ItemPart,
    MessageItem,
    Status,
    ThoughtItem,
    new_id,
)
from radixmill.front.api.openai.responses.output import (
    IncompleteDetails,
    OutputItem,
    Response,
    error_of,
    now,
    usage_of,
)
from radixmill.front.api.openai.wire import ChatTokenLogprob, TokenBytes, chat_logprobs, proof_fields
from radixmill.front.session import Arguments, Call, Content, End, Event, Generation, Reasoning, Token

Said = list[StreamEvent]


class Place(NamedTuple):
    """Where an output item stands, and the counter of events."""

    id: str
    at: int  # output_index
    number: Callable[[], int]

    def item(self, kind: type[ItemAdded | ItemDone], item: OutputItem) -> StreamEvent:
        return kind(sequence_number=self.number(), output_index=self.at, item=item)

    def inside(self, kind: Callable[..., StreamEvent], **more: Any) -> StreamEvent:
        """An event about what is in the item."""
        return kind(sequence_number=self.number(), item_id=self.id, output_index=self.at, **more)

    def part(self, kind: Callable[..., StreamEvent], **more: Any) -> StreamEvent:
        """An event about the item's one part."""
        return self.inside(kind, content_index=0, **more)


class Open(Protocol):
    """An output item that is being said."""

    def begin(self) -> Said: ...

    def more(self, text: str, logprobs: list[ChatTokenLogprob], /) -> Said: ...

    def end(self, status: Status, /) -> Said: ...

    def item(self, status: Status, /) -> OutputItem: ...


class OpenText:
    """A message, or thoughts: an item with one part of text."""

    def __init__(self, place: Place, *, thoughts: bool) -> None:
        self.place, self.thoughts = place, thoughts
        self.texts: list[str] = []
        self.logprobs: list[ChatTokenLogprob] = []

    def begin(self) -> Said:
        added = self.place.item(ItemAdded, self._item("in_progress", []))
        return [added, self.place.part(PartAdded, part=self._part())]

    def more(self, text: str, logprobs: list[ChatTokenLogprob], /) -> Said:
        self.texts.append(text)
        self.logprobs += logprobs
        if self.thoughts:
            return [self.place.part(ThoughtDelta, delta=text)]
        return [self.place.part(TextDelta, delta=text, logprobs=logprobs)]

    def end(self, status: Status, /) -> Said:
        text = "".join(self.texts)
        if self.thoughts:
            done = self.place.part(ThoughtDone, text=text)
        else:
            done = self.place.part(TextDone, text=text, logprobs=self.logprobs)
        return [done, self.place.part(PartDone, part=self._part()), self.place.item(ItemDone, self.item(status))]

    def item(self, status: Status, /) -> OutputItem:
        return self._item(status, [self._part()])

    def _item(self, status: Status, parts: list[ItemPart]) -> OutputItem:
        if self.thoughts:
            return ThoughtItem(id=self.place.id, status=status, summary=[], content=parts)
        return MessageItem(id=self.place.id, status=status, role="assistant", content=parts)

    def _part(self) -> ItemPart:
        text = "".join(self.texts)
        if self.thoughts:
            return ItemPart(type="reasoning_text", text=text)
        return ItemPart(type="output_text", text=text, annotations=[], logprobs=list(self.logprobs))


class OpenCall:
    """A call of a function, or of a custom tool."""

    def __init__(self, place: Place, call: Call) -> None:
        self.place, self.call = place, call
        self.texts: list[str] = []

    def begin(self) -> Said:
        return [self.place.item(ItemAdded, self.item("in_progress"))]

    def more(self, text: str, logprobs: list[ChatTokenLogprob], /) -> Said:
        self.texts.append(text)
        kind = InputDelta if self.call.custom else ArgumentsDelta
        return [self.place.inside(kind, delta=text)]

    def end(self, status: Status, /) -> Said:
        text = "".join(self.texts)
        if self.call.custom:
            done = self.place.inside(InputDone, input=text)
        else:
            done = self.place.inside(ArgumentsDone, name=self.call.name, arguments=text)
        return [done, self.place.item(ItemDone, self.item(status))]

    def item(self, status: Status, /) -> OutputItem:
        id, text = self.place.id, "".join(self.texts)
        if self.call.custom:
            return CustomCallItem(id=id, status=status, call_id=self.call.id, name=self.call.name, input=text)
        return FunctionCallItem(id=id, status=status, call_id=self.call.id, name=self.call.name, arguments=text)


class Maker:
    """The fold. `start`, then `push` the session's events, then nothing after an End; or `fail`."""

    def __init__(
        self, base: Response, generation: Generation, token_bytes: TokenBytes, *, logprobs: bool, keeps_prefix: bool
    ) -> None:
        self.base, self.generation, self.token_bytes = base, generation, token_bytes
        self.logprobs, self.keeps_prefix = logprobs, keeps_prefix
        self.failure: ServeError | None = None
        self._number = itertools.count().__next__
        self._done: list[OutputItem] = []
        self._open: Open | None = None
        self._call: int | None = None  # the index of the call that is open
        self._silent: list[Token] = []  # tokens without text, before a message has begun

    @property
    def response(self) -> Response:
        """As far as it has been said."""
        open = [self._open.item("in_progress")] if self._open else []
        return msgspec.structs.replace(self.base, output=[*self._done, *open])

    def start(self) -> Said:
        first: Said = [Created(sequence_number=self._number(), response=self.response)]
        if self.base.status == "queued":
            first.append(Queued(sequence_number=self._number(), response=self.response))
            self.base = msgspec.structs.replace(self.base, status="in_progress")
        return [*first, InProgress(sequence_number=self._number(), response=self.response)]

    def push(self, events: Sequence[Event]) -> Said:
        return [said for event in events for said in self._push(event)]

    def fail(self, error: ServeError) -> Said:
        self.failure = error
        closed = self._close("incomplete")
        self._settle(msgspec.structs.replace(self.base, status="failed", error=error_of(error)))
        wrong = Error(sequence_number=self._number(), code=error.code, message=error.message, param=error.param)
        return [*closed, wrong, Failed(sequence_number=self._number(), response=self.response)]

    def _push(self, event: Event) -> Said:
        match event:
            case Content(text=text, tokens=tokens):
                return self._content(text, tokens)
            case Reasoning(text=text):
                return self._thoughts(text)
            case Call():
                self._silent = []
                self._call = event.index
                return self._begin(OpenCall(self._place(CustomCallItem if event.custom else FunctionCallItem), event))
            case Arguments(index=index, text=text):
                assert self._open is not None and self._call == index, "calls come one after another"
                return self._open.more(text, []) if text else []
            case End():
                return self._end(event)

    def _content(self, text: str, tokens: Sequence[Token]) -> Said:
        speaking = isinstance(self._open, OpenText) and not self._open.thoughts
        if not text and not speaking:
            self._silent += tokens if self.logprobs else ()
            return []
        begun = [] if speaking else self._begin(OpenText(self._place(MessageItem), thoughts=False))
        assert self._open is not None
        heard, self._silent = [*self._silent, *tokens], []
        logprobs = chat_logprobs(heard, self.token_bytes).content if self.logprobs else []
        return [*begun, *self._open.more(text, logprobs)] if text or logprobs else begun

    def _thoughts(self, text: str) -> Said:
        if not text:
            return []
        thinking = isinstance(self._open, OpenText) and self._open.thoughts
        begun = [] if thinking else self._begin(OpenText(self._place(ThoughtItem), thoughts=True))
        assert self._open is not None
        return [*begun, *self._open.more(text, [])]

    def _begin(self, item: Open) -> Said:
        closed = self._close("completed")
        self._open = item
        return [*closed, *item.begin()]

    def _close(self, status: Status) -> Said:
        if self._open is None:
            return []
        closed, self._open = self._open, None
        self._done.append(closed.item(status))
        return closed.end(status)

    def _place(self, kind: type[OutputItem]) -> Place:
        return Place(new_id(kind), len(self._done) + (self._open is not None), self._number)

    def _end(self, end: End) -> Said:
        """The model's last word; one that said nothing else said an empty message."""
        whole = end.reason in ("stop", "tool_calls")
        said: Said = []
        if whole and not self._answered():
            said = self._begin(OpenText(self._place(MessageItem), thoughts=False))
            said += self._content("", ())
        said += self._close("completed" if whole else "incomplete")
        if whole:
            self._settle(msgspec.structs.replace(self.base, status="completed", completed_at=now()))
            return [*said, Completed(sequence_number=self._number(), response=self.response)]
        cut = IncompleteDetails(reason="max_output_tokens") if end.reason == "length" else None
        status = "incomplete" if cut else "cancelled"
        self._settle(msgspec.structs.replace(self.base, status=status, incomplete_details=cut))
        return [*said, Incomplete(sequence_number=self._number(), response=self.response)]

    def _answered(self) -> bool:
        """Whether more came than thoughts."""
        return any(not isinstance(item, ThoughtItem) for item in self.response.output)

    def _settle(self, base: Response) -> None:
        usage = usage_of(self.generation.usage(), kept=self.keeps_prefix)
        self.base = msgspec.structs.replace(base, usage=usage, **proof_fields(self.generation.proof))
