"""How much may be in, and how long it takes until there is room again. Knows no requests, only their sizes.

    taken ── enters, and is weighed ──▶ waits (its prompts' tokens count) ── begins to answer ──▶ runs ── leaves ──▶

Three bounds: requests that are in, their sequences, and tokens of prompts whose answers have not begun. All rates are
measured while something is there to leave, over the monotonic clock; Retry-After follows from them.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from msgspec import Struct

from radixmill.core.errors import Overloaded, RequestTimeout

MEMORY = 10.0  # seconds of which a rate tells
SOONEST, LATEST = 1.0, 60.0  # seconds, of Retry-After
SHARE = 8  # an account with a key may hold so many times what would still be free, while there are others
LATELY = 60.0  # seconds for which an account that has come counts as there

Clock = Callable[[], float]


class Bounds(Struct, frozen=True, kw_only=True):
    """Of what one session takes."""

    requests: int = 1024  # that are in
    sequences: int = 16_384  # of requests that are in: their prompts × choices
    tokens: int = 1 << 20  # of prompts whose answers have not begun
    prompt: int | None = None  # tokens of one prompt; None: what the context holds
    wait: float | None = None  # seconds until a request's first step
    seconds: float | None = None  # that a request may take in all


class Drain:
    """One kind of thing that is in: how much, how much may be, and how fast it leaves."""

    def __init__(self, most: int, clock: Clock) -> None:
        self.most, self.held = most, 0
        self._clock, self._at = clock, clock()
        self._left = self._seconds = 0.0  # what has left in how long, the past fading
        self._shares: defaultdict[str, int] = defaultdict(int)  # by account

    def add(self, amount: int, account: str) -> None:
        self._tick()
        self.held += amount
        self._shares[account] += amount

    def remove(self, amount: int, account: str) -> None:
        self._tick()
        self.held -= amount
        self._left += amount
        self._shares[account] -= amount
        if not self._shares[account]:
            del self._shares[account]

    def fits(self, amount: int, account: str, *, alone: bool = False) -> bool:
        """Whether so much more may be in. An account leaves room for others, unless it is `alone`; whoever is the first
        always fits."""
        if not self.held:
            return self.most > 0
        free = self.most - self.held - amount
        mine = self._shares.get(account, 0)
        return free >= 0 and (alone or not account or not mine or mine + amount <= SHARE * (free + 1))

    def seconds_until(self, amount: int) -> float:
        """About how long until so much more fits; SOONEST while nothing is known."""
        self._tick()
        if not self._left:
            return SOONEST
        over = max(self.held + amount - self.most, 1)
        return min(max(over * self._seconds / self._left, SOONEST), LATEST)

    def _tick(self) -> None:
        """Time counts only while something is there."""
        now = self._clock()
        elapsed, self._at = now - self._at, now
        if self.held:
            fade = math.exp(-elapsed / MEMORY)
            self._left *= fade
            self._seconds = self._seconds * fade + MEMORY * (1 - fade)


class Visits:
    """Which accounts have come lately, as far as that must be known: the last one, and the last other one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last, self._other = ("", -math.inf), ("", -math.inf)  # account, when

    def note(self, account: str) -> None:
        if account != self._last[0]:
            self._other = self._last
        self._last = account, self._clock()

    def only(self, account: str) -> bool:
        """Nobody else has come lately."""
        _, at = self._last if self._last[0] != account else self._other
        return self._clock() - at > LATELY


