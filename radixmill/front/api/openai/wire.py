"""Pieces of answers that chat and text completions share, and the logprobs of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from radixmill.core.messages import TokenLogprob
from radixmill.front.api.openai.fields import StreamOptions
from radixmill.front.session import End, Generation, Proof, Token

TokenBytes = Callable[[int], bytes]

UNLIKELY = -9999.0  # JSON has no infinity


class PromptDetails(Struct):
    cached_tokens: int


class CompletionDetails(Struct):
    reasoning_tokens: int


class Usage(Struct, kw_only=True):
    """Tokens of the call: every prompt once, the output of every sequence, best_of's losers too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def usage_of(generation: Generation) -> Usage:
    usage = generation.usage()
    return Usage(
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        total_tokens=usage.prompt + usage.completion,
        prompt_tokens_details=PromptDetails(usage.cached),
        completion_tokens_details=CompletionDetails(usage.reasoning),
    )


class UsageRule:
    """Which chunks of a stream carry usage: `final`, a last one without choices; `running`, every one."""

    def __init__(self, options: StreamOptions | None) -> None:
        self.final = bool(options and options.include_usage)
        self.running = bool(options and options.continuous_usage_stats)

    def on_chunk(self, generation: Generation) -> Usage | UnsetType | None:
        if self.running:
            return usage_of(generation)
        return None if self.final else UNSET


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(Struct):
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    content: list[ChatTokenLogprob]
    refusal: None = None


def chat_logprobs(tokens: Sequence[Token], token_bytes: TokenBytes) -> ChatLogprobs:
    """One entry per counted token; `bytes` are the token's own, `token` their text with U+FFFD for what is no UTF-8."""
    return ChatLogprobs([_chat_entry(token, token_bytes) for token in tokens])


def _chat_entry(token: Token, token_bytes: TokenBytes) -> ChatTokenLogprob:
    raw = token_bytes(token.id)
    known = _known(token)
    top = [TopLogprob(_text(b), _finite(lp), list(b)) for id, lp in known.top for b in (token_bytes(id),)]
    return ChatTokenLogprob(_text(raw), list(raw), _finite(known.logprob), top)


class CompletionLogprobs(Struct, kw_only=True):
    """Parallel lists, one place per counted token, and before them per token of an echoed prompt; `text_offset` in
    characters of the choice's text. Nothing is known of a prompt's first token: null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


def completion_logprobs(tokens: Sequence[Token], token_bytes: TokenBytes) -> CompletionLogprobs:
    """The chosen token is always among its `top_logprobs`."""
    return CompletionLogprobs(
        tokens=[_legacy(token_bytes(token.id)) for token in tokens],
        token_logprobs=[None if token.logprob is None else _finite(token.logprob.logprob) for token in tokens],
        top_logprobs=[
            None if token.logprob is None else _top(token.id, token.logprob, token_bytes) for token in tokens
        ],
        text_offset=[token.offset for token in tokens],
    )


def _top(chosen: int, known: TokenLogprob, token_bytes: TokenBytes) -> dict[str, float]:
    """The most likely tokens and the chosen one, by text."""
    top = {_legacy(token_bytes(id)): _finite(lp) for id, lp in reversed(known.top)}  # of equal texts the likelier wins
    ordered = dict(reversed(top.items()))
    ordered.setdefault(_legacy(token_bytes(chosen)), _finite(known.logprob))
    return ordered


def _known(token: Token) -> TokenLogprob:
    assert token.logprob is not None, "the engine was asked for logprobs"
    return token.logprob


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _legacy(raw: bytes) -> str:
    """Text keys must stay apart: bytes that are no UTF-8 are written as OpenAI's text completions write them."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _finite(logprob: float) -> float:
    return max(logprob, UNLIKELY)


def matched_stop(end: End) -> str | int | UnsetType:
    return UNSET if end.matched is None else end.matched


def ids_of(tokens: Sequence[Token], wanted: bool) -> list[int] | UnsetType:
    return [token.id for token in tokens] if wanted else UNSET


def proof_fields(proof: Proof | None) -> dict[str, Any]:
    """`record` and `receipt` of an answer, or of the chunk that ends it."""
    record, receipt = (proof.record, proof.receipt) if proof else (None, None)
    return {"record": UNSET if record is None else record, "receipt": UNSET if receipt is None else receipt}
