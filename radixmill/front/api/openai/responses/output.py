"""The Response object: what a body asked for, repeated, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from radixmill.core.errors import ServeError
from radixmill.core.record import Record
from radixmill.front.api.openai.responses.body import ResponseBody, echoed
from radixmill.front.api.openai.responses.items import CustomCallItem, FunctionCallItem, MessageItem, ThoughtItem
from radixmill.front.api.openai.responses.tools import Tools
from radixmill.front.session import Facts, Usage
from radixmill.front.session.sampling import NEUTRAL

ID_PREFIX = "resp_"
_RETENTIONS = ("in_memory", "24h")
Status = Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]
OutputItem = MessageItem | ThoughtItem | FunctionCallItem | CustomCallItem


class InputDetails(Struct, kw_only=True):
    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(Struct, kw_only=True):
    reasoning_tokens: int


class ResponseUsage(Struct, kw_only=True):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(Struct, kw_only=True):
    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class IncompleteDetails(Struct, kw_only=True):
    reason: Literal["max_output_tokens"]


class Response(Struct, kw_only=True):
    """A model's answer. UNSET fields are left out, None is null."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | UnsetType | None = UNSET
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: str
    usage: ResponseUsage | UnsetType = UNSET
    user: str | UnsetType = UNSET
    metadata: dict[str, str]
    presence_penalty: float
    frequency_penalty: float
    seed: int
    system_fingerprint: str
    record: Record | UnsetType = UNSET  # once it is over
    receipt: dict[str, Any] | UnsetType = UNSET


def begun(body: ResponseBody, tools: Tools, facts: Facts, defaults: Mapping[str, float]) -> Response:
    """The response before anything was said. `defaults`: the server's, of sampling."""
    text = body.text
    return Response(
        id=response_id(facts.id),
        created_at=facts.created,
        status="queued" if body.background else "in_progress",
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        model=facts.model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        prompt_cache_retention=body.prompt_cache_retention if body.prompt_cache_retention in _RETENTIONS else UNSET,
        reasoning=echoed(body.reasoning, effort=None, summary=None),
        safety_identifier=body.safety_identifier,
        service_tier="default",
        store=body.stays,
        temperature=_used("temperature", body.temperature, defaults),
        text={"format": echoed(text.format if text else None, type="text"), "verbosity": _verbosity(body)},
        tool_choice=tools.choice,
        tools=tools.echo,
        top_logprobs=body.top_logprobs or 0,
        top_p=_used("top_p", body.top_p, defaults),
        truncation=body.truncation or "disabled",
        user=body.user if body.user is not None else UNSET,
        metadata=body.metadata or {},
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        seed=facts.seed,
        system_fingerprint=facts.fingerprint,
    )


def response_id(id: str) -> str:
    """Of the request with this id, and of no other."""
    return ID_PREFIX + id


def request_id(name: str) -> str:
    """Of the request that somebody calls by this name, or by that of its response."""
    return name.removeprefix(ID_PREFIX) or name


def usage_of(usage: Usage, *, kept: bool) -> ResponseUsage:
    """`kept`: what was computed of the prompt stays in the prefix cache."""
    return ResponseUsage(
        input_tokens=usage.prompt,
        input_tokens_details=InputDetails(
            cached_tokens=usage.cached, cache_write_tokens=usage.prompt - usage.cached if kept else 0
        ),
        output_tokens=usage.completion,
        output_tokens_details=OutputDetails(reasoning_tokens=usage.reasoning),
        total_tokens=usage.prompt + usage.completion,
    )


def error_of(error: ServeError) -> ResponseError:
    return ResponseError(code="rate_limit_exceeded" if error.status == 429 else "server_error", message=error.message)


def now() -> int:
    return int(time.time())


def _used(name: str, value: float | None, defaults: Mapping[str, float]) -> float:
    return defaults.get(name, NEUTRAL[name]) if value is None else value


def _verbosity(body: ResponseBody) -> str:
    return (body.text.verbosity if body.text else None) or "medium"
