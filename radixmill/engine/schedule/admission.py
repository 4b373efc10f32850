"""Who of the queue gets a slot."""

from __future__ import annotations

from itertools import islice

from radixmill.engine.cache import Lease
from radixmill.engine.schedule.draft import Draft
from radixmill.engine.schedule.patience import Patience
from radixmill.engine.schedule.room import Holdings, Room
from radixmill.engine.schedule.sequence import Sequence
from radixmill.engine.schedule.sharing import find_leader, should_wait

FORESEEN = 16  # of the queue's first


class Admission:
    """Asks those that wait, in the order of the queue."""

    def __init__(self, holdings: Holdings, room: Room, patience: Patience) -> None:
        self._cache, self._accounts, self._queue, self._running, self._counters = holdings
        self._room, self._patience = room, patience
        self._foreseen = (0, 0)  # admissions, and how many waited
        self._crowded = False  # somebody found no room in the last step

    def make_way(self) -> None:
        """Where there is no place for who is next: one whose account is far ahead gives its own up, and goes on later."""
        full = self._crowded or not self._running.free_slots
        self._crowded = False
        if not full or not self._queue or len(self._accounts) < 2:
            return
        first = next(self._queue.order())
        if first.landing or first.ahead:  # it would not take it
            return
        if victim := self._accounts.gives_way(first, self._running.rows):
            self._room.preempt(victim, Draft(0))

    def admit(self, draft: Draft, before: Sequence | None = None) -> None:
        """Give slots to waiting sequences, in the order of the queue, until one does not fit; `before`: only while they go
        before this one, whose prompt is being computed."""
        if not self._may(draft):
            return
        for seq in self._queue.order():
            if before and not self._accounts.goes_before(seq, before):
                return
            if seq.landing or (self._cache.reuse and should_wait(seq, self._running.rows, self._cache)):
                continue
            if not self.open(seq, draft) or not self._may(draft):
                return

    def foresee(self) -> None:
        """Where there are windows: have those who compute what the queue's first will need keep it for them. They may not be
        asked, for want of tokens or slots, before it has slid out."""
        now = self._counters.admissions, len(self._queue)
        if now == self._foreseen or not self._cache.pools.windows or not self._cache.reuse:
            return
        self._foreseen = now
        for seq in islice(self._queue.order(), FORESEEN):
            find_leader(seq, self._running.rows, self._cache)

    def _may(self, draft: Draft) -> bool:
        return draft.left > 0 and self._running.free_slots > 0 and len(self._queue) > 0

    def open(self, seq: Sequence, draft: Draft, *, crowd: bool = True) -> bool:
        """A lease, a slot and the first tokens for a waiting sequence; on False it waits on. `crowd`: only if there is
        room for what those that run will need."""
        lease = self._cache.open(seq.namespace, seq.matchable)
        count = self._room.fitting(seq, lease.shared, draft)
        crowded = crowd and self._running.rows and not self._cache.fits(lease, seq.length, self._promised())
        if crowded or not self._room.grow(lease, lease.shared + count):
            lease.drop()
            self._crowded = True
            self._room.must_wait(seq)
            return False
        self._accounts.admitted(seq, lease.shared)
        self._patience.met(seq)
        self._queue.take(seq)
        seq.admit(self._running.slot(), lease)
        self._running.add(seq)
        draft.admitted.append(seq)
        draft.grant(seq, count)
        self._counters.admissions += 1
        self._counters.reused_tokens += lease.shared
        return True

    def _promised(self) -> list[tuple[Lease, int]]:
        """Running sequences, and how far they will soon want room: for the rest of their prefill."""
        return [(seq.lease, seq.goal) for seq in self._running.rows if seq.lease]
