"""The sampling rule of the architecture, written as plainly as possible: Python floats, full sorts, no NumPy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from radixmill.core.plan import Admit
from radixmill.core.request import SamplingParams

MARGIN = 1e-9  # relative distance to a threshold under which two correct float64 programs may disagree


class Ambiguous(Exception):
    """A threshold is met so closely that rounding decides."""


@dataclass
class Draw:
    probabilities: dict[int, float]
    greedy: bool

    def token(self, u: float) -> int:
        if self.greedy:
            return min(self.probabilities)
        done: list[float] = []
        for id in sorted(self.probabilities):
            done.append(self.probabilities[id])
            if clearly_more(math.fsum(done), u):
                return id
        raise AssertionError("u is below 1")


def clearly_more(a: float, b: float, slack: float = 1.0) -> bool:
    if a != b and abs(a - b) <= MARGIN * max(abs(a), abs(b), slack):
        raise Ambiguous
    return a > b


def shape(logits: Sequence[float], admit: Admit, allowed: set[int] | None = None) -> list[float]:
    """Penalties, bias, mask."""
    params, x = admit.sampling, [float(v) for v in logits]
    out = Counter(admit.output)
    for id in set(admit.prompt) | set(admit.output):
        x[id] = x[id] / params.repetition_penalty if x[id] > 0 else x[id] * params.repetition_penalty
        x[id] -= params.frequency_penalty * out[id] + (params.presence_penalty if out[id] else 0.0)
    for id, by in params.logit_bias:
        x[id] += by
    stops = admit.stop_ids if len(admit.output) < params.min_tokens else frozenset()
    return [-math.inf if id in stops or (allowed is not None and id not in allowed) else v for id, v in enumerate(x)]


def distribution(x: Sequence[float], params: SamplingParams) -> Draw:
    """Temperature, top-k, top-p, min-p, each on the renormalised rest."""
    order = sorted((id for id, v in enumerate(x) if v > -math.inf), key=lambda id: (-x[id], id))
    if params.greedy:
        return Draw({order[0]: 1.0}, True)
    best = x[order[0]]
    p = {id: math.exp((x[id] - best) / params.temperature) for id in order}
    p = renormalised(p, order[: params.top_k] if params.top_k else order)
    if params.top_p < 1:
        p = renormalised(p, nucleus(p, params.top_p))
    if params.min_p > 0:
        edge = params.min_p * max(p.values())
        p = renormalised(p, [id for id in p if not clearly_more(edge, p[id], 0.0)])
    return Draw(p, False)


def nucleus(p: dict[int, float], top_p: float) -> list[int]:
    kept: list[int] = []
    for id in p:  # in (−logit, id) order
        kept.append(id)
        mass = math.fsum(p[k] for k in kept)
        if mass == top_p or clearly_more(mass, top_p):
            break
    return kept


def renormalised(p: dict[int, float], kept: Sequence[int]) -> dict[int, float]:
    total = math.fsum(p[id] for id in kept)
    return {id: p[id] / total for id in kept}
