"""Which tokens a sequence has seen, as arrays that penalties can be computed from in closed form."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from radixmill.core.request import SamplingParams
from radixmill.device.kernels.contract import Penalties


class History:
    """Distinct tokens of prompt and output, and how often each stands in the output.

    Memory is by distinct tokens, not by vocabulary. Ids outside the vocabulary (keys of media) are left out.
    """

    def __init__(self, vocab_size: int, prompt: Iterable[int], output: Iterable[int]) -> None:
        known = dict.fromkeys(token for token in prompt if 0 <= token < vocab_size)
        self._where = {token: at for at, token in enumerate(known)}
        room = max(64, 2 * len(known))
        self._ids = np.zeros(room, np.int64)
        self._counts = np.zeros(room, np.int64)
        self._ids[: len(known)] = list(known)
        for token in output:
            if 0 <= token < vocab_size:
                self.add(token)

    @property
    def ids(self) -> NDArray[np.int64]:
        return self._ids[: len(self._where)]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each of `ids` was put out; 0 for one that only the prompt has."""
        return self._counts[: len(self._where)]

    def add(self, token: int) -> None:
        """One more output token."""
        at = self._where.setdefault(token, len(self._where))
        if at == len(self._ids):
            self._ids, self._counts = (np.concatenate((a, np.zeros_like(a))) for a in (self._ids, self._counts))
        self._ids[at] = token
        self._counts[at] += 1

    def penalties(self, params: SamplingParams) -> Penalties:
        """Of the tokens seen so far; a view, until the next `add`."""
        return Penalties(
            self.ids, self.counts, params.repetition_penalty, params.frequency_penalty, params.presence_penalty
        )


def penalises(params: SamplingParams) -> bool:
    """Whether these parameters look at history at all."""
    return params.repetition_penalty != 1.0 or params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