class Door:
    """Of one session. Every request that is taken has a Place."""

    def __init__(self, limits: Bounds, clock: Clock = time.monotonic) -> None:
        self.limits = limits
        self.requests, self.tokens = Drain(limits.requests, clock), Drain(limits.tokens, clock)
        self.sequences, self.visits = Drain(limits.sequences, clock), Visits(clock)
        self.counts: Counter[str] = Counter()  # of what was refused or ended here, by why

    def check(self, account: str = "") -> None:
        """Raise Overloaded if no request more fits. Costs nothing: ask before any work is done for it."""
        self.visits.note(account)
        self._admit(self.requests, 1, account, "requests", "requests in flight")

    def enter(self, account: str = "") -> Place:
        """Raises Overloaded."""
        self.check(account)
        return Place(self, account)

    def stats(self) -> dict[str, int]:
        """For /server_info."""
        rejected = ("rejected_requests", "rejected_sequences", "rejected_tokens")
        names = (*rejected, "expired_requests", "timed_out_requests")
        held = {
            "live_requests": self.requests.held,
            "live_sequences": self.sequences.held,
            "queued_tokens": self.tokens.held,
        }
        return held | {name: self.counts[name] for name in names}

    def weigh(self, amount: int, account: str) -> None:
        """Raise Overloaded if so many tokens of prompts more do not fit."""
        self._admit(self.tokens, amount, account, "tokens", "prompt tokens waiting")

    def count(self, amount: int, account: str) -> None:
        """Raise Overloaded if so many sequences more do not fit."""
        self._admit(self.sequences, amount, account, "sequences", "sequences in flight")

    def _admit(self, drain: Drain, amount: int, account: str, kind: str, what: str) -> None:
        if drain.fits(amount, account, alone=self.visits.only(account)):
            return
        self.counts[f"rejected_{kind}"] += 1
        seconds = drain.seconds_until(amount)
        raise Overloaded(
            f"This server is at its limit of {what}. Try again in {math.ceil(seconds)} s.", retry_after=seconds
        )


class Place:
    """One request that is in: an Ask, or several of one batch."""

    def __init__(self, door: Door, account: str) -> None:
        self._door, self._account = door, account
        self._waiting: dict[str, dict[int, int]] = {}  # tokens, by the id of an Ask and the prompt's number
        self._sequences: dict[str, int] = {}  # by the id of an Ask
        self._requests = 1
        door.requests.add(1, account)

    def count(self, id: str, sequences: int) -> None:
        """So many has an Ask. Raises Overloaded; whoever is in alone never has too many."""
        drain = self._door.sequences
        if drain.held > sum(self._sequences.values()):
            self._door.count(sequences, self._account)
        self._sequences[id] = sequences
        drain.add(sequences, self._account)

    def weigh(self, id: str, tokens: Sequence[int]) -> None:
        """So many has each prompt of an Ask. Raises Overloaded; whoever waits alone never is too much."""
        amount, drain = sum(tokens), self._door.tokens
        if drain.held > sum(sum(prompts.values()) for prompts in self._waiting.values()):
            self._door.weigh(amount, self._account)
        self._waiting[id] = dict(enumerate(tokens))
        drain.add(amount, self._account)

    def begun(self, id: str, prompt: int) -> None:
        """A prompt is being answered. Idempotent."""
        if tokens := self._waiting.get(id, {}).pop(prompt, 0):
            self._door.tokens.remove(tokens, self._account)

    def leave(self, id: str) -> None:
        """An Ask is over, or did not come to be; the last one gives the place back. Idempotent."""
        for prompt in list(self._waiting.get(id, ())):
            self.begun(id, prompt)
        self._waiting.pop(id, None)
        if sequences := self._sequences.pop(id, 0):
            self._door.sequences.remove(sequences, self._account)
        if self._requests and not self._sequences and not self._waiting:
            self._requests = 0
            self._door.requests.remove(1, self._account)

    def expired(self) -> Overloaded:
        """What to say of a request that waited too long for its first step."""
        self._door.counts["expired_requests"] += 1
        wait, seconds = self._door.limits.wait, self._door.tokens.seconds_until(0)
        limit = "longer than it may" if wait is None else f"longer than {wait:g} s"
        return Overloaded(f"The request waited {limit} for its turn. Try again later.", retry_after=seconds)

    def overdue(self, seconds: float) -> RequestTimeout:
        """What to say of a request that took longer than it may."""
        self._door.counts["timed_out_requests"] += 1
        return RequestTimeout(seconds)
