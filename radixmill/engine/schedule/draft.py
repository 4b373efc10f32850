"""A plan in the making: which rows it has so far, and the arrays in the end."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from radixmill.core.plan import PageCopy, PageTable, StepPlan
from radixmill.engine.schedule.score import AT_ONCE
from radixmill.engine.schedule.sequence import Sequence


class Draft:
    """Rows granted so far, out of a token budget."""

    def __init__(self, budget: int) -> None:
        self.left = budget
        self.rows: dict[Sequence, int] = {}  # tokens granted, in the order of the plan's rows
        self.admitted: list[Sequence] = []
        self.scores = AT_ONCE  # positions that may still be scored
        self.guesses: dict[Sequence, array[int]] = {}  # of rows; computed behind what is granted

    def grant(self, seq: Sequence, count: int) -> None:
        self.rows[seq] = count
        self.left -= count
        if seq.scoring:
            self.scores -= seq.scoring.scored(seq.computed + count)

    def revoke(self, seq: Sequence) -> None:
        """The sequence is preempted before the plan was made."""
        self.left += self.rows.pop(seq, 0)

    def guess(self, seq: Sequence, tokens: array[int]) -> None:
        """Check these guesses behind the tokens of a row. No row is revoked after that."""
        self.guesses[seq] = tokens
        self.left -= len(tokens)

    def build(self, step: int, groups: int, page_size: int) -> StepPlan:
        """The plan. Advances every row: positions computed, a placeholder where one samples."""
        starts, counts, samples, scores = [], [], [], []
        tokens = array("q")
        tables = [_Table() for _ in range(groups)]
        admits = tuple(seq.card() for seq in self.admitted)
        forced = tuple((seq.slot, tuple(seq.forced)) for seq in self.rows if seq.forced)
        copies: list[PageCopy] = []
        for seq, count in self.rows.items():
            lease = seq.lease
            assert lease is not None
            seq.forced.clear()
            start, end = seq.computed, seq.computed + count
            starts.append(start)
            tokens.extend(seq.tokens[start:end])
            reach = end
            if guesses := self.guesses.get(seq):
                tokens.extend(guesses)
                seq.guessed = len(guesses)
                reach += seq.guessed
            counts.append(reach - start)
            copies.extend(lease.copies)
            for table, ids in zip(tables, lease.pages, strict=True):
                table.add(ids, -(-reach // page_size))
            lease.write(end, step)
            scores.append(seq.scoring.plan(end) if seq.scoring else 0)
            samples.append(seq.advance(count))
        return StepPlan(
            step=step,
            slots=_ints([seq.slot for seq in self.rows]),
            starts=_ints(starts),
            counts=_ints(counts),
            tokens=np.frombuffer(tokens, np.int64),
            samples=np.array(samples, np.bool_),
            pages=tuple(table.build() for table in tables),
            admits=admits,
            copies=tuple(copies),
            forced=forced,
            guesses=_ints([seq.guessed for seq in self.rows]) if self.guesses else None,
            scores=_ints(scores) if any(scores) else None,
        )


class _Table:
    def __init__(self) -> None:
        self.ids = array("i")
        self.starts = [0]

    def add(self, ids: array[int], count: int) -> None:
        self.ids.extend(ids if len(ids) == count else ids[:count])
        self.starts.append(len(self.ids))

    def build(self) -> PageTable:
        return PageTable(np.frombuffer(self.ids, np.int32), _ints(self.starts))


def _ints(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)
