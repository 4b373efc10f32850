"""The sampler against the naive oracle, token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.plan import Admit, Masks
from radixmill.core.request import SamplingParams
from radixmill.device.sampling import Sampler
from radixmill.device.sampling.choose import UNITS, invert, massed, ranking, tempered, top_k_ids, top_p_ids
from radixmill.device.sampling.philox import uniform
from tests.device.sampling_oracle import Ambiguous, distribution, shape

VOCAB = 40
ids = st.integers(0, VOCAB - 1)
# Quarter steps make ties common; they and their differences are exact in float32.
logit = st.one_of(st.integers(-24, 24).map(lambda v: v / 4), st.just(-math.inf))
logits = st.lists(logit, min_size=VOCAB, max_size=VOCAB).filter(lambda row: max(row) > -math.inf)
number = st.floats(0.0, 1.0, width=32)


@st.composite
def params(draw: st.DrawFn) -> SamplingParams:
    return SamplingParams(
        max_tokens=100,
        min_tokens=draw(st.sampled_from([0, 0, 3])),
        temperature=draw(st.sampled_from([0.0, 1e-6, 0.5, 0.7, 1.0, 1.0, 2.0])),
        top_k=draw(st.sampled_from([0, 0, 1, 2, 5, 39, 40, 200])),
        top_p=draw(st.one_of(st.just(1.0), number)),
        min_p=draw(st.one_of(st.just(0.0), number)),
        presence_penalty=draw(st.sampled_from([0.0, 0.5, -2.0])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.25, 2.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 2.0, 0.5, 1.25])),
        logit_bias=tuple(draw(st.dictionaries(ids, st.sampled_from([-100.0, -1.5, 3.0, 100.0]), max_size=3)).items()),
    )


@st.composite
def admits(draw: st.DrawFn) -> Admit:
    return Admit(
        slot=0,
        sampling=draw(params()),
        seed=draw(st.integers(0, 2**64 - 1)),
        prompt=tuple(draw(st.lists(ids, min_size=1, max_size=6))),
        output=tuple(draw(st.lists(ids, max_size=6))),
        stop_ids=draw(st.frozensets(ids, max_size=2)),
    )


@settings(max_examples=250, deadline=None)
@given(admits(), st.lists(logits, min_size=1, max_size=4), st.one_of(st.none(), st.frozensets(ids, min_size=4)))
def test_sampler_equals_oracle_along_a_sequence(
    admit: Admit, rows: list[list[float]], allowed: frozenset[int] | None
) -> None:
    sampler = Sampler(VOCAB, 1)
    sampler.admit(admit)
    for row in rows:
        position = len(admit.prompt) + len(admit.output)
        masks = Masks({0: packed(allowed)}) if allowed is not None else None
        tokens, _ = sampler.sample(np.array([row], np.float32), np.array([0]), np.array([position]), masks)
        shaped = shape(row, admit, set(allowed) if allowed is not None else None)
        shaped = [float(np.float32(v)) for v in shaped]
        if max(shaped) > -math.inf:
            try:
                expected = distribution(shaped, admit.sampling).token(uniform(admit.seed, position))
            except Ambiguous:
                return
            assert tokens[0] == expected
        admit = Admit(
            admit.slot, admit.sampling, admit.seed, admit.prompt, (*admit.output, int(tokens[0])), admit.stop_ids
        )


def packed(allowed: frozenset[int], size: int = VOCAB) -> np.ndarray:
    words = np.zeros(-(-size // 32), np.uint32)
    for id in allowed:
        words[id // 32] |= np.uint32(1 << (id % 32))
    return words


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95, 0.999, 1 - 1e-12])
@pytest.mark.parametrize("spread", [0.0, 0.01, 3.0])
def test_top_p_needs_no_full_sort_to_be_exact(top_p: float, spread: float) -> None:
    row = (np.random.default_rng(5).standard_normal(20000) * spread).astype(np.float32)
    weights = tempered(row, 1.0)
    order = np.lexsort((np.arange(len(row)), -row))
    mass = np.cumsum(weights[order])
    head = order[: int(np.searchsorted(mass, top_p * weights.sum())) + 1]
    assert np.array_equal(top_p_ids(row, massed(weights), top_p), np.sort(head))


@pytest.mark.parametrize("k", [1, 2, 50, 999])
def test_top_k_breaks_ties_by_id(k: int) -> None:
    row = np.random.default_rng(k).integers(0, 5, 1000).astype(np.float32)
    expected = sorted(sorted(range(1000), key=lambda id: (-row[id], id))[:k])
    assert top_k_ids(row, k).tolist() == expected


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=60))
def test_ranking_is_by_logit_and_then_by_id(values: list[float]) -> None:
    expected = sorted(range(len(values)), key=lambda id: (-values[id], id))
    assert ranking(np.array(values, np.float32), np.arange(len(values))).tolist() == expected


@given(
    st.lists(st.sampled_from([0, 1, 7, 1 << 20, UNITS // 3, UNITS]), min_size=1, max_size=40).filter(any),
    st.integers(0, 2**24 - 1),
)
def test_invert_is_the_inverse_cdf(masses: list[int], u: int) -> None:
    at = invert(np.array(masses), u / 2**24)
    before, after = sum(masses[:at]), sum(masses[: at + 1])
    assert masses[at] > 0
    assert before << 24 <= u * sum(masses) < after << 24


@pytest.mark.parametrize("u", [1 - 2**-53, 1 - 2**-24, 0.0])
def test_invert_ends_inside_even_where_the_sum_is_rounded_up(u: float) -> None:
    masses = np.array([0] + [UNITS - 1] * 1000 + [0])
    assert invert(masses, u) == (1000 if u else 1)


def test_the_mass_of_a_weight_is_its_nearest_number_of_units() -> None:
    assert massed(np.array([0.0, 2.0**-46, 3 * 2.0**-45, 0.5, 1.0])).tolist() == [0, 0, 2, UNITS // 2, UNITS]
