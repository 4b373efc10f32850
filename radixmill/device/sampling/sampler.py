"""Logits → tokens, by slot. Knows slots, seeds and histories; knows nothing of pages, rows of a plan, or text.

The token at absolute position t of a sequence is a function of its logits there, its record and t alone:

    logits → penalties → bias → mask → temperature → top-k → top-p → min-p → inverse CDF at u(seed, t)

so neither the batch, nor the order of calls, nor a move to another slot can change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixmill.core.messages import TokenLogprob
from radixmill.core.plan import NO_TOKEN, Admit, Masks
from radixmill.core.request import SamplingParams
from radixmill.device.kernels.contract import Bits, RowOps, Rule, Shaping
from radixmill.device.sampling.choose import Row, clean
from radixmill.device.sampling.history import History, penalises
from radixmill.device.sampling.logprobs import token_logprob
from radixmill.device.sampling.philox import uniform
from radixmill.device.sampling.rows import NumpyRows
from radixmill.device.sampling.shape import shaped


@dataclass(slots=True)
class _Slot:
    """What a row's sampling depends on besides its logits and its position."""

    params: SamplingParams
    seed: int
    prompt: tuple[int, ...]
    outputs: int  # tokens put out so far
    stop_ids: NDArray[np.int64]
    bias: tuple[NDArray[np.int64], NDArray[np.float64]] | None
    history: History | None  # None: no penalty looks at it

    @property
    def stops_masked(self) -> bool:
        return self.outputs < self.params.min_tokens and len(self.stop_ids) > 0

    @property
    def remembers(self) -> bool:
        """Whether the next token may depend on the last by more than the logits."""
        return self.history is not None or self.stops_masked

    def shaping(self, bits: Bits | None) -> Shaping | None:
        """What stands between the logits as they are and the rule, now."""
        if bits is None and self.bias is None and not self.remembers:
            return None
        return Shaping(
            None if self.history is None else self.history.penalties(self.params),
            self.bias,
            bits,
            self.stop_ids if self.stops_masked else None,
        )

    def processed(self, logits: Row, bits: Bits | None) -> Row:
        """A row of logits as it is before top-k: shaped, and divided by the temperature where one draws."""
        shaping = self.shaping(bits)
        row = clean(logits) if shaping is None else clean(shaped(clean(logits), shaping))
        return row if self.params.greedy else (row / self.params.temperature).astype(np.float32)

    def rule(self, position: int) -> Rule:
        """How the token at `position` is drawn from the shaped row."""
        params = self.params
        if params.greedy:
            return Rule(0.0)
        return Rule(params.temperature, params.top_k, params.top_p, params.min_p, uniform(self.seed, position))

    def note(self, token: int) -> None:
        self.outputs += 1
        if self.history is not None:
            self.history.add(token)


# Part of the numerics id. Raise it with every change after which the same logits may give another token.
VERSION = "2"


