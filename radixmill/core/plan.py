"""All the device needs for one step, and what comes back. Arrays are NumPy on the host.

Alphabet: R rows of the step (one per sequence that runs in it), T tokens of the step, P page size, V vocabulary.

A row may end with guesses: tokens that nobody has sampled yet, computed at once in the hope that they will be. Sampling
draws a token after the last certain one; while it is what was guessed, the token after that guess is drawn as well. So a
row with g guesses draws 1 … g + 1 tokens, the same as g + 1 steps would; KV written for a wrong guess is never read.

A row may score prompt tokens: the logits at a position give the log-probability of the token that follows in the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radixmill.core.messages import TokenLogprob
from radixmill.core.request import SamplingParams
from radixmill.core.spec import ModelSpec

LAST_SAMPLED = -1  # in StepPlan.tokens: the token this slot sampled in the step before, which only the device knows
NO_TOKEN = -1  # in StepResult.tokens: nothing was drawn


Run = tuple[tuple[int, ...], tuple[TokenLogprob, ...] | None]  # tokens of one row, and their log-probabilities


@dataclass(frozen=True, slots=True)
class Admit:
    """A sequence takes a slot: what its sampler must know. `output` is what it has said before (resumed, preempted)."""

    slot: int
    sampling: SamplingParams
    seed: int
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    stop_ids: frozenset[int]  # tokens that end it; masked until min_tokens are out


@dataclass(frozen=True, slots=True)
class PageCopy:
    """Before the forward pass: copy the first `tokens` positions of page `src` to page `dst`, in every layer of the group."""

    group: int
    src: int
    dst: int
    tokens: int


@dataclass(frozen=True, slots=True)
class PageTable:
    """The pages of each row, flat: row r has ids[starts[r]:starts[r + 1]], which cover its positions from 0 on."""

    ids: NDArray[np.int32]  # [Σ]
    starts: NDArray[np.int32]  # [R + 1]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Row r computes positions [starts[r], starts[r] + counts[r]) of the sequence in slot slots[r]."""

    step: int
    slots: NDArray[np.int32]  # [R]
    starts: NDArray[np.int32]  # [R]
    counts: NDArray[np.int32]  # [R], ≥ 1, sum = T
    tokens: NDArray[np.int64]  # [T] row after row; LAST_SAMPLED where the device holds the token
    samples: NDArray[np.bool_]  # [R] whether the row's last position is sampled
    pages: tuple[PageTable, ...]  # per KV group; row r's pages cover [0, starts[r] + counts[r])
    admits: tuple[Admit, ...] = ()  # before anything else
    copies: tuple[PageCopy, ...] = ()
    forced: tuple[tuple[int, tuple[int, ...]], ...] = ()  # (slot, its tokens that a grammar chose since the last plan)
    guesses: NDArray[np.int32] | None = None  # [R] how many of each row's last tokens are guesses; None: none anywhere
    scores: NDArray[np.int32] | None = (
        None  # [R] how many positions, the last before what is sampled, score their next token
    )

    @property
    def rows(self) -> int:
        return len(self.slots)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step sampled: for each row one token, and one more for each of its guesses; NO_TOKEN where none was drawn."""

    step: int
    tokens: NDArray[np.int64]  # [D] row after row; D = R + all guesses
    logprobs: tuple[TokenLogprob | None, ...] = ()  # [D], or empty where no row wants any
    seconds: float = 0.0
    scores: tuple[TokenLogprob, ...] = ()  # [all scores] row after row, by position

    def runs(self, plan: StepPlan) -> list[Run]:
        """What each row of the plan drew, without the NO_TOKENs."""
        tokens = self.tokens.tolist()
        if plan.guesses is None and not self.logprobs:
            return [((token,), None) for token in tokens]
        widths = np.ones(plan.rows, np.int32) if plan.guesses is None else plan.guesses + 1
        ends = np.cumsum(widths).tolist()
        return [self._run(tokens, start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def scored(self, plan: StepPlan) -> list[tuple[TokenLogprob, ...]]:
        """What each row of the plan scored."""
        if plan.scores is None:
            return [()] * plan.rows
        ends = np.cumsum(plan.scores).tolist()
        return [self.scores[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _run(self, tokens: list[int], start: int, end: int) -> Run:
        drawn = tuple(token for token in tokens[start:end] if token != NO_TOKEN)
        return drawn, tuple(entry for entry in self.logprobs[start:end] if entry) or None


@dataclass(frozen=True, slots=True)
class Masks:
    """Grammar masks for the sampled rows: packed bits, 1 = allowed."""

    rows: dict[int, NDArray[np.uint32]] = field(default_factory=dict)  # row → [⌈V/32⌉]


class Ticket(Protocol):
    """A launched step."""

    def sample(self, masks: Masks | None) -> None:
        """Draw the tokens; masks may have been filled while the forward pass ran."""

    def result(self) -> StepResult:
        """Wait for the tokens. Called once, after `sample`."""


class Executor(Protocol):
    """Runs plans, in the order they are launched."""

    spec: ModelSpec

    def launch(self, plan: StepPlan) -> Ticket: ...

    def stats(self) -> dict[str, Any]: ...

    def close(self) -> None: ...
