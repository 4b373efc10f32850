"""The body of POST /v1/responses: fields, which of them are hints, which are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from radixmill.core.errors import BadRequest
from radixmill.front.api.openai.fields import StopString, Timeout, TokenId, check_rid, template_kwargs
from radixmill.front.api.openai.reasoning import Budget
from radixmill.front.session.limits import bounds, size

Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
LOGPROBS: Include = "message.output_text.logprobs"
Summary = Literal["auto", "concise", "detailed"]


class Format(Struct, kw_only=True):
    """What the text must be."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None  # always enforced


class TextOptions(Struct, kw_only=True):
    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(Struct, kw_only=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Summary | None = None  # a hint: thoughts come whole, never summarised
    generate_summary: Summary | None = None  # a hint
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: Any = None  # refused


class ToolChoice(Struct, kw_only=True):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[dict[str, Any]] | None = None


class ResponseStreamOptions(Struct, kw_only=True):
    include_obfuscation: bool | None = None  # a hint


class PromptBody(Struct, kw_only=True):
    """What decides the prompt: all of POST /v1/responses/input_tokens, a part of POST /v1/responses."""

    model: str | None = None
    input: str | list[Any] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: Annotated[list[Any], size("tools")] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # refused
    conversation: Any = None
    personality: Any = None


class ResponseBody(PromptBody, kw_only=True):
    """The body of POST /v1/responses. null means: not given."""

    max_output_tokens: Annotated[int, bounds("max_output_tokens")] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = None
    background: bool | None = None
    include: list[Include] | None = None
    top_logprobs: Annotated[int, bounds("top_logprobs")] | None = None
    temperature: Annotated[float, bounds("temperature")] | None = None
    top_p: Annotated[float, bounds("top_p")] | None = None
    top_k: Annotated[int, bounds("top_k")] | None = None
    min_p: Annotated[float, bounds("min_p")] | None = None
    presence_penalty: Annotated[float, bounds("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, bounds("frequency_penalty")] | None = None
    repetition_penalty: Annotated[float, bounds("repetition_penalty")] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, bounds("logit_bias")]], size("logit_bias")] | None = None
    seed: Annotated[int, bounds("seed")] | None = None
    stop: StopString | Annotated[list[StopString], size("stop")] | None = None
    stop_token_ids: Annotated[list[TokenId], size("stop_token_ids")] | None = None
    min_tokens: Annotated[int, bounds("min_tokens")] | None = None
    max_thinking_tokens: Budget | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, bounds("priority")] | None = None
    cache_salt: str | None = None
    record: bool | None = None
    receipt: bool | None = None
    rid: Annotated[str, size("rid")] | None = None
    timeout: Timeout | None = None
    request_id: Annotated[str, size("rid")] | None = None  # the same as rid
    # hints
    metadata: Annotated[dict[str, str], size("metadata")] | None = None
    user: str | None = None
    safety_identifier: Annotated[str, size("safety_identifier")] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    service_tier: str | None = None
    max_tool_calls: int | None = None  # counts calls of hosted tools, of which there are none
    # refused
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    @property
    def stays(self) -> bool:
        """Whether the response is kept."""
        return self.store is not False


HINTS = frozenset(
    {
        "metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "service_tier",
        "max_tool_calls",
        "reasoning.summary",
        "reasoning.generate_summary",
        "stream_options.include_obfuscation",
    }
)
REFUSED = {
    "conversation": "is not supported; use previous_response_id",
    "personality": "is not supported; use instructions",
    "prompt": "is not supported: this server keeps no prompt templates",
    "context_management": "is not supported; use truncation",
    "moderation": "is not supported",
}


def check(body: PromptBody) -> None:
    """Raise BadRequest for what is never done."""
    for name, why in REFUSED.items():
        if getattr(body, name, None) is not None:
            raise BadRequest(f"{name} {why}.", param=name)
    if body.reasoning and body.reasoning.mode not in (None, "standard"):
        raise BadRequest('reasoning.mode must be "standard": this server has no other.', param="reasoning.mode")


def check_response(body: ResponseBody) -> None:
    """Raise BadRequest for fields of POST /v1/responses that contradict each other."""
    check(body)
    check_rid(body.rid or body.request_id)
    if body.stream_options is not None and not body.stream:
        raise BadRequest(
            "stream_options is only for streams: set stream to true, or leave it out.", param="stream_options"
        )
    if body.background and not body.stays:
        raise BadRequest(
            "background needs the response to be stored: leave store out, or set it to true.", param="store"
        )


def kwargs(body: PromptBody) -> dict[str, Any]:
    """What the chat template is told besides messages and tools."""
    effort = body.reasoning.effort if body.reasoning else None
    verbosity = body.text.verbosity if body.text else None
    return template_kwargs(body.chat_template_kwargs or {}, reasoning_effort=effort, verbosity=verbosity)


def echoed(value: Struct | None, **defaults: Any) -> dict[str, Any]:
    """An options struct as the response repeats it: what was given, over the defaults."""
    given = {} if value is None else {name: getattr(value, name) for name in value.__struct_fields__}
    return {**defaults, **{name: msgspec.to_builtins(one) for name, one in given.items() if one is not None}}
