"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType

from radixmill.core.errors import BadRequest
from radixmill.front.api.openai.fields import (
    CommonBody,
    check_rid,
    check_stream_options,
    refuse,
    stops,
    template_kwargs,
    to_sampling,
)
from radixmill.front.api.openai.messages import Messages, to_template
from radixmill.front.api.openai.wire import (
    ChatLogprobs,
    TokenBytes,
    Usage,
    UsageRule,
    chat_logprobs,
    ids_of,
    matched_stop,
    usage_of,
)
from radixmill.front.api.sse import sse
from radixmill.front.session import Ask, ChatPrompt, Content, End, Event, Generation, Token, Whole, gather
from radixmill.front.session.limits import bounds

ID_PREFIX = "chatcmpl-"


class ChatBody(CommonBody, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    max_tokens: Annotated[int, bounds("max_tokens")] | None = None
    max_completion_tokens: Annotated[int, bounds("max_completion_tokens")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, bounds("top_logprobs")] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | float | None = None
    verbosity: str | None = None
    parallel_tool_calls: bool | None = None  # nothing to decide while there are no tools
    # refused
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    web_search_options: Any = None
    store: Any = None
    separate_reasoning: Any = None
    stream_reasoning: Any = None
    chat_template: Any = None


def to_ask(body: ChatBody, id: str) -> Ask:
    """The body as a session understands it. Raises BadRequest."""
    refuse(body)
    check_rid(body.rid)
    check_stream_options(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    n = body.n or 1
    return Ask(
        id=id,
        model=body.model,
        prompts=(_prompt(body),),
        prompt_field="messages",
        n=n,
        width=n,
        max_tokens=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
        max_tokens_field="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
        sampling=to_sampling(body, (body.top_logprobs or 0) if body.logprobs else None),
        stop=stops(body),
        keep_stop=bool(body.no_stop_trim),
        skip_special_tokens=body.skip_special_tokens is not False,
        keep_tokens=bool(body.logprobs or body.return_token_ids),
        seed=body.seed,
        tenant=body.cache_salt or "",
        priority=body.priority or 0,
    )


def _prompt(body: ChatBody) -> ChatPrompt:
    going_on = bool(body.continue_final_message)
    if going_on and body.add_generation_prompt:
        raise BadRequest(
            "continue_final_message goes on with the last message, add_generation_prompt begins a new one: choose.",
            param="add_generation_prompt",
        )
    if going_on and body.messages[-1].role != "assistant":
        raise BadRequest(
            "continue_final_message needs the last message to be the assistant's.", param="continue_final_message"
        )
    return ChatPrompt(
        messages=to_template(body.messages),
        add_generation_prompt=not going_on if body.add_generation_prompt is None else body.add_generation_prompt,
        continue_final_message=going_on,
        template_kwargs=template_kwargs(
            body.chat_template_kwargs or {}, reasoning_effort=body.reasoning_effort, verbosity=body.verbosity
        ),
    )


# What goes back. UNSET fields are left out, None is null.


class ChatMessage(Struct, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Struct, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    matched_stop: str | int | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatResponse(Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    seed: int
    service_tier: str | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET


class ChatDelta(Struct, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: UnsetType | None = UNSET


class ChatChunkChoice(Struct, kw_only=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    matched_stop: str | int | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatChunk(Struct, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    seed: int | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET


class ChatView:
    """What both shapes of an answer need to know."""

    def __init__(self, body: ChatBody, generation: Generation, token_bytes: TokenBytes) -> None:
        self.body, self.generation, self.token_bytes = body, generation, token_bytes
        facts = generation.facts
        self.id = facts.id if facts.id.startswith(ID_PREFIX) else ID_PREFIX + facts.id
        self.tier: str | UnsetType = UNSET if body.service_tier is None else "default"
        self.wants_ids = bool(body.return_token_ids)
        self.prompt_ids: list[int] | UnsetType = list(facts.prompts[0]) if self.wants_ids else UNSET

    def logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        return chat_logprobs(tokens, self.token_bytes) if self.body.logprobs else None


async def fold(view: ChatView) -> ChatResponse:
    """The non-streaming answer: what a client would put together from the stream."""
    wholes = await gather(view.generation)
    facts = view.generation.facts
    return ChatResponse(
        id=view.id,
        created=facts.created,
        model=facts.model,
        choices=[_choice(view, whole) for whole in wholes],
        usage=usage_of(view.generation),
        system_fingerprint=facts.fingerprint,
        seed=facts.seed,
        service_tier=view.tier,
        metadata=UNSET if view.body.metadata is None else view.body.metadata,
    )


def _choice(view: ChatView, whole: Whole) -> ChatChoice:
    return ChatChoice(
        index=whole.end.choice,
        message=ChatMessage(content=whole.text),
        logprobs=view.logprobs(whole.tokens),
        finish_reason=whole.end.reason,
        matched_stop=matched_stop(whole.end),
        token_ids=ids_of(whole.tokens, view.wants_ids),
        prompt_token_ids=view.prompt_ids,
    )


class ChatChunks:
    """Events → chunks: a role chunk before a choice's first event, then content, one finish chunk per choice."""

    def __init__(self, view: ChatView) -> None:
        self.view, self.usage = view, UsageRule(view.body.stream_options)
        self._greeted: set[int] = set()
        self._seed: int | UnsetType = view.generation.facts.seed  # on the first chunk only

    def push(self, events: tuple[Event, ...]) -> bytes:
        usage = self.usage.on_chunk(self.view.generation)
        return b"".join(sse(self._chunk([choice], usage)) for event in events for choice in self._choices(event))

    def finish(self) -> bytes:
        return sse(self._chunk([], usage_of(self.view.generation))) if self.usage.final else b""

    def _choices(self, event: Event) -> list[ChatChunkChoice]:
        said = self._said(event)
        if event.choice in self._greeted:
            return [said]
        self._greeted.add(event.choice)
        hello = ChatDelta(role="assistant", content="", refusal=None)
        return [ChatChunkChoice(index=event.choice, delta=hello, prompt_token_ids=self.view.prompt_ids), said]

    def _said(self, event: Event) -> ChatChunkChoice:
        match event:
            case Content(choice, text, tokens):
                return ChatChunkChoice(
                    index=choice,
                    delta=ChatDelta(content=text),
                    logprobs=self.view.logprobs(tokens),
                    token_ids=ids_of(tokens, self.view.wants_ids),
                )
            case End(choice, reason):
                return ChatChunkChoice(
                    index=choice, delta=ChatDelta(), finish_reason=reason, matched_stop=matched_stop(event)
                )
            case _:
                raise AssertionError(f"no one makes a {type(event).__name__} yet")

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | UnsetType | None) -> ChatChunk:
        facts = self.view.generation.facts
        seed, self._seed = self._seed, UNSET
        return ChatChunk(
            id=self.view.id,
            created=facts.created,
            model=facts.model,
            choices=choices,
            system_fingerprint=facts.fingerprint,
            usage=usage,
            seed=seed,
            service_tier=self.view.tier,
        )