class Sampler:
    """Draws the next token of each slot. One per device; `admit` and `sample` are called in the order of the plans.

    `last[slot]` is the token the slot drew last, or at admission the last of its output or prompt. `rows` computes on rows
    of logits; without it NumPy does, to the same bits. `processed`: log-probabilities of drawn tokens are those after
    penalties, bias, mask and temperature, not the model's own.
    """

    def __init__(self, vocab_size: int, slots: int, rows: RowOps | None = None, *, processed: bool = False) -> None:
        self.vocab_size, self.processed = vocab_size, processed
        self._rows = rows or NumpyRows()
        self.last = np.zeros(slots, np.int64)  # [slots]
        self._slots: list[_Slot | None] = [None] * slots

    def admit(self, admit: Admit) -> None:
        """A sequence takes a slot; whatever held it before is forgotten."""
        params, size = admit.sampling, self.vocab_size
        self._slots[admit.slot] = _Slot(
            params=params,
            seed=admit.seed,
            prompt=admit.prompt,
            outputs=len(admit.output),
            stop_ids=np.array(sorted(id for id in admit.stop_ids if 0 <= id < size), np.int64),
            bias=_bias(params, size),
            history=History(size, admit.prompt, admit.output) if penalises(params) else None,
        )
        text = admit.output or admit.prompt
        self.last[admit.slot] = text[-1] if text else 0

    def note(self, slot: int, tokens: Sequence[int]) -> None:
        """Tokens that the slot has put out without drawing them."""
        state = self._state(slot)
        for token in tokens:
            state.note(token)
        self.last[slot] = tokens[-1]

    def sample(
        self,
        logits: NDArray[np.float32],
        slots: NDArray[np.int32],
        positions: NDArray[np.int64],
        masks: Masks | None = None,
        assumed: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], tuple[TokenLogprob | None, ...]]:
        """Draw one token for each row.

        logits [S, V], left as they are; slots [S], all different; positions [S]: where each drawn token will stand in its
        sequence. `masks.rows` is keyed by row of these arguments. Returns tokens [S] and the log-probabilities of the
        rows that want them (empty where none does).

        With `assumed` [S], a slot may have several rows, one after another: the logits of each hold only if the row before
        draws the token that is assumed of it (NO_TOKEN: nothing is). After one that did not, nothing is drawn for the
        slot's further rows: NO_TOKEN, no log-probability, no trace in its history.

        A damaged row harms no other: NaN counts as −∞, +∞ as the largest float32. Where no token is left above −∞, the
        lowest allowed id is taken (if min_tokens forbids all that the grammar allows, the grammar wins; if that allows
        nothing, id 0).
        """
        states = [self._state(slot) for slot in slots.tolist()]
        bits = masks.rows if masks else {}
        rules = [state.rule(position) for state, position in zip(states, positions.tolist(), strict=True)]
        guesses = [NO_TOKEN] * len(states) if assumed is None else assumed.tolist()
        behind = [False] + [guess != NO_TOKEN for guess in guesses[:-1]]  # stands on an assumption about the row before
        # Rows are drawn at once, in vain if an assumption is wrong, but for those that must know what came before.
        now = [row for row, state in enumerate(states) if not (behind[row] and state.remembers)]
        tokens = np.full(len(slots), NO_TOKEN, np.int64)
        tokens[now] = self._draw(logits, now, rules, [states[row].shaping(bits.get(row)) for row in now])
        told = logits.copy() if self.processed else logits  # what log-probabilities are of
        wrong = False  # an assumption that this row stands on
        for row, (state, guess) in enumerate(zip(states, guesses, strict=True)):
            if wrong:
                tokens[row], wrong = NO_TOKEN, guess != NO_TOKEN
                continue
            if tokens[row] == NO_TOKEN:
                tokens[row] = self._draw(logits, [row], rules, [state.shaping(bits.get(row))])[0]
            token = int(tokens[row])
            if self.processed and state.params.logprobs is not None:
                told[row] = state.processed(logits[row], bits.get(row))
            state.note(token)
            self.last[slots[row]] = token
            wrong = guess not in (NO_TOKEN, token)
        wanted = [
            None if token == NO_TOKEN else state.params.logprobs for token, state in zip(tokens, states, strict=True)
        ]
        return tokens, self._logprobs(told, tokens, wanted, states)

    def score(
        self, logits: NDArray[np.float32], slots: NDArray[np.int32], positions: NDArray[np.int64]
    ) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of the prompts' tokens at `positions` [S], each of slot slots[s], from the logits [S, V] before
        it. Changes nothing."""
        states = [self._state(slot) for slot in slots.tolist()]
        pairs = zip(states, positions.tolist(), strict=True)
        tokens = np.array([state.prompt[position] for state, position in pairs], np.int64)
        wanted = [state.params.prompt_logprobs or 0 for state in states]
        return tuple(entry for entry in self._logprobs(logits, tokens, wanted, states) if entry)

    def _state(self, slot: int) -> _Slot:
        state = self._slots[slot]
        assert state is not None, f"slot {slot} was never admitted"
        return state

    def _draw(
        self, logits: NDArray[np.float32], rows: list[int], rules: list[Rule], shapings: list[Shaping | None]
    ) -> NDArray[np.int64]:
        """Tokens of these rows, [N]; `rules` are those of all, `shapings` theirs alone."""
        how = np.array([rules[row] for row in rows], np.float64)
        return self._rows.draw(logits, np.array(rows, np.int32), how, shapings if any(shapings) else None)

    def _logprobs(
        self, logits: NDArray[np.float32], tokens: NDArray[np.int64], wanted: Sequence[int | None], states: list[_Slot]
    ) -> tuple[TokenLogprob | None, ...]:
        """Of the rows that want them, of these logits; `wanted` [S]: how many besides the token's."""
        counts = {row: min(k, logits.shape[1]) for row, k in enumerate(wanted) if k is not None}
        if not counts:
            return ()
        ranks = self._rows.rank(logits, np.array(list(counts), np.int32), max(counts.values()))
        entries: list[TokenLogprob | None] = [None] * len(wanted)
        for at, (row, k) in enumerate(counts.items()):
            named = states[row].params.logprob_ids
            values = zip(named, logits[row, list(named)].tolist(), strict=True) if named else ()
            entries[row] = token_logprob(ranks, at, float(logits[row, tokens[row]]), k, values)
        return tuple(entries)


def _bias(params: SamplingParams, size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    pairs = {id: by for id, by in params.logit_bias if 0 <= id < size}
    if not pairs:
        return None
    return np.array(list(pairs), np.int64), np.array(list(pairs.values()), np.float64)
