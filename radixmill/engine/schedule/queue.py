"""Who waits, and in which order they are asked in.

By what counts over accounts (a trusted priority); then accounts take turns, see `accounts`; within an account by priority,
then by policy:

fcfs: by arrival. lpm: by longest cached prefix; a sequence that younger ones were admitted before gains ground with each,
so that it is overtaken a bounded number of times. A preempted sequence keeps its arrival.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import NamedTuple

from radixmill.engine.schedule.accounts import Accounts
from radixmill.engine.schedule.sequence import Sequence

WINDOW = 128  # oldest sequences of an account that lpm looks at in one step
LOOK = 256  # first ones of an account that are asked in one step, however many wait
OVERTAKEN = 16  # times after which no cached prefix counts for more

_own = attrgetter("own")


class _Turn(NamedTuple):
    """An account's next sequence. The lowest turn is the first."""

    urgency: int
    bill: int
    arrival: int  # of one sequence alone: nothing behind it is ever compared
    items: list[Sequence]
    line: Iterator[Sequence] | None  # those still to be asked; None: not put in order yet
    next: Sequence


class Queue:
    """First come, first served within a priority and an account."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._items: dict[str, list[Sequence]] = {}  # by account; each by its own rank
        self._count = 0
        self.tokens = 0  # of the prompts that wait

    def __len__(self) -> int:
        return self._count

    def add(self, seq: Sequence) -> None:
        insort(self._items.setdefault(seq.request.account, []), seq, key=_own)
        self._count += 1
        self.tokens += seq.prompt_len
        self._accounts.joined(seq)

    def remove(self, seq: Sequence) -> None:
        items = self._items[seq.request.account]
        at = bisect_left(items, seq.own, key=_own)
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
        turns = [self._turn(items[0], items, None) for items in self._items.values()]
        heapify(turns)
        while turns:
            turn = heappop(turns)
            line, seq = turn.line, turn.next
            if line is None:
                line = self._line(turn.items)
                seq = next(line)
            yield seq
            if following := next(line, None):
                heappush(turns, self._turn(following, turn.items, line))

    def _turn(self, seq: Sequence, items: list[Sequence], line: Iterator[Sequence] | None) -> _Turn:
        urgency, arrival = seq.rank
        return _Turn(urgency, self._accounts.of(seq).bill, arrival, items, line, seq)

    def _line(self, items: list[Sequence]) -> Iterator[Sequence]:
        """An account's sequences as the policy has them. What has been yielded may be gone when it is asked on; nothing is
        copied, for very many may wait."""
        at = 0
        for _ in range(LOOK):
            if at >= len(items):
                return
            seq = items[at]
            yield seq
            at = bisect_right(items, seq.own, key=_own)


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
            if other.own > seq.own:
                break
            other.passed += 1

    def _line(self, items: list[Sequence]) -> Iterator[Sequence]:
        return iter(sorted(items[:WINDOW], key=self._key))

    def _key(self, seq: Sequence) -> tuple[int, int, int]:
        priority, arrival = seq.own
        return priority, -(self._matched(seq) + seq.passed * self._gain), arrival


def make_queue(policy: str, accounts: Accounts, matched: Callable[[Sequence], int], context: int) -> Queue:
    return LongestPrefix(accounts, matched, context) if policy == "lpm" else Queue(accounts)
