"""Logits → tokens, by slot. Knows slots, seeds and histories; knows nothing of pages, rows of a plan, or text.

The token at absolute position t of a sequence is a function of its logits there, its record and t alone:

    logits → penalties → bias → mask → temperature → top-k → top-p → min-p → inverse CDF at u(seed, t)

so neither the batch, nor the order of calls, nor a move to another slot can change it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixmill.core.messages import TokenLogprob
from radixmill.core.plan import NO_TOKEN, Admit, Masks
from radixmill.core.request import SamplingParams
from radixmill.device.sampling.choose import Row, clean, draw
from radixmill.device.sampling.history import History, penalises, put
from radixmill.device.sampling.logprobs import token_logprob
from radixmill.device.sampling.philox import uniform

Bits = NDArray[np.uint32]  # [⌈V/32⌉], bit i of word w: whether token 32·w + i is allowed


@dataclass(slots=True)
class _Slot:
    """What a row's sampling depends on besides its logits and its position."""

    params: SamplingParams
    seed: int
    outputs: int  # tokens put out so far
    stop_ids: NDArray[np.int64]
    bias: tuple[NDArray[np.int64], NDArray[np.float64]] | None
    history: History | None  # None: no penalty looks at it

    @property
    def stops_masked(self) -> bool:
        return self.outputs < self.params.min_tokens and len(self.stop_ids) > 0

    def note(self, token: int) -> None:
        self.outputs += 1
        if self.history is not None:
            self.history.add(token)


# Part of the numerics id. Raise it with every change after which the same logits may give another token.
VERSION = "1"


class Sampler:
    """Draws the next token of each slot. One per device; `admit` and `sample` are called in the order of the plans.

    `last[slot]` is the token the slot drew last, or at admission the last of its output or prompt.
    """

    def __init__(self, vocab_size: int, slots: int) -> None:
        self.vocab_size = vocab_size
        self.last = np.zeros(slots, np.int64)  # [slots]
        self._slots: list[_Slot | None] = [None] * slots

    def admit(self, admit: Admit) -> None:
        """A sequence takes a slot; whatever held it before is forgotten."""
        params, size = admit.sampling, self.vocab_size
        self._slots[admit.slot] = _Slot(
            params=params,
            seed=admit.seed,
            outputs=len(admit.output),
            stop_ids=np.array(sorted(id for id in admit.stop_ids if 0 <= id < size), np.int64),
            bias=_bias(params, size),
            history=History(size, admit.prompt, admit.output) if penalises(params) else None,
        )
        text = admit.output or admit.prompt
        self.last[admit.slot] = text[-1] if text else 0

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
        tokens = np.empty(len(slots), np.int64)
        logprobs: list[TokenLogprob | None] = [None] * len(slots)
        wrong = False  # an assumption that this row stands on
        for row, slot in enumerate(slots.tolist()):
            if wrong:
                tokens[row], wrong = NO_TOKEN, assumed is not None and assumed[row] != NO_TOKEN
                continue
            state = self._slots[slot]
            assert state is not None, f"slot {slot} was never admitted"
            values = clean(logits[row])
            token = _choose(values, state, int(positions[row]), masks.rows.get(row) if masks else None)
            if (k := state.params.logprobs) is not None:
                logprobs[row] = token_logprob(values, token, k)
            state.note(token)
            tokens[row] = self.last[slot] = token
            wrong = assumed is not None and assumed[row] not in (NO_TOKEN, token)
        return tokens, tuple(logprobs) if any(entry is not None for entry in logprobs) else ()


def _choose(values: Row, state: _Slot, position: int, bits: Bits | None) -> int:
    row = _shaped(values, state, bits)
    best = int(row.argmax())
    if row[best] == -np.inf:
        return _lowest_allowed(len(row), state, bits)
    if state.params.greedy:
        return best
    return draw(row, state.params, uniform(state.seed, position))


def _shaped(values: Row, state: _Slot, bits: Bits | None) -> Row:
    """After penalties, bias and mask; a copy only where one of them applies."""
    if state.history is None and state.bias is None and bits is None and not state.stops_masked:
        return values
    row = values.copy()
    if state.history is not None:
        state.history.penalise(row, state.params)
    if state.bias is not None:
        ids, by = state.bias
        put(row, ids, row[ids] + by)
    if bits is not None:
        row[~_unpacked(bits, len(row))] = -np.inf
    if state.stops_masked:
        row[state.stop_ids] = -np.inf
    return row


def _lowest_allowed(size: int, state: _Slot, bits: Bits | None) -> int:
    grammar = np.ones(size, np.bool_) if bits is None else _unpacked(bits, size)
    allowed = grammar.copy()
    if state.stops_masked:
        allowed[state.stop_ids] = False
    return int((allowed if allowed.any() else grammar).argmax())


def _unpacked(bits: Bits, size: int) -> NDArray[np.bool_]:
    little = bits.astype("<u4", copy=False)
    return np.unpackbits(little.view(np.uint8), count=size, bitorder="little").view(np.bool_)


def _bias(params: SamplingParams, size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    pairs = {id: by for id, by in params.logit_bias if 0 <= id < size}
    if not pairs:
        return None
    return np.array(list(pairs), np.int64), np.array(list(pairs.values()), np.float64)
