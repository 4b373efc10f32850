"""What a session yields: a closed union. A non-streaming answer is a fold over these, a stream is a map of them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from radixmill.core.messages import TokenLogprob

FinishReason = Literal["stop", "length", "abort"]


class Token(Struct, frozen=True):
    """One counted output token. `offset`: characters of the choice's returned text before it."""

    id: int
    offset: int
    logprob: TokenLogprob | None = None


class Content(Struct, frozen=True):
    """More text of a choice, and the tokens whose text begins in it (only if the Ask wants tokens)."""

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()


class End(Struct, frozen=True):
    """The end of a choice, once for each. `matched`: the stop string, or the id of the token, that ended it."""

    choice: int
    reason: FinishReason
    matched: str | int | None = None


Event = Content | End


class Usage(Struct, frozen=True):
    """Tokens of a whole call: each prompt once, every sequence's output, and prompt tokens found in the cache."""

    prompt: int
    completion: int
    cached: int
