"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType

from radixmill.core.errors import BadRequest
from radixmill.core.record import Record
from radixmill.front.api.openai.constraints import to_bound
from radixmill.front.api.openai.fields import (
    CommonBody,
    Template,
    check_rid,
    check_stream_options,
    documents,
    own_template,
    refuse,
    template_kwargs,
)
from radixmill.front.api.openai.messages import Messages, to_template
from radixmill.front.api.openai.reasoning import (
    Budget,
    CustomParams,
    Effort,
    ReasoningOptions,
    thinking_budget,
    thinking_wish,
)
from radixmill.front.api.openai.tools import FunctionChoice, Functions, ToolChoice, Tools, to_function_rule, to_rule
from radixmill.front.api.openai.wire import (
    ChatLogprobs,
    TokenBytes,
    Usage,
    UsageRule,
    chat_logprobs,
    ids_of,
    matched_stop,
    proof_fields,
    usage_of,
)
from radixmill.front.api.sse import sse
from radixmill.front.session import (
    Arguments,
    Ask,
    Call,
    ChatPrompt,
    Content,
    End,
    Event,
    Generation,
    Proof,
    Reasoning,
    Token,
    ToolRule,
    Whole,
    gather,
    salts,
    template_tools,
)
from radixmill.front.session.limits import bounds
from radixmill.front.session.sampling import stop_strings, wished

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
    chat_template: Template | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, str]] | None = None
    reasoning_effort: Effort | None = None
    reasoning: ReasoningOptions | None = None
    max_thinking_tokens: Budget | None = None
    custom_params: CustomParams | None = None
    separate_reasoning: bool | None = None
    stream_reasoning: bool | None = None
    verbosity: str | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Functions | None = None
    function_call: FunctionChoice | None = None
    modalities: list[str] | None = None
    store: bool | None = None
    # refused
    audio: Any = None
    web_search_options: Any = None


def to_ask(body: ChatBody, id: str) -> Ask:
    """The body as a session understands it. Raises BadRequest."""
    refuse(body)
    _check(body)
    n = body.n or 1
    bound, rule = to_bound(body), _rule(body)
    return Ask(
        id=id,
        model=body.model,
        prompts=(_prompt(body, rule),),
        prompt_field="messages",
        n=n,
        width=n,
        max_tokens=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
        max_tokens_field="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
        sampling=wished(body, min_tokens=body.min_tokens, logprobs=(body.top_logprobs or 0) if body.logprobs else None),
        stop=stop_strings(body.stop),
        keep_stop=bool(body.no_stop_trim),
        skip_special_tokens=body.skip_special_tokens is not False,
        keep_tokens=bool(body.logprobs or body.return_token_ids),
        constraint=bound and bound.constraint,
        constraint_field=bound.field if bound else "",
        tools=rule,
        separate_reasoning=body.separate_reasoning is not False,
        stream_reasoning=body.stream_reasoning is not False,
        max_thinking_tokens=_budget(body),
        seed=body.seed,
        salts=salts(body.cache_salt),
        priority=body.priority or 0,
        record=bool(body.record),
        receipt=bool(body.receipt),
        timeout=body.timeout,
    )


def _check(body: ChatBody) -> None:
    check_rid(body.rid)
    check_stream_options(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    if set(body.modalities or ()) - {"text"}:
        raise BadRequest('modalities must be ["text"]: this model writes nothing else.', param="modalities")


def _budget(body: ChatBody) -> int | None:
    return thinking_budget(
        {
            "max_thinking_tokens": body.max_thinking_tokens,
            "reasoning.max_tokens": body.reasoning.max_tokens if body.reasoning else None,
            "custom_params.thinking_budget": body.custom_params.thinking_budget if body.custom_params else None,
        }
    )


def _rule(body: ChatBody) -> ToolRule | None:
    if body.tools and body.functions:
        raise BadRequest("functions is the older name of tools: give one of them.", param="functions")
    if body.functions or body.function_call is not None:
        return to_function_rule(body.functions, body.function_call)
    return to_rule(body.tools, body.tool_choice, body.parallel_tool_calls)


def _prompt(body: ChatBody, rule: ToolRule | None) -> ChatPrompt:
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
    wish = thinking_wish(body.reasoning_effort, body.reasoning)
    extra = body.chat_template_kwargs or {}
    template = own_template(body.chat_template, extra)
    return ChatPrompt(
        messages=to_template(body.messages),
        tools=template_tools(rule),
        documents=documents(body.documents, extra),
        add_generation_prompt=not going_on if body.add_generation_prompt is None else body.add_generation_prompt,
        continue_final_message=going_on,
        template_kwargs=template_kwargs(extra, brings=True, reasoning_effort=wish.effort, verbosity=body.verbosity),
        thinks=wish.thinks,
        template=template.source,
        template_field=template.field,
    )


# What goes back. UNSET fields are left out, None is null.


class FunctionSaid(Struct, kw_only=True):
    name: str | UnsetType = UNSET
    arguments: str


class CustomSaid(Struct, kw_only=True):
    name: str | UnsetType = UNSET
    input: str


class CallSaid(Struct, kw_only=True):
    """A tool call of an answer, or a part of one in a stream: `index` says which; the first part has id, type and name."""

    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: Literal["function", "custom"] | UnsetType = UNSET
    function: FunctionSaid | UnsetType = UNSET
    custom: CustomSaid | UnsetType = UNSET


class ChatMessage(Struct, kw_only=True):
    """`content` is null where there are thoughts or calls and no content; `reasoning` says what `reasoning_content` says."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[CallSaid] | UnsetType = UNSET
    function_call: FunctionSaid | UnsetType = UNSET


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
    record: Record | UnsetType = UNSET
    receipt: dict[str, Any] | UnsetType = UNSET


class ChatDelta(Struct, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[CallSaid] | UnsetType = UNSET
    function_call: FunctionSaid | UnsetType = UNSET


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
    record: Record | UnsetType = UNSET  # of the last choice that ends, with its finish_reason
    receipt: dict[str, Any] | UnsetType = UNSET


class ChatView:
    """What both shapes of an answer need to know."""

    def __init__(self, body: ChatBody, generation: Generation, token_bytes: TokenBytes) -> None:
        self.body, self.generation, self.token_bytes = body, generation, token_bytes
        facts = generation.facts
        self.id = facts.id if facts.id.startswith(ID_PREFIX) else ID_PREFIX + facts.id
        self.tier: str | UnsetType = UNSET if body.service_tier is None else "default"
        self.wants_ids = bool(body.return_token_ids)
        self.legacy = bool(body.functions)  # calls go by their older name
        self.prompt_ids: list[int] | UnsetType = list(facts.prompts[0]) if self.wants_ids else UNSET

    def logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        return chat_logprobs(tokens, self.token_bytes) if self.body.logprobs else None

    def reason(self, end: End) -> str:
        return "function_call" if self.legacy and end.reason == "tool_calls" else end.reason


async def fold(view: ChatView) -> ChatResponse:
    """The non-streaming answer: what a client would put together from the stream."""
    return answer(view, await gather(view.generation))


def answer(view: ChatView, wholes: Sequence[Whole]) -> ChatResponse:
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
        **proof_fields(view.generation.proof),
    )


def _choice(view: ChatView, whole: Whole) -> ChatChoice:
    return ChatChoice(
        index=whole.end.choice,
        message=_message(view, whole),
        logprobs=view.logprobs(whole.tokens),
        finish_reason=view.reason(whole.end),
        matched_stop=matched_stop(whole.end),
        token_ids=ids_of(whole.tokens, view.wants_ids),
        prompt_token_ids=view.prompt_ids,
    )


def _message(view: ChatView, whole: Whole) -> ChatMessage:
    nothing = None if whole.calls or whole.reasoning is not None else ""
    message = ChatMessage(content=whole.text or nothing)
    if whole.reasoning is not None:
        message.reasoning_content = message.reasoning = whole.reasoning
    if whole.calls and view.legacy:
        call = whole.calls[0]
        message.function_call = FunctionSaid(name=call.name, arguments=call.arguments)
    elif whole.calls:
        message.tool_calls = [_called(call.name, call.arguments, call.custom, id=call.id) for call in whole.calls]
    return message


def _called(name: str | UnsetType, text: str, custom: bool, **fields: Any) -> CallSaid:
    """A call, or the first part of one."""
    if custom:
        return CallSaid(type="custom", custom=CustomSaid(name=name, input=text), **fields)
    return CallSaid(type="function", function=FunctionSaid(name=name, arguments=text), **fields)


class ChatChunks:
    """Events → chunks: a role chunk before a choice's first event, then what it says, one finish chunk per choice."""

    def __init__(self, view: ChatView) -> None:
        self.view, self.usage = view, UsageRule(view.body.stream_options)
        self._greeted: set[int] = set()
        self._custom: set[tuple[int, int]] = set()  # calls, by choice and index, of custom tools
        self._seed: int | UnsetType = view.generation.facts.seed  # on the first chunk only

    def push(self, events: tuple[Event, ...]) -> bytes:
        usage = self.usage.on_chunk(self.view.generation)
        return b"".join(
            sse(self._chunk([choice], usage, self._proof(choice)))
            for event in events
            for choice in self._choices(event)
        )

    def finish(self) -> bytes:
        return sse(self._chunk([], usage_of(self.view.generation))) if self.usage.final else b""

    def _choices(self, event: Event) -> list[ChatChunkChoice]:
        said = self._said(event)
        if event.choice in self._greeted:
            return [said]
        self._greeted.add(event.choice)
        content = "" if isinstance(event, Content | End) else None  # null, if nothing but thoughts and calls comes
        hello = ChatDelta(role="assistant", content=content, refusal=None)
        return [ChatChunkChoice(index=event.choice, delta=hello, prompt_token_ids=self.view.prompt_ids), said]

    def _said(self, event: Event) -> ChatChunkChoice:
        if isinstance(event, End):
            reason = self.view.reason(event)
            return ChatChunkChoice(
                index=event.choice, delta=ChatDelta(), finish_reason=reason, matched_stop=matched_stop(event)
            )
        return ChatChunkChoice(
            index=event.choice,
            delta=self._delta(event),
            logprobs=self.view.logprobs(event.tokens),
            token_ids=ids_of(event.tokens, self.view.wants_ids),
        )

    def _delta(self, event: Content | Reasoning | Call | Arguments) -> ChatDelta:
        match event:
            case Content(_, text):
                return ChatDelta(content=text)
            case Reasoning(_, text) if text:
                return ChatDelta(reasoning_content=text, reasoning=text)
            case Call():
                return self._call(event)
            case Arguments(_, _, text) if text:
                return self._arguments(event)
        return ChatDelta()  # tokens without text

    def _call(self, call: Call) -> ChatDelta:
        if self.view.legacy:
            return ChatDelta(function_call=FunctionSaid(name=call.name, arguments=""))
        if call.custom:
            self._custom.add((call.choice, call.index))
        return ChatDelta(tool_calls=[_called(call.name, "", call.custom, index=call.index, id=call.id)])

    def _arguments(self, more: Arguments) -> ChatDelta:
        if self.view.legacy:
            return ChatDelta(function_call=FunctionSaid(arguments=more.text))
        if (more.choice, more.index) in self._custom:
            return ChatDelta(tool_calls=[CallSaid(index=more.index, custom=CustomSaid(input=more.text))])
        return ChatDelta(tool_calls=[CallSaid(index=more.index, function=FunctionSaid(arguments=more.text))])

    def _proof(self, choice: ChatChunkChoice) -> Proof | None:
        return self.view.generation.proofs.get(choice.index) if choice.finish_reason else None

    def _chunk(
        self, choices: list[ChatChunkChoice], usage: Usage | UnsetType | None, proof: Proof | None = None
    ) -> ChatChunk:
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
            **proof_fields(proof),
        )
