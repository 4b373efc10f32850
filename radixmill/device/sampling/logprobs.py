"""Log-probabilities of one row: the log-softmax of the model's own logits."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from radixmill.core.messages import TokenLogprob
from radixmill.device.kernels.contract import Ranks
from radixmill.device.sampling.choose import HIGHEST, UNITS


def token_logprob(ranks: Ranks, at: int, logit: float, k: int, named: Iterable[tuple[int, float]] = ()) -> TokenLogprob:
    """Of row `at` of `ranks`: the chosen token's log-probability, whose logit it had, the k most likely's, and those of
    the `named` (id, logit)s.

    By (−logprob, id); rounded to float32. −∞ stays −∞. Where the whole row is −∞ there is no distribution: all are −∞.
    """
    norm = _log_sum_exp(float(ranks.peaks[at]), int(ranks.masses[at]))
    best = zip(ranks.ids[at, :k].tolist(), ranks.logits[at, :k].tolist(), strict=True)
    return TokenLogprob(
        _minus(_clean(logit), norm),
        tuple((id, _minus(value, norm)) for id, value in best),
        tuple((id, _minus(_clean(value), norm)) for id, value in named),
    )


def _clean(logit: float) -> float:
    return -math.inf if math.isnan(logit) else min(logit, HIGHEST)


def _log_sum_exp(peak: float, mass: int) -> float:
    return peak + math.log(mass / UNITS) if mass else 0.0


def _minus(logit: float, norm: float) -> float:
    # float32 hides the last bit in which two machines' log may differ.
    return float(np.float32(min(logit - norm, 0.0)))
