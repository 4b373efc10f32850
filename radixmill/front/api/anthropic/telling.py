"""Events of a session → events of Anthropic's stream; and their fold, which is the answer that is not streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from starlette.types import Scope

from radixmill.core.errors import ServeError
from radixmill.front.api.anthropic.body import MessagesBody
from radixmill.front.api.anthropic.errors import message_error
from radixmill.front.api.anthropic.wire import (
    EMPTY,
    BlockDelta,
    BlockStart,
    BlockStop,
    Delta,
    InputDelta,
    MessageAnswer,
    MessageDelta,
    MessageStart,
    MessageStop,
    Piece,
    Ping,
    SignatureDelta,
    Stopped,
    StopReason,
    StreamEvent,
    TextDelta,
    TextPiece,
    ThinkingDelta,
    ThinkingPiece,
    ToolUsePiece,
    usage_of,
)
from radixmill.front.api.errors import ID_KEY
from radixmill.front.api.openai.wire import proof_fields
from radixmill.front.api.partial import whole_object
from radixmill.front.api.sse import Ending, named_sse
from radixmill.front.session import Arguments, Call, Content, End, Event, FinishReason, Generation, Reasoning

ID_PREFIX = "msg_"
TOOL_PREFIX = "toolu_"

# An answer that was aborted is cut short, and no other word of Anthropic's says that.
_REASONS: dict[FinishReason, StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "abort": "max_tokens",
}


class MessageView:
    """What both shapes of an answer need to know."""

    def __init__(self, body: MessagesBody, generation: Generation) -> None:
        self.generation = generation
        id = generation.facts.id
        self.id = id if id.startswith(ID_PREFIX) else ID_PREFIX + id
        self.shows_thoughts = body.thinking is None or body.thinking.display != "omitted"

    def start(self) -> MessageAnswer:
        facts = self.generation.facts
        return MessageAnswer(
            id=self.id,
            model=facts.model,
            content=[],
            usage=usage_of(self.generation),
            system_fingerprint=facts.fingerprint,
            seed=facts.seed,
        )


class Telling:
    """One answer as it is told: blocks are opened and closed in order, one at a time.

    Blank text between other blocks is left out: what separates tool calls in a model's own format says nothing.
    """

    def __init__(self, view: MessageView) -> None:
        self.view = view
        self._begun = False
        self._blocks = 0  # opened so far
        self._open: Piece | None = None  # the last of them, until it is closed
        self._blank = ""  # text that is told only if more than blanks comes, or nothing else

    def push(self, events: Iterable[Event]) -> Iterator[StreamEvent]:
        if not self._begun:
            self._begun = True
            yield MessageStart(self.view.start())
            yield Ping()
        for event in events:
            yield from self._tell(event)

    def _tell(self, event: Event) -> Iterator[StreamEvent]:
        match event:
            case Content(text=text):
                yield from self._text(text)
            case Reasoning(text=text):
                yield from self._thought(text)
            case Call(id=id, name=name):
                yield from self._start(ToolUsePiece(id=tool_id(id), name=name, input=EMPTY))
            case Arguments(text=text):
                yield from self._more(InputDelta(text) if text else None)
            case End():
                yield from self._end(event)

    def _text(self, text: str) -> Iterator[StreamEvent]:
        if not isinstance(self._open, TextPiece):
            self._blank += text
            if not self._blank.strip():
                return
            text = self._blank
            yield from self._start(TextPiece())
        yield from self._more(TextDelta(text) if text else None)

    def _thought(self, text: str) -> Iterator[StreamEvent]:
        if not isinstance(self._open, ThinkingPiece):
            yield from self._start(ThinkingPiece())
        yield from self._more(ThinkingDelta(text) if text and self.view.shows_thoughts else None)

    def _start(self, piece: Piece) -> Iterator[StreamEvent]:
        yield from self._stop()
        self._open, self._blank = piece, ""
        self._blocks += 1
        yield BlockStart(self._blocks - 1, piece)

    def _more(self, delta: Delta | None) -> Iterator[StreamEvent]:
        assert self._open is not None, "a delta belongs to a block"
        if delta is not None:
            yield BlockDelta(self._blocks - 1, delta)

    def _stop(self) -> Iterator[StreamEvent]:
        if isinstance(self._open, ThinkingPiece):
            yield BlockDelta(self._blocks - 1, SignatureDelta(self._open.signature))
        if self._open is not None:
            self._open = None
            yield BlockStop(self._blocks - 1)

    def _end(self, end: End) -> Iterator[StreamEvent]:
        if self._blank and not self._blocks:
            blank = self._blank
            yield from self._start(TextPiece())
            yield from self._more(TextDelta(blank))
        yield from self._stop()
        generation = self.view.generation
        yield MessageDelta(delta=stopped(end), usage=usage_of(generation), **proof_fields(generation.proof))
        yield MessageStop()


def tool_id(id: str) -> str:
    """A call's id with Anthropic's prefix."""
    return TOOL_PREFIX + id.removeprefix("call_")


def stopped(end: End) -> Stopped:
    if end.reason == "stop" and isinstance(end.matched, str):
        return Stopped(stop_reason="stop_sequence", stop_sequence=end.matched)
    return Stopped(stop_reason=_REASONS[end.reason], stop_sequence=None)


class MessageChunks:
    """The stream: each event under its own name."""

    def __init__(self, view: MessageView) -> None:
        self._telling = Telling(view)

    def push(self, events: tuple[Event, ...]) -> bytes:
        return b"".join(map(_sse, self._telling.push(events)))

    def finish(self) -> bytes:
        return b""


def _sse(event: StreamEvent) -> bytes:
    return named_sse(str(event.__struct_config__.tag), event)


def _failed(error: ServeError, scope: Scope) -> bytes:
    return named_sse("error", message_error(error, scope[ID_KEY]))


ENDING = Ending(b"", _failed)


async def fold(view: MessageView) -> MessageAnswer:
    """The answer that is not streamed: what a client would put together from the stream."""
    telling, answer = Telling(view), view.start()
    parts: list[list[str]] = []
    async for events in view.generation:
        for event in telling.push(events):
            _apply(event, answer, parts)
    answer.content = [_closed(piece, "".join(said)) for piece, said in zip(answer.content, parts, strict=True)]
    return answer


def _apply(event: StreamEvent, answer: MessageAnswer, parts: list[list[str]]) -> None:
    """`parts`: what the deltas of each block said."""
    match event:
        case BlockStart(content_block=piece):
            answer.content.append(piece)
            parts.append([])
        case BlockDelta(index, (TextDelta(said) | ThinkingDelta(said) | InputDelta(said))):
            parts[index].append(said)
        case MessageDelta(delta=delta, usage=usage, record=record, receipt=receipt):
            answer.stop_reason, answer.stop_sequence, answer.usage = delta.stop_reason, delta.stop_sequence, usage
            answer.record, answer.receipt = record, receipt


def _closed(piece: Piece, said: str) -> Piece:
    match piece:
        case TextPiece():
            return TextPiece(text=said)
        case ThinkingPiece(signature=signature):
            return ThinkingPiece(thinking=said, signature=signature)
        case ToolUsePiece(id=id, name=name):
            return ToolUsePiece(id=id, name=name, input=whole_object(said))
