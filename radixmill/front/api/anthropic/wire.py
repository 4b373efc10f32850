"""What goes back: the message, its blocks, and the events of a stream."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from radixmill.core.record import Record
from radixmill.front.session import Generation

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
JsonObject = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
EMPTY = Raw(b"{}")


class OutputDetails(Struct):
    thinking_tokens: int


class MessageUsage(Struct, kw_only=True):
    """`input_tokens` are those that were not in the cache."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputDetails


def usage_of(generation: Generation) -> MessageUsage:
    usage = generation.usage()
    return MessageUsage(
        input_tokens=usage.prompt - usage.cached,
        cache_read_input_tokens=usage.cached,
        output_tokens=usage.completion,
        output_tokens_details=OutputDetails(usage.reasoning),
    )


class TextPiece(Struct, kw_only=True, tag_field="type", tag="text"):
    text: str = ""


class ThinkingPiece(Struct, kw_only=True, tag_field="type", tag="thinking"):
    """`signature` is always empty: nothing is signed here, but clients require the field."""

    thinking: str = ""
    signature: str = ""


class ToolUsePiece(Struct, kw_only=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: JsonObject


Piece = TextPiece | ThinkingPiece | ToolUsePiece


class MessageAnswer(Struct, kw_only=True, tag_field="type", tag="message"):
    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Piece]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: None = None
    usage: MessageUsage
    system_fingerprint: str
    seed: int
    record: Record | UnsetType = UNSET
    receipt: dict[str, Any] | UnsetType = UNSET


class TokenCount(Struct):
    """The answer of count_tokens."""

    input_tokens: int


# Events of a stream, in the order of their first coming.


class MessageStart(Struct, tag_field="type", tag="message_start"):
    message: MessageAnswer


class Ping(Struct, tag_field="type", tag="ping"):
    pass


class BlockStart(Struct, tag_field="type", tag="content_block_start"):
    index: int
    content_block: Piece


class TextDelta(Struct, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(Struct, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, tag_field="type", tag="signature_delta"):
    signature: str


class InputDelta(Struct, tag_field="type", tag="input_json_delta"):
    partial_json: str


Delta = TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockDelta(Struct, tag_field="type", tag="content_block_delta"):
    index: int
    delta: Delta


class BlockStop(Struct, tag_field="type", tag="content_block_stop"):
    index: int


class Stopped(Struct, kw_only=True):
    stop_reason: StopReason
    stop_sequence: str | None
    stop_details: None = None


class MessageDelta(Struct, kw_only=True, tag_field="type", tag="message_delta"):
    delta: Stopped
    usage: MessageUsage
    record: Record | UnsetType = UNSET
    receipt: dict[str, Any] | UnsetType = UNSET


class MessageStop(Struct, tag_field="type", tag="message_stop"):
    pass


STREAM = (MessageStart, Ping, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop)
StreamEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop
