"""One line of tokens: the record of a request's choice, and how far its computation has come. Knows no pages.

tokens      prompt, output, then a placeholder (LAST_SAMPLED) for each token that a running step will sample
known       tokens that are no placeholder
length      all of them
computed    positions whose KV some plan, made or done, has written
behind      length - computed: what is left to compute before the next token can be sampled (of one that is mute: before
            all is scored, which leaves out the last token)
goal        length at the last admission: [0, goal) is prefill
forced      tokens that a grammar chose and the device has not heard of; they are among `tokens`
guessed     guesses that a running step checks; they are no tokens of ours until it has landed, and `computed` leaves them out
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from typing import Literal

from radixmill.core.messages import EndReason, SeqStart, Usage
from radixmill.core.plan import LAST_SAMPLED, Admit
from radixmill.core.request import GenerateRequest
from radixmill.core.spec import ModelSpec
from radixmill.engine.cache import Lease
from radixmill.engine.grammar import Matcher, Thinking
from radixmill.engine.schedule.guess import Memory
from radixmill.engine.schedule.score import Scoring

State = Literal["unbound", "waiting", "running", "ended"]  # unbound: waits for its grammar to be built


class Sequence:
    """Mutable, owned by the scheduler. Equal only to itself."""

    __slots__ = (
        "ahead",
        "alone",
        "awaited",
        "billed",
        "borrowed",
        "cached",
        "cached_told",
        "client",
        "computed",
        "forced",
        "goal",
        "guessed",
        "id",
        "known",
        "lease",
        "limit",
        "match",
        "memory",
        "mute",
        "namespace",
        "owed",
        "own",
        "passed",
        "prompt_len",
        "rank",
        "request",
        "scoring",
        "seed",
        "slot",
        "starved",
        "state",
        "stop_ids",
        "tokens",
    )

    def __init__(
        self,
        client: Hashable,
        request: GenerateRequest,
        start: SeqStart,
        spec: ModelSpec,
        arrival: int,
        prompt: array[int] | None = None,
    ) -> None:
        """`prompt`: the request's, in an array that all its sequences may have in common while they only wait."""
        sampling = request.sampling
        self.client = client
        self.id = start.seq
        self.request = request
        self.seed = start.seed
        self.alone = start.alone  # runs by itself until it has said something
        self.rank = (-request.priority if request.trusted else 0, arrival)  # over all accounts: lower runs first
        self.own = (-request.priority, arrival)  # within its account
        self.namespace: Hashable = (spec.numerics, request.adapter, request.tenant)
        self.borrowed = prompt is not None and not start.output
        self.tokens = prompt if prompt is not None and self.borrowed else array("q", request.prompt + start.output)
        self.known = len(self.tokens)
        self.prompt_len = len(request.prompt)
        self.limit = min(self.prompt_len + sampling.max_tokens, spec.context)  # of length
        self.stop_ids = frozenset(sampling.stop_token_ids) | (
            frozenset() if sampling.ignore_eos else frozenset(spec.eos_ids)
        )
        self.scoring = _scoring(request, start)  # None: nothing is wanted, or all of it is told
        self.mute = (
            self.scoring is not None and self.scoring.due > 0 and self.known >= self.limit
        )  # it is scored, no more
        self.state: State = "unbound"
        self.slot = -1
        self.lease: Lease | None = None
        self.computed = self.goal = 0
        self.guessed = 0
        self.forced: list[int] = []
        self.match: Matcher | Thinking | None = None  # where its output is bound by a grammar or a budget
        self.memory: Memory | None = None  # for guesses, as soon as one is looked for
        self.cached: int | None = None  # prompt tokens found at the first admission
        self.cached_told = False
        self.billed = 0  # tokens of the prompt that its account has paid for, or found cached
        self.owed = start.paid  # of the prompt, to earlier engines, until its account has been told; None: nothing
        self.passed = 0  # younger sequences admitted before this one
        self.starved = False  # got no page in the last step
        self.awaited: set[int] = set()  # with windows: lengths that it has or will have, behind which others will go on
        self.ahead: tuple[Sequence, int] | None = None  # while waiting: who computes our tokens up to there

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def behind(self) -> int:
        return len(self.tokens) - self.mute - self.computed

    def outranks(self, other: Sequence) -> bool:
        """Whether its priority is higher, as far as the two may be compared."""
        if self.request.account == other.request.account:
            return self.own[0] < other.own[0]
        return self.rank[0] < other.rank[0]

    @property
    def matchable(self) -> array[int]:
        """Its tokens up to the first that must be computed, whatever is cached: the last, or one whose logits are wanted."""
        return self.tokens if self.scoring is None else self.tokens[: self.scoring.at + 1]

    @property
    def output_len(self) -> int:
        return self.known - self.prompt_len

    @property
    def end_token(self) -> int | None:
        """The last token, if it is one that ends the sequence."""
        token = self.tokens[self.known - 1]
        return token if token in self.stop_ids else None

    @property
    def guessable(self) -> bool:
        """Whether its next step may check guesses: all its tokens are certain, its prefill has entered the tree, and the
        token after a guess needs no mask of its own."""
        return (
            self.behind == 1
            and self.certain_tokens
            and self.computed >= self.goal
            and (self.match is None or self.match.free > 1)
        )

    @property
    def guess_room(self) -> int:
        """Guesses that a step may check: there is room for all that it draws then, and none of it needs a mask."""
        room = self.limit - len(self.tokens)
        return (room if self.match is None else min(room, self.match.free)) - 1

    @property
    def bound(self) -> bool:
        """Whether the last token on the way may need a mask."""
        return self.match is not None and self.match.free < len(self.tokens) - self.known

    @property
    def certain_tokens(self) -> bool:
        """No step is on the way that will sample one."""
        return self.known == len(self.tokens)

    @property
    def full(self) -> bool:
        """Its last token, or the last that is scored, is on the way or here."""
        return self.behind <= 0 if self.mute else len(self.tokens) >= self.limit

    @property
    def landing(self) -> bool:
        """A running step has what must be known before it can go on."""
        return self.known < len(self.tokens) or (self.mute and self.scoring is not None and not self.scoring.due)

    @property
    def certain(self) -> int:
        """Positions that are computed and whose token is known."""
        return min(self.computed, self.known)

    # --- the life of a sequence

    def _own_tokens(self) -> None:
        """They will change: those that wait, perhaps very many, have a prompt in common."""
        if self.borrowed:
            self.tokens, self.borrowed = self.tokens[:], False

    def admit(self, slot: int, lease: Lease) -> None:
        self._own_tokens()
        self.state, self.slot, self.lease = "running", slot, lease
        self.computed, self.goal, self.starved = lease.shared, self.length - self.mute, False
        if self.cached is None:
            self.cached = min(lease.shared, self.prompt_len)

    def leave(self, state: State) -> None:
        """Back to the queue, or out: no slot, no lease, nothing computed. Its placeholders stay."""
        self.state, self.slot, self.lease, self.computed = state, -1, None, 0

    def advance(self, count: int) -> bool:
        """A plan computes `count` more positions; whether the last of them is sampled."""
        self.computed += count
        samples = self.computed == len(self.tokens)
        if samples:
            self.tokens.append(LAST_SAMPLED)
        return samples

    def fill(self, token: int) -> EndReason | None:
        """The oldest placeholder's token is known, or one more behind them; the reason if it is the last.

        Raises GrammarError where its grammar cannot go on.
        """
        self._own_tokens()
        if self.certain_tokens:
            self.tokens.append(token)
        else:
            self.tokens[self.known] = token
        self.known += 1
        if self.match is not None:
            self.match.push(token)
        if self._stops(token) or (self.match is not None and self.match.ended):
            return "stop"
        return "length" if self.known >= self.limit else None

    def _stops(self, token: int) -> bool:
        """Whether it ends the sequence, as its last token so far."""
        return token in self.stop_ids and self.output_len > self.request.sampling.min_tokens

    def force(self) -> int | None:
        """The next token, if the grammar leaves but one and no step is on the way to sample it.

        None where log-probabilities are wanted, or the prompt's are not told yet: they need a forward pass.
        """
        if self.match is None or not self.certain_tokens:
            return None
        if self.request.sampling.logprobs is not None or self.scoring is not None:
            return None
        return self.match.forced()

    def checked(self, right: int) -> None:
        """So many of the guesses were right: if it still runs, they are computed."""
        self.guessed = 0
        if self.lease is not None:
            self.computed += right
            self.lease.settle(self.computed)

    def over(self) -> EndReason | None:
        """Why a sequence just submitted has nothing left to do, if so (a resumed one may have said its last token)."""
        if self.output_len and self._stops(self.tokens[-1]):
            return "stop"
        if self.output_len and self.match is not None and self.match.ended:
            return "stop"
        return "length" if self.known >= self.limit and not self.mute else None

    def card(self) -> Admit:
        """What the device must know of it."""
        self.forced.clear()
        output = tuple(self.tokens[self.prompt_len :])
        return Admit(self.slot, self.request.sampling, self.seed, self.request.prompt, output, self.stop_ids)

    def usage(self) -> Usage:
        return Usage(self.prompt_len, self.output_len, self.cached or 0)


def _scoring(request: GenerateRequest, start: SeqStart) -> Scoring | None:
    if not start.score or start.output or request.sampling.prompt_logprobs is None:
        return None
    return Scoring(len(request.prompt), request.sampling.prompt_logprobs_from)
