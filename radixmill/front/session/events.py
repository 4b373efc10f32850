"""What a session yields: a closed union. A non-streaming answer is a fold over these, a stream is a map of them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from radixmill.core.messages import TokenLogprob

FinishReason = Literal["stop", "length", "tool_calls", "abort"]


class Token(Struct, frozen=True):
    """One counted output token. `offset`: characters of the choice's returned text before it; where thoughts or calls
    are split off, of the raw text."""

    id: int
    offset: int
    logprob: TokenLogprob | None = None


class Content(Struct, frozen=True):
    """More text of a choice, and the tokens whose text begins in it (only if the Ask wants tokens).

    The last event before an End may have tokens and no text, as may a Reasoning or Arguments in its place."""

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()


class Reasoning(Struct, frozen=True):
    """More of a choice's thoughts, without the tags around them."""

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()


class Call(Struct, frozen=True):
    """A choice begins to call a tool: its `index`-th call. `custom`: what follows is free text, not JSON arguments."""

    choice: int
    index: int
    id: str
    name: str
    custom: bool = False
    tokens: tuple[Token, ...] = ()


class Arguments(Struct, frozen=True):
    """More of what a call passes on; the fragments of one call, put together, are JSON (or a custom tool's input)."""

    choice: int
    index: int
    text: str
    tokens: tuple[Token, ...] = ()


class End(Struct, frozen=True):
    """The end of a choice, once for each. `matched`: the stop string, or the id of the token, that ended it."""

    choice: int
    reason: FinishReason
    matched: str | int | None = None


Event = Content | Reasoning | Call | Arguments | End


class Usage(Struct, frozen=True):
    """Tokens of a whole call: each prompt once, every sequence's output, and prompt tokens found in the cache."""

    prompt: int
    completion: int
    cached: int
    reasoning: int = 0  # of the completion: tokens of thoughts
