"""The events of a streamed response, as the wire has them. `sequence_number` counts from 0 without gaps."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from radixmill.front.api.openai.responses.items import ItemPart
from radixmill.front.api.openai.responses.output import OutputItem, Response
from radixmill.front.api.openai.wire import ChatTokenLogprob


class StreamEvent(Struct, kw_only=True, tag_field="type"):
    sequence_number: int


class Created(StreamEvent, tag="response.created"):
    response: Response


class Queued(StreamEvent, tag="response.queued"):
    response: Response


class InProgress(StreamEvent, tag="response.in_progress"):
    response: Response


class Completed(StreamEvent, tag="response.completed"):
    response: Response


class Incomplete(StreamEvent, tag="response.incomplete"):
    response: Response


class Failed(StreamEvent, tag="response.failed"):
    response: Response


class Error(StreamEvent, tag="error"):
    """Why a response will fail."""

    code: str | None
    message: str
    param: str | None


class ItemAdded(StreamEvent, tag="response.output_item.added"):
    output_index: int
    item: OutputItem


class ItemDone(StreamEvent, tag="response.output_item.done"):
    output_index: int
    item: OutputItem


class InItem(StreamEvent):
    """Something about the output item `item_id`, the `output_index`-th."""

    item_id: str
    output_index: int


class InPart(InItem):
    """Something about the item's `content_index`-th part."""

    content_index: int


class PartAdded(InPart, tag="response.content_part.added"):
    part: ItemPart


class PartDone(InPart, tag="response.content_part.done"):
    part: ItemPart


class TextDelta(InPart, tag="response.output_text.delta"):
    delta: str
    logprobs: list[ChatTokenLogprob]


class TextDone(InPart, tag="response.output_text.done"):
    text: str
    logprobs: list[ChatTokenLogprob]


class ThoughtDelta(InPart, tag="response.reasoning_text.delta"):
    delta: str


class ThoughtDone(InPart, tag="response.reasoning_text.done"):
    text: str


class ArgumentsDelta(InItem, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(InItem, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


class InputDelta(InItem, tag="response.custom_tool_call_input.delta"):
    delta: str


class InputDone(InItem, tag="response.custom_tool_call_input.done"):
    input: str


_encode = msgspec.json.Encoder().encode


def to_sse(event: StreamEvent) -> bytes:
    return b"event: " + str(event.__struct_config__.tag).encode() + b"\ndata: " + _encode(event) + b"\n\n"
