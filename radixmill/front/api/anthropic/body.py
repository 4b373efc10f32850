"""Bodies of Anthropic's Messages API: their types, which fields are hints, which are refused.

docs/api.md, which is generated, lists every field and its kind.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Struct

from radixmill.front.api.openai.fields import GenerateBody, StopString, Timeout, TokenId
from radixmill.front.session.limits import bounds, size


class CacheControl(Struct, kw_only=True):
    """A hint: every prompt is cached here."""

    type: str | None = None
    ttl: str | None = None


class TextBlock(Struct, kw_only=True):
    """A block where only text may stand. Blocks of other types are known by their type, to refuse them by name."""

    type: str
    text: str | None = None
    cache_control: CacheControl | None = None
    citations: Any = None  # in answers that are sent back as history; says nothing to a model


class Block(TextBlock, kw_only=True):
    """One block of a message's content: text, thinking, tool_use or tool_result."""

    thinking: str | None = None
    signature: str | None = None  # nothing is signed here
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    caller: Any = None
    toolset_name: str | None = None
    tool_use_id: str | None = None
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None


class Turn(Struct, kw_only=True):
    """A message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ToolSpec(Struct, kw_only=True):
    """A tool of the client's own; server tools are known by their type."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    input_examples: list[dict[str, Any]] | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None  # a hint: arguments are streamed as they come
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None


class ToolChoice(Struct, kw_only=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, kw_only=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, bounds("budget_tokens")] | None = None
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(Struct, kw_only=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, kw_only=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class Metadata(Struct, kw_only=True):
    user_id: str | None = None


class CountBody(GenerateBody, kw_only=True):
    """What makes the prompt: all that POST /v1/messages/count_tokens takes."""

    messages: Annotated[list[Turn], size("messages")]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[ToolSpec], size("tools")] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # hints
    cache_control: CacheControl | None = None
    speed: str | None = None
    user_profile_id: str | None = None
    # refused
    container: Any = None
    mcp_servers: Any = None
    context_management: Any = None
    thread: Any = None


class MessagesBody(CountBody, kw_only=True):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, bounds("max_tokens")]
    stop_sequences: Annotated[list[StopString], size("stop")] | None = None
    temperature: Annotated[float, bounds("temperature (messages)")] | None = None
    top_p: Annotated[float, bounds("top_p")] | None = None
    top_k: Annotated[int, bounds("top_k")] | None = None
    # not Anthropic's
    min_p: Annotated[float, bounds("min_p")] | None = None
    presence_penalty: Annotated[float, bounds("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, bounds("frequency_penalty")] | None = None
    repetition_penalty: Annotated[float, bounds("repetition_penalty")] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, bounds("logit_bias")]], size("logit_bias")] | None = None
    seed: Annotated[int, bounds("seed")] | None = None
    stop_token_ids: Annotated[list[TokenId], size("stop_token_ids")] | None = None
    min_tokens: Annotated[int, bounds("min_tokens")] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    priority: Annotated[int, bounds("priority")] | None = None
    timeout: Timeout | None = None
    cache_salt: str | None = None
    record: bool | None = None
    receipt: bool | None = None
    # hints
    metadata: Metadata | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    diagnostics: Any = None


HINTS = frozenset(
    {
        "cache_control",
        "diagnostics",
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "tools[].eager_input_streaming",
        "user_profile_id",
    }
)

# Refused with a 400, and the values (besides null) that ask for nothing and are let through.
REFUSED: dict[str, tuple[Any, ...]] = {
    "container": (),
    "mcp_servers": ([],),
    "context_management": ({}, {"edits": []}),
    "thread": (),
}
