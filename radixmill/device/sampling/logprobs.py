"""Log-probabilities of one row: the log-softmax of the model's own logits."""

from __future__ import annotations

import math

import numpy as np

from radixmill.core.messages import TokenLogprob
from radixmill.device.sampling.choose import Row, ranking, tempered, top_k_ids


def token_logprob(row: Row, token: int, k: int) -> TokenLogprob:
    """The chosen token's log-probability and the k most likely, by (−logprob, id); rounded to float32.

    `row` has passed `clean`. −∞ stays −∞. Where the whole row is −∞ there is no distribution: all are −∞.
    """
    norm = _log_sum_exp(row)
    return TokenLogprob(_minus(row[token], norm), tuple((id, _minus(row[id], norm)) for id in _best(row, k)))


def _best(row: Row, k: int) -> list[int]:
    if k == 0:
        return []
    ids = top_k_ids(row, k) if k < len(row) else np.arange(len(row))
    return [int(id) for id in ranking(row[ids], ids)]


def _log_sum_exp(row: Row) -> float:
    top = float(row.max())
    if top == -math.inf:
        return 0.0
    return top + math.log(float(tempered(row, 1.0).sum()))


def _minus(logit: np.float32, norm: float) -> float:
    # float32 hides the last bit in which two machines' log may differ.
    return float(np.float32(min(float(logit) - norm, 0.0)))
