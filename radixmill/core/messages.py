"""Everything that crosses the waist between front and engine: two closed unions.

    front → engine   Submit | Cancel | Control
    engine → front   Ready | Deltas | Reply          (Died is made by the link itself)

A sequence id is unique among all sequences of a server: each front counts from a number of its own. `TokenDelta.at` is the output index of its first token:
a receiver drops what it holds already, and a gap is a bug.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from radixmill.core.request import GenerateRequest
from radixmill.core.spec import ModelSpec

# expired: it waited longer than it may. failed: a fault of ours. Made by the link alone: condemned, because engines died
# over it one after the other, and lost, because no engine is left.
EndReason = Literal["stop", "length", "cancelled", "grammar", "expired", "failed", "condemned", "lost"]


class SeqStart(Struct, frozen=True, array_like=True):
    """One sequence of a request: where it draws its random numbers from, and what it has said already.

    `score`: it is the one that tells the log-probabilities of the prompt. Who has said something has told them.
    `alone`: engines have died over it, or beside it: until it has said something, nothing else runs in its steps.
    `paid`: tokens of the prompt that were computed for it by engines that have died since. None: it comes for the first time.
    """

    seq: int
    seed: int
    output: tuple[int, ...] = ()
    score: bool = False
    alone: bool = False
    paid: int | None = None


class Submit(Struct, tag=True, frozen=True):
    """Run these sequences of one request. After a respawn, the same message with the outputs so far."""

    request: GenerateRequest
    seqs: tuple[SeqStart, ...]


class Cancel(Struct, tag=True, frozen=True):
    """Stop this sequence; idempotent. Its end comes back as a delta if it was still live."""

    seq: int


class Control(Struct, tag=True, frozen=True):
    """A question or an order that is not about one sequence: `flush_cache`, `stats`, …; answered by a Reply."""

    id: int
    verb: str
    args: dict[str, Any] = {}


ToEngine = Submit | Cancel | Control


class Usage(Struct, frozen=True, array_like=True):
    """Tokens of one sequence: prompt, output (the end token counts), and prompt tokens found in the cache."""

    prompt: int
    completion: int
    cached: int


class End(Struct, frozen=True):
    """Why a sequence ended. `token` is the stop token that ended it; `detail` explains a failure, and why a grammar could not
    go on."""

    reason: EndReason
    usage: Usage
    token: int | None = None
    detail: str = ""


class TokenLogprob(Struct, frozen=True, array_like=True):
    """Log-softmax of the model's unmodified logits: the token's own, the most likely `(id, logprob)`s, and those of the
    tokens that the request names."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    named: tuple[tuple[int, float], ...] = ()


class TokenDelta(Struct, frozen=True, array_like=True):
    """New tokens of one sequence, or its end, or both."""

    seq: int
    at: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    end: End | None = None
    cached: int | None = None  # prompt tokens found in the cache, on the first delta after an admission
    # Of the prompt's tokens, from SamplingParams.prompt_logprobs_from on but never of the one at 0; once, on the first
    # delta that has tokens or, where nothing is generated, the end.
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None


class Deltas(Struct, tag=True, frozen=True):
    """All that one step has for one front."""

    items: tuple[TokenDelta, ...]


class Ready(Struct, tag=True, frozen=True):
    """The engine serves. Sent once on every new connection."""

    spec: ModelSpec
    incarnation: int


class Reply(Struct, tag=True, frozen=True):
    """The answer to the Control of the same id."""

    id: int
    ok: bool
    data: dict[str, Any] = {}
    error: str = ""


class Died(Struct, tag=True, frozen=True):
    """The engine's connection broke. Never sent: the client half of the link makes it."""

    incarnation: int
    detail: str = ""


FromEngine = Ready | Deltas | Reply | Died
