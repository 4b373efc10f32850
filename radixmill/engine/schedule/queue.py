"""Who waits, and in which order they are asked in.

fcfs: by priority, then arrival. lpm: by priority, then longest cached prefix; a sequence that younger ones were admitted
before gains ground with each, so that it is overtaken a bounded number of times. A preempted sequence keeps its arrival.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from operator import attrgetter

from radixmill.engine.schedule.sequence import Sequence

WINDOW = 128  # oldest sequences that lpm looks at in one step
OVERTAKEN = 16  # times after which no cached prefix counts for more

_rank = attrgetter("rank")


class Queue:
    """First come, first served within a priority."""

    def __init__(self) -> None:
        self._items: list[Sequence] = []  # by rank
        self.tokens = 0  # of the prompts that wait

    def __len__(self) -> int:
        return len(self._items)

    def add(self, seq: Sequence) -> None:
        insort(self._items, seq, key=_rank)
        self.tokens += seq.prompt_len

    def remove(self, seq: Sequence) -> None:
        at = bisect_left(self._items, seq.rank, key=_rank)
        assert self._items[at] is seq
        del self._items[at]
        self.tokens -= seq.prompt_len

    def take(self, seq: Sequence) -> None:
        """It leaves because it is admitted."""
        self.remove(seq)

    def order(self) -> list[Sequence]:
        """The order in which to try admission now."""
        return list(self._items)


class LongestPrefix(Queue):
    """Longest cached prefix first within a priority, with ageing."""

    def __init__(self, matched: Callable[[Sequence], int], context: int) -> None:
        """`matched`: how many tokens of a sequence are cached now, at most `context`."""
        super().__init__()
        self._matched = matched
        self._gain = -(-context // OVERTAKEN)

    def take(self, seq: Sequence) -> None:
        super().take(seq)
        for other in self._items:
            if other.rank > seq.rank:
                break
            other.passed += 1

    def order(self) -> list[Sequence]:
        return sorted(self._items[:WINDOW], key=self._key)

    def _key(self, seq: Sequence) -> tuple[int, int, int]:
        priority, arrival = seq.rank
        return priority, -(self._matched(seq) + seq.passed * self._gain), arrival


def make_queue(policy: str, matched: Callable[[Sequence], int], context: int) -> Queue:
    return LongestPrefix(matched, context) if policy == "lpm" else Queue()
