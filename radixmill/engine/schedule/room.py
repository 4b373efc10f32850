"""Pages for the rows of a step, and who makes room for whom.

Always progress: the first of `running` (highest priority, then oldest) is never preempted, and preempting all others
leaves it every page of the pool, which core.config sized for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from radixmill.engine.cache import Cache, Lease
from radixmill.engine.schedule.accounts import Accounts
from radixmill.engine.schedule.counters import Counters
from radixmill.engine.schedule.draft import Draft
from radixmill.engine.schedule.queue import Queue
from radixmill.engine.schedule.running import Running
from radixmill.engine.schedule.sequence import Sequence


class Holdings(NamedTuple):
    """Who waits, who runs, and what of: shared by all that decide about it."""

    cache: Cache
    accounts: Accounts
    queue: Queue
    running: Running
    counters: Counters


class Room:
    """Grants tokens to running sequences where there are pages for them, or can be."""

    def __init__(self, holdings: Holdings, page_size: int, fail: Callable[[Sequence, str], None]) -> None:
        """`fail` ends a sequence that can't have what it needs, and says why."""
        self._cache, self._accounts, self._queue, self._running, self._counters = holdings
        self._page_size, self._fail = page_size, fail

    def grant(self, seq: Sequence, draft: Draft) -> None:
        """Give a running sequence its tokens, if there are pages for them."""
        if seq.state != "running" or not draft.left:
            return
        count = self.fitting(seq, seq.computed, draft)
        if self._make(seq, seq.computed + count, draft):
            draft.grant(seq, count)

    def fitting(self, seq: Sequence, computed: int, draft: Draft) -> int:
        """Tokens that a step may compute of a sequence, of which so many are computed."""
        count = chunk(computed, seq.length - seq.mute - computed, draft.left, self._page_size)
        return seq.scoring.fit(computed, count, draft.scores) if seq.scoring else count

    def _make(self, seq: Sequence, upto: int, draft: Draft) -> bool:
        """Pages for positions below `upto`, preempting from the end of the line if there are none."""
        assert seq.lease is not None
        while not self.grow(seq.lease, upto):
            if not seq.starved and self._cache.awaits(seq.lease.need(upto)):
                seq.starved = True  # pages are on their way; ask for a victim if they were too few
                return False
            victim = self._running.last
            if victim is seq:
                self.must_wait(seq)
                return False
            seq.starved = False
            self.preempt(victim, draft)
        seq.starved = False
        return True

    def grow(self, lease: Lease, upto: int) -> bool:
        """`lease.grow`, and if that fails for want of pages that forget nothing, once more with an empty cache.

        Forgetting branches that have no page of their own lets held prefixes merge their ragged tails, which the count
        of evictable pages does not foresee; and what is left of the cache is worth less than a running sequence's KV.
        """
        if lease.grow(upto):
            return True
        return lease.need(upto) > self._cache.available and self._cache.flush() > 0 and lease.grow(upto)

    def must_wait(self, seq: Sequence) -> None:
        """There is no page for it: the others that run go first. Were there none, it would wait for ever."""
        others = len(self._running.rows) - (seq.state == "running")
        if not others and not self._cache.deferred:
            self.too_small(seq)

    def too_small(self, seq: Sequence) -> None:
        """It has all the room there is, and needs more."""
        self._fail(seq, "the KV cache is too small for this sequence")

    def preempt(self, victim: Sequence, draft: Draft) -> None:
        """Drop its KV, keep its record; back to its place in the queue. The tree keeps its finished pages while it can."""
        assert victim.lease is not None
        draft.revoke(victim)
        self._running.remove(victim)
        self._accounts.stopped(victim)
        victim.lease.drop()
        victim.leave("waiting")
        self._queue.add(victim)
        self._counters.preemptions += 1


def chunk(computed: int, behind: int, budget: int, page_size: int) -> int:
    """Tokens for one row: all that are left, or as many as the budget has, then to a page's end if it reaches one."""
    if behind <= budget:
        return behind
    end = computed + budget
    whole = end - end % page_size
    return whole - computed if whole > computed else budget
