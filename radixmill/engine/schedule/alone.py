"""Sequences over which engines have died run in steps of their own: if that kills us too, they are the cause."""

from __future__ import annotations

from radixmill.engine.schedule.admission import Admission
from radixmill.engine.schedule.draft import Draft
from radixmill.engine.schedule.room import Room
from radixmill.engine.schedule.running import Running
from radixmill.engine.schedule.sequence import Sequence


class Alone:
    """Those in the queue or running that must run alone, each until it has said something."""

    def __init__(self, running: Running, room: Room, admission: Admission) -> None:
        self._running, self._room, self._admission = running, room, admission
        self._seqs: set[Sequence] = set()

    def __len__(self) -> int:
        return len(self._seqs)

    def add(self, seq: Sequence) -> None:
        self._seqs.add(seq)

    def free(self, seq: Sequence) -> None:
        """It need not run alone any more."""
        seq.alone = False
        self._seqs.discard(seq)

    def fill(self, draft: Draft) -> None:
        """Grant a step to the first of them and to nothing else; only while no other step flies.

        It goes before all others, which wait. Room is made by preempting them: as no step flies, nothing is on its way
        that would free a page. So it has, like the first of the line else, the whole pool.
        """
        seq = min(self._seqs, key=lambda seq: seq.rank)
        while seq in self._seqs and not draft.rows:
            others = [other for other in self._running.rows if other is not seq]
            self._try(seq, draft, last=not others)
            if others and not draft.rows:
                self._room.preempt(others[-1], draft)

    def _try(self, seq: Sequence, draft: Draft, *, last: bool) -> None:
        """Grant it a step if there is a slot, and pages. `last`: nobody is left who could be preempted for it."""
        if seq.state == "running":
            assert seq.lease is not None
            count = self._room.fitting(seq, seq.computed, draft)
            if self._room.grow(seq.lease, seq.computed + count):
                draft.grant(seq, count)
        elif self._running.free_slots:
            self._admission.open(seq, draft, crowd=False)
        if last and not draft.rows and seq.state != "ended":
            self._room.too_small(seq)
