"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from radixmill.core.errors import BadRequest
from radixmill.core.record import Record
from radixmill.front.api.openai.constraints import to_bound
from radixmill.front.api.openai.fields import (
    CommonBody,
    TokenId,
    check_rid,
    check_stream_options,
    refuse,
)
from radixmill.front.api.openai.wire import (
    CompletionLogprobs,
    TokenBytes,
    Usage,
    UsageRule,
    completion_logprobs,
    ids_of,
    matched_stop,
    proof_fields,
    usage_of,
)
from radixmill.front.api.sse import sse
from radixmill.front.session import (
    Ask,
    Content,
    End,
    Event,
    Generation,
    Prompt,
    Proof,
    TextPrompt,
    Token,
    TokenPrompt,
    Whole,
    gather,
    salts,
    winners,
)
from radixmill.front.session.limits import DEFAULT_COMPLETION_TOKENS, SIZES, bounds, size
from radixmill.front.session.sampling import stop_strings, wished

ID_PREFIX = "cmpl-"


class CompletionBody(CommonBody, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: str | Annotated[list[str | TokenId | list[TokenId]], size("prompts or ids")]
    max_tokens: Annotated[int, bounds("max_tokens (completions)")] | None = None
    best_of: Annotated[int, bounds("best_of")] | None = None
    logprobs: Annotated[int, bounds("logprobs (completions)")] | None = None
    parse_special: bool | None = None
    echo: bool | None = None
    suffix: str | None = None


def to_ask(body: CompletionBody, id: str) -> Ask:
    """The body as a session understands it. Raises BadRequest."""
    refuse(body)
    check_rid(body.rid)
    check_stream_options(body)
    if body.echo and body.suffix:
        raise BadRequest(
            "echo and suffix do not go together: what is wanted is the text between the two.", param="suffix"
        )
    n = body.n or 1
    sampling = wished(body, min_tokens=body.min_tokens, logprobs=body.logprobs)
    bound = to_bound(body)
    return Ask(
        id=id,
        model=body.model,
        prompts=to_prompts(body.prompt, special=body.parse_special is not False, suffix=body.suffix or ""),
        prompt_field=_field_of(body.prompt),
        n=n,
        width=_width(body, n),
        max_tokens=DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens,
        sampling=replace(sampling, prompt_logprobs=body.logprobs) if body.echo else sampling,
        stop=stop_strings(body.stop),
        keep_stop=bool(body.no_stop_trim),
        skip_special_tokens=body.skip_special_tokens is not False,
        keep_tokens=body.logprobs is not None or bool(body.return_token_ids),
        echo=bool(body.echo),
        constraint=bound and bound.constraint,
        constraint_field=bound.field if bound else "",
        separate_reasoning=False,
        seed=body.seed,
        salts=salts(body.cache_salt),
        priority=body.priority or 0,
        record=bool(body.record),
        receipt=bool(body.receipt),
        timeout=body.timeout,
    )


def _field_of(prompt: str | list[Any]) -> str:
    """What errors name: one prompt in a list is the list's first."""
    return "prompt[0]" if isinstance(prompt, list) and len(prompt) == 1 and type(prompt[0]) is not int else "prompt"


def _width(body: CompletionBody, n: int) -> int:
    if body.best_of is None:
        return n
    if body.best_of < n:
        raise BadRequest(f"best_of ({body.best_of}) must be at least n ({n}).", param="best_of")
    if body.stream and body.best_of > n:
        raise BadRequest("best_of cannot be streamed: which choice is best is known only at the end.", param="best_of")
    return body.best_of


def to_prompts(prompt: str | list[Any], *, special: bool, suffix: str = "") -> tuple[Prompt, ...]:
    """The four forms: a string, strings, token ids, lists of token ids."""
    if isinstance(prompt, str):
        return (TextPrompt(prompt, special, suffix=suffix),)
    kind = type(prompt[0])
    if odd := next((i for i, item in enumerate(prompt) if type(item) is not kind), None):
        raise BadRequest(
            "prompt must be a string, a list of strings, a list of token ids, or a list of such lists, not a mixture.",
            param=f"prompt[{odd}]",
        )
    if suffix and kind is not str:
        raise BadRequest("suffix goes with prompts that are text, not token ids.", param="suffix")
    if kind is int:
        return (TokenPrompt(tuple(prompt)),)
    if len(prompt) > (most := int(SIZES["prompts"].high or 0)):
        raise BadRequest(f"prompt must be at most {most} prompts, not {len(prompt)}.", param="prompt")
    if kind is str:
        return tuple(TextPrompt(item, special, suffix=suffix) for item in prompt)
    return tuple(TokenPrompt(tuple(item)) for item in prompt)


# What goes back. UNSET fields are left out, None is null.


class CompletionChoice(Struct, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    matched_stop: str | int | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(Struct, kw_only=True):
    """The answer, and every chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    seed: int | UnsetType = UNSET
    record: Record | UnsetType = UNSET  # in a stream: on the chunk that ends the last choice
    receipt: dict[str, Any] | UnsetType = UNSET


class Said(NamedTuple):
    text: str
    tokens: tuple[Token, ...]


class CompletionView:
    """What both shapes of an answer need to know."""

    def __init__(self, body: CompletionBody, generation: Generation, token_bytes: TokenBytes) -> None:
        self.body, self.generation, self.token_bytes = body, generation, token_bytes
        id = generation.facts.id
        self.id = id if id.startswith(ID_PREFIX) else ID_PREFIX + id
        self.wants_ids = bool(body.return_token_ids)

    def logprobs(self, tokens: Sequence[Token]) -> CompletionLogprobs | None:
        return None if self.body.logprobs is None else completion_logprobs(tokens, self.token_bytes)

    def echo(self, choice: int) -> Said:
        """The prompt, in front of what choice `choice` says; empty where it is not wanted."""
        facts = self.generation.facts
        if not facts.texts:
            return Said("", ())
        prompt = choice // facts.width
        text, ids = facts.texts[prompt], facts.prompts[prompt]
        scores = self.generation.scores.get(prompt) or (None,) * (len(ids) - 1)
        return Said(text.text, tuple(map(Token, ids, text.offsets, (None, *scores))))

    def shifted(self, choice: int, tokens: Sequence[Token]) -> list[Token]:
        """A choice's own tokens, where they stand behind the echo."""
        facts = self.generation.facts
        by = len(facts.texts[choice // facts.width].text) if facts.texts else 0
        return [Token(token.id, token.offset + by, token.logprob) for token in tokens]

    def prompt_ids(self, choice: int) -> list[int] | UnsetType:
        facts = self.generation.facts
        return list(facts.prompts[choice // facts.width]) if self.wants_ids else UNSET

    def answer(
        self,
        choices: list[CompletionChoice],
        usage: Usage | UnsetType | None,
        seed: int | UnsetType,
        proof: Proof | None,
    ) -> Completion:
        facts = self.generation.facts
        return Completion(
            id=self.id,
            created=facts.created,
            model=facts.model,
            choices=choices,
            system_fingerprint=facts.fingerprint,
            usage=usage,
            seed=seed,
            **proof_fields(proof),
        )


async def fold(view: CompletionView) -> Completion:
    """The non-streaming answer: what a client would put together from the stream. With best_of, of the winners only."""
    wholes = await gather(view.generation)
    best = winners(view.generation, view.body.n or 1)
    choices = [_choice(view, index, wholes[i]) for index, i in enumerate(best)]
    return view.answer(choices, usage_of(view.generation), view.generation.facts.seed, view.generation.proof)


def _choice(view: CompletionView, index: int, whole: Whole) -> CompletionChoice:
    echo = view.echo(whole.end.choice)
    return CompletionChoice(
        index=index,
        text=echo.text + whole.text,
        logprobs=view.logprobs([*echo.tokens, *view.shifted(whole.end.choice, whole.tokens)]),
        finish_reason=whole.end.reason,
        matched_stop=matched_stop(whole.end),
        token_ids=ids_of(whole.tokens, view.wants_ids),
        prompt_token_ids=view.prompt_ids(whole.end.choice),
    )


class CompletionChunks:
    """Events → chunks: the prompt where it is echoed, text, then one finish chunk per choice."""

    def __init__(self, view: CompletionView) -> None:
        self.view, self.usage = view, UsageRule(view.body.stream_options)
        self._greeted: set[int] = set()
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

    def _choices(self, event: Event) -> list[CompletionChoice]:
        said = self._said(event)
        if event.choice in self._greeted:
            return [said]
        self._greeted.add(event.choice)
        if not self.view.body.echo:
            said.prompt_token_ids = self.view.prompt_ids(event.choice)
            return [said]
        text, tokens = self.view.echo(event.choice)
        echo = CompletionChoice(
            index=event.choice,
            text=text,
            logprobs=self.view.logprobs(tokens),
            prompt_token_ids=self.view.prompt_ids(event.choice),
        )
        return [echo, said]

    def _said(self, event: Event) -> CompletionChoice:
        match event:
            case Content(choice, text, tokens):
                return CompletionChoice(
                    index=choice,
                    text=text,
                    logprobs=self.view.logprobs(self.view.shifted(choice, tokens)),
                    token_ids=ids_of(tokens, self.view.wants_ids),
                )
            case End(choice, reason):
                return CompletionChoice(index=choice, text="", finish_reason=reason, matched_stop=matched_stop(event))
            case _:
                raise AssertionError(f"a text completion has no {type(event).__name__}")

    def _proof(self, choice: CompletionChoice) -> Proof | None:
        return self.view.generation.proofs.get(choice.index) if choice.finish_reason else None

    def _chunk(
        self, choices: list[CompletionChoice], usage: Usage | UnsetType | None, proof: Proof | None = None
    ) -> Completion:
        seed, self._seed = self._seed, UNSET
        return self.view.answer(choices, usage, seed, proof)
