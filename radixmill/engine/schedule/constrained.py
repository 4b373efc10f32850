"""Sequences under a grammar or a thinking budget: those that wait until it is built, and the masks of those that run.

    waiting for the grammar ──▶ bound (a matcher that knows the output so far) ──▶ the queue, like any other

A matcher is state that the record gives back: it is made of the constraint and fed the output. So nothing of it is kept
when a sequence is resumed, and a preempted sequence may keep its own. A thinking budget is a matcher before the grammar's,
or by itself; then it is a grammar of anything that knows the model's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from radixmill.core.plan import Masks
from radixmill.core.request import Constraint
from radixmill.engine.grammar import Built, GrammarError, Grammars, Matcher, Refused, Thinking
from radixmill.engine.schedule.sequence import Sequence

Failures = dict[Sequence, GrammarError]
_ANYTHING = Constraint(kind="regex")  # built for its vocabulary alone


class _Step(NamedTuple):
    rows: dict[Sequence, int]
    ready: frozenset[Sequence]  # those that `filled` is about
    filled: Future[Failures]


class Constrained:
    """Owned by the scheduler."""

    def __init__(self, grammars: Grammars | None, vocab_size: int, slots: int) -> None:
        """`grammars`: None where no constraint can be had; sequences that want one are refused."""
        self._grammars = grammars
        self._waiting: dict[Sequence, None] = {}
        self._masks = np.zeros((slots, -(-vocab_size // 32)), np.uint32)  # by slot
        self._ahead = ThreadPoolExecutor(1, "masks") if grammars else None
        self._steps: dict[int, _Step] = {}

    # --- before a sequence may run

    def bind(self, seq: Sequence) -> bool:
        """Give a sequence its matcher, if its grammar is there; else it waits. Raises GrammarError where there is none."""
        if self._grammars is None:
            raise GrammarError("this engine has no grammars")
        match self._grammars.want(seq.request.constraint or _ANYTHING, seq.id):
            case Refused(reason, place):
                raise GrammarError(reason, place)
            case Built() as built:
                seq.match = _match(built, seq)
                return True
        self._waiting[seq] = None
        return False

    def waiting(self) -> Iterator[Sequence]:
        """Those that wait, taken off the list: bind them again."""
        waiting, self._waiting = self._waiting, {}
        yield from waiting

    def forget(self, seq: Sequence) -> None:
        """It has ended while it waited."""
        self._waiting.pop(seq, None)

    # --- masks

    def begin(self, step: int, rows: dict[Sequence, int]) -> None:
        """Fill the masks of a step while its forward pass runs, for rows that await no token of a step before it.

        `rows`: sequence → row of the plan, of those that sample under a grammar.
        """
        if not rows:
            return
        assert self._ahead is not None
        ready = frozenset(seq for seq in rows if seq.known == len(seq.tokens) - 1)
        self._steps[step] = _Step(rows, ready, self._ahead.submit(self._fill, ready))

    def masks(self, step: int) -> tuple[Masks | None, Failures]:
        """Masks of the rows that are still live, and those whose grammar has gone beyond its limits."""
        if (begun := self._steps.pop(step, None)) is None:
            return None, {}
        live = [seq for seq in begun.rows if seq.state != "ended" and seq.match and not seq.match.free]
        failed = begun.filled.result() | self._fill(seq for seq in live if seq not in begun.ready)
        return Masks({begun.rows[seq]: self._mask(seq) for seq in live if seq not in failed}), failed

    def _fill(self, seqs: Iterable[Sequence]) -> Failures:
        failed: Failures = {}
        for seq in seqs:
            assert seq.match is not None
            try:
                seq.match.fill(self._mask(seq))
            except GrammarError as error:
                failed[seq] = error
        return failed

    def _mask(self, seq: Sequence) -> NDArray[np.uint32]:
        return self._masks[seq.slot]


def _match(built: Built, seq: Sequence) -> Matcher | Thinking:
    """Where a sequence stands, behind what it has said."""
    constraint, budget = seq.request.constraint, seq.request.thinking
    output = seq.tokens[seq.prompt_len :].tolist()
    after = constraint.after if constraint else ""
    if budget is None:
        return built.matcher(output, seq.stop_ids, after)
    inner = built.matcher((), seq.stop_ids, after) if constraint else None
    return Thinking(built.vocabulary, budget, inner, output)
