"""Who waits, and in which order they are asked in.

By priority; then accounts take turns, see `accounts`; and within an account by policy:

fcfs: by arrival. lpm: by longest cached prefix; a sequence that younger ones were admitted before gains ground with each,
so that it is overtaken a bounded number of times. A preempted sequence keeps its arrival.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import NamedTuple

from radixmill.engine.schedule.accounts import Accounts
from radixmill.engine.schedule.sequence import Sequence

WINDOW = 128  # oldest sequences of an account that lpm looks at in one step
OVERTAKEN = 16  # times after which no cached prefix counts for more

_rank = attrgetter("rank")


class _Turn(NamedTuple):
    """An account's next sequence. The lowest turn is the first."""

    priority: int
    bill: int
    arrival: int  # of one sequence alone: nothing behind it is ever compared
    items: list[Sequence]
    line: list[Sequence]  # those still to be asked, the next one last; empty: not put in order yet


class Queue:
    """First come, first served within a priority and an account."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._items: dict[str, list[Sequence]] = {}  # by account; each by rank
        self._count = 0
        self.tokens = 0  # of the prompts that wait

    def __len__(self) -> int:
        return self._count

    def add(self, seq: Sequence) -> None:
        insort(self._items.setdefault(seq.request.account, []), seq, key=_rank)
        self._count += 1
        self.tokens += seq.prompt_len
        self._accounts.joined(seq)

    def remove(self, seq: Sequence) -> None:
        items = self._items[seq.request.account]
        at = bisect_left(items, seq.rank, key=_rank)
        assert items[at] is seq
        del items[at]
        if not items:
            del self._items[seq.request.account]
        self._count -= 1
        self.tokens -= seq.prompt_len
        self._accounts.left(seq)

    def take(self, seq: Sequence) -> None:
        """It leaves because it is admitted."""
        self.remove(seq)

    def order(self) -> Iterator[Sequence]:
        """The order in which to try admission now. Who has been yielded may be taken; its account then pays for it before
        it is asked again."""
        turns = [self._turn(items[0], items, []) for items in self._items.values()]
        heapify(turns)
        while turns:
            turn = heappop(turns)
            line = turn.line or self._line(turn.items)
            yield line.pop()
            if line:
                heappush(turns, self._turn(line[-1], turn.items, line))

    def _turn(self, seq: Sequence, items: list[Sequence], line: list[Sequence]) -> _Turn:
        priority, arrival = seq.rank
        return _Turn(priority, self._accounts.of(seq).bill, arrival, items, line)

    def _line(self, items: list[Sequence]) -> list[Sequence]:
        """An account's sequences as the policy has them, last first."""
        return items[::-1]


class LongestPrefix(Queue):
    """Longest cached prefix first within a priority and an account, with ageing."""

    def __init__(self, accounts: Accounts, matched: Callable[[Sequence], int], context: int) -> None:
        """`matched`: how many tokens of a sequence are cached now, at most `context`."""
        super().__init__(accounts)
        self._matched = matched
        self._gain = -(-context // OVERTAKEN)

    def take(self, seq: Sequence) -> None:
        super().take(seq)
        for other in self._items.get(seq.request.account, ()):
            if other.rank > seq.rank:
                break
            other.passed += 1

    def _line(self, items: list[Sequence]) -> list[Sequence]:
        return sorted(items[:WINDOW], key=self._key, reverse=True)

    def _key(self, seq: Sequence) -> tuple[int, int, int]:
        priority, arrival = seq.rank
        return priority, -(self._matched(seq) + seq.passed * self._gain), arrival


def make_queue(policy: str, accounts: Accounts, matched: Callable[[Sequence], int], context: int) -> Queue:
    return LongestPrefix(accounts, matched, context) if policy == "lpm" else Queue(accounts)
