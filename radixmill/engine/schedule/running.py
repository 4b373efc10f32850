"""The rows of the device: which sequence has which slot."""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter
from typing import NamedTuple

from radixmill.engine.schedule.accounts import Accounts
from radixmill.engine.schedule.sequence import Sequence

_rank, _own = attrgetter("rank"), attrgetter("own")


class Turns(NamedTuple):
    """Rows that can use a grant, in their order."""

    streams: list[Sequence]  # those that want a single token
    prompts: list[Sequence]


class Running:
    """Sequences that hold a slot, by rank: the first is the last to be preempted."""

    def __init__(self, slots: int, accounts: Accounts) -> None:
        self._accounts = accounts
        self.rows: list[Sequence] = []
        self._slots = list(range(slots - 1, -1, -1))

    @property
    def free_slots(self) -> int:
        return len(self._slots)

    @property
    def last(self) -> Sequence:
        """Who is preempted next: of the account whose row is the last, the youngest of the lowest priority. Never the first
        row, unless it is alone."""
        last = self.rows[-1]
        account, urgency = last.request.account, last.rank[0]
        able = (seq for seq in self.rows[1:] if seq.request.account == account and seq.rank[0] == urgency)
        return max(able, key=_own, default=last)

    @property
    def decoding(self) -> int:
        """Rows that want a single token."""
        return sum(seq.behind == 1 for seq in self.rows)

    def by_turn(self) -> Turns:
        """Who can use a grant: single tokens first, so that no stream waits for a prompt; each by priority, prompts then by
        whose account has had least, and by rank.

        Not who has its last token on the way, or guesses: what comes after them is not known.
        """
        able = [(seq, seq.behind) for seq in self.rows if not seq.full and not seq.guessed]
        prompts = self._accounts.by_service(seq for seq, behind in able if behind > 1)
        return Turns([seq for seq, behind in able if behind == 1], prompts)

    def slot(self) -> int:
        return self._slots.pop()

    def add(self, seq: Sequence) -> None:
        insort(self.rows, seq, key=_rank)

    def remove(self, seq: Sequence) -> None:
        at = bisect_left(self.rows, seq.rank, key=_rank)
        assert self.rows[at] is seq
        del self.rows[at]
        self._slots.append(seq.slot)
