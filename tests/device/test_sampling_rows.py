"""RowOps: every compiled instruction set against the NumPy that is the specification, bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from radixmill.core.plan import Admit, Masks
from radixmill.core.request import SamplingParams
from radixmill.device.kernels.contract import Penalties, RowOps, Rule, Shaping
from radixmill.device.kernels.exp_table import INVERSE, TABLE, WIDTH
from radixmill.device.sampling import Sampler
from radixmill.device.sampling.choose import UNITS
from radixmill.device.sampling.exp import exp
from radixmill.device.sampling.rows import NumpyRows
from radixmill.device.sampling.shape import unpacked
from tests.device.kernel_kit import backend

NUMPY = NumpyRows()
HUGE = float(np.finfo(np.float32).max)
WIDTHS = (*range(1, 41), 63, 64, 65, 1000, 1023, 1024, 1025, 2048, 5000, 16383, 49152)


def compiled(isa: str) -> RowOps:
    """CpuRows of one instruction set on two threads, or skip. The engine's own may be another."""
    from radixmill.device.kernels.cpu import _native
    from radixmill.device.kernels.cpu.rows import CpuRows

    engine = backend("cpu/portable", "fast")._engine  # type: ignore[attr-defined]
    try:
        return CpuRows(engine, _native.Rows(isa, 2, TABLE, WIDTH, INVERSE))
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["portable", "avx2", "avx512"])
def native(request: pytest.FixtureRequest) -> RowOps:
    return compiled(request.param)


# --- rows that a sampler may meet, and some that it should not


def normal(size: int, spread: float, seed: int) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


@st.composite
def rows(draw: st.DrawFn) -> NDArray[np.float32]:
    size, seed = draw(st.sampled_from(WIDTHS)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["normal", "flat", "steps", "equal", "peaked", "subnormal", "huge", "close", "any"]))
    match kind:
        case "normal":
            row = normal(size, draw(st.sampled_from([0.01, 1.0, 3.0, 30.0])), seed)
        case "flat":
            row = rng.random(size, np.float32)
        case "steps":  # ties everywhere
            row = rng.integers(-6, 7, size).astype(np.float32) / 4
        case "equal":
            row = np.full(size, draw(st.sampled_from([0.0, -0.0, 7.5, -1e30, HUGE, -math.inf])), np.float32)
        case "peaked":
            row = normal(size, 1.0, seed)
            row[rng.integers(size)] = 30.0
        case "subnormal":
            row = rng.integers(-40, 41, size).astype(np.float32) * np.float32(1e-45)
        case "huge":
            row = (rng.random(size) * 2 - 1).astype(np.float32) * np.float32(HUGE)
        case "close":  # neighbours among the float32
            row = np.float32(1.0) + rng.integers(0, 9, size).astype(np.float32) * np.float32(2**-23)
        case _:
            row = rng.integers(0, 2**32, size, dtype=np.uint32).view(np.float32)
    for value in draw(
        st.lists(st.sampled_from([math.nan, -math.nan, math.inf, -math.inf, HUGE, -HUGE, -0.0]), max_size=4)
    ):
        row[rng.integers(0, size, draw(st.sampled_from([1, 2, size])))] = value
    return row


number = st.floats(0.0, 1.0)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    return Rule(
        temperature=draw(st.sampled_from([0.0, 5e-324, 1e-40, 1e-6, 0.01, 0.3, 0.8, 1.0, 1.0, 1.7, 2.0, 1e9, 1e308])),
        top_k=draw(st.one_of(st.sampled_from([0, 0, 0, 1, 2, 40, 49151]), st.integers(1, 6000))),
        top_p=draw(st.one_of(st.just(1.0), st.sampled_from([5e-324, 1e-9, 0.5, 0.9, 1 - 2**-53]), number.filter(bool))),
        min_p=draw(st.one_of(st.just(0.0), st.sampled_from([5e-324, 1e-13, 0.05, 1.0]), number)),
        u=draw(
            st.one_of(
                st.sampled_from([0.0, 1 - 2**-24, 1 - 2**-53]), st.integers(0, 2**24 - 1).map(lambda n: n / 2**24)
            )
        ),
    )


def packed(allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """A mask, with noise in the bits beyond the vocabulary."""
    return np.packbits(np.pad(allowed, (0, -len(allowed) % 32), constant_values=True), bitorder="little").view("<u4")


@st.composite
def masks(draw: st.DrawFn, size: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    density = draw(st.sampled_from([0.0, "one", 1e-3, 0.05, 0.0625, 0.07, 0.5, 0.97, 1.0]))
    if density == "one":
        return packed(np.arange(size) == rng.integers(size))
    return packed(rng.random(size) < density)


@st.composite
def shapings(draw: st.DrawFn, size: int) -> Shaping:
    """Of any of the four; ids all over the row."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = st.integers(0, min(size, 40))

    def ids() -> NDArray[np.int64]:
        return rng.permutation(size)[: draw(count)]

    penalties, bias = None, None
    if draw(st.booleans()):
        seen = ids()
        factors = draw(st.sampled_from([(1.2, 0.0, 0.0), (0.5, 0.3, -0.7), (1.0, -2.0, 2.0), (1e-9, 0.0, 0.0)]))
        penalties = Penalties(seen, rng.integers(0, 4, len(seen)), *factors)
    if draw(st.booleans()):
        biased = ids()
        by = draw(st.sampled_from([0.1, 100.0, 1e300]))
        bias = biased, rng.uniform(-by, by, len(biased))
    mask = draw(st.none() | masks(size, rng))
    return Shaping(penalties, bias, mask, ids() if draw(st.booleans()) else None)


def draw_one(ops: RowOps, row: NDArray[np.float32], rule: Rule, shaping: Shaping | None = None) -> int:
    how = np.array([rule], np.float64)
    return int(ops.draw(row[None], np.zeros(1, np.int32), how, None if shaping is None else [shaping])[0])


@settings(max_examples=1500, deadline=None)
@given(row=rows(), rule=rules())
@example(row=np.zeros(49152, np.float32), rule=Rule(1.0, top_p=0.5, u=0.999))  # one bucket holds the whole vocabulary
@example(row=np.zeros(1, np.float32), rule=Rule(1e-6, 1, 0.5, 1.0, 1 - 2**-53))
def test_draws_are_those_of_numpy(native: RowOps, row: NDArray[np.float32], rule: Rule) -> None:
    assert draw_one(native, row, rule) == draw_one(NUMPY, row, rule)


@settings(max_examples=1500, deadline=None)
@given(row=rows(), rule=rules(), data=st.data())
def test_shaped_draws_are_those_of_numpy(
    native: RowOps, row: NDArray[np.float32], rule: Rule, data: st.DataObject
) -> None:
    shaping, before = data.draw(shapings(len(row))), row.tobytes()
    token = draw_one(native, row, rule, shaping)
    assert token == draw_one(NUMPY, row, rule, shaping)
    assert row.tobytes() == before
    if shaping.mask is not None and (allowed := unpacked(shaping.mask, len(row))).any():
        assert allowed[token]


@settings(max_examples=600, deadline=None)
@given(row=rows(), k=st.one_of(st.integers(0, 45), st.sampled_from([1024, 49152])))
def test_ranks_are_those_of_numpy(native: RowOps, row: NDArray[np.float32], k: int) -> None:
    at, k = np.zeros(1, np.int32), min(k, len(row))
    for ours, theirs in zip(native.rank(row[None], at, k), NUMPY.rank(row[None], at, k), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert ours.tolist() == theirs.tolist()  # −0 may stand for 0


@pytest.mark.parametrize("size", [49_152, 151_936])
@pytest.mark.parametrize("spread", [0.0, 0.05, 1.0, 2.5])
@pytest.mark.parametrize(
    "rule",
    [
        Rule(0.0),
        Rule(0.8),
        Rule(1.0, top_p=0.9),
        Rule(0.7, top_k=40),
        Rule(1.0, min_p=0.05),
        Rule(1.5, 5000, 0.95, 1e-3),
    ],
    ids=["greedy", "temperature", "top_p", "top_k", "min_p", "all"],
)
def test_whole_vocabularies_along_u(native: RowOps, size: int, spread: float, rule: Rule) -> None:
    row = normal(size, spread, 7)
    for u in np.linspace(0, 1 - 2**-24, 5).tolist():
        assert draw_one(native, row, rule._replace(u=u)) == draw_one(NUMPY, row, rule._replace(u=u))


def test_every_token_of_a_row_is_drawn_where_numpy_draws_it(native: RowOps) -> None:
    """Not one boundary of the running sum is off."""
    row, count = normal(33, 0.7, 3), 4096
    rule_rows = np.array([Rule(0.9, top_p=0.97, u=i / count) for i in range(count)], np.float64)
    at = np.zeros(count, np.int32)
    ours, theirs = native.draw(row[None], at, rule_rows), NUMPY.draw(row[None], at, rule_rows)
    assert np.array_equal(ours, theirs) and len(set(ours.tolist())) > 24


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1.7])
def test_the_faintest_token_with_a_mass_can_be_drawn_and_one_without_cannot(native: RowOps, temperature: float) -> None:
    """Where most of a row is −∞, as under a grammar, only what may have a mass is looked at."""
    seen = set()
    for distance in np.linspace(29.5, 33, 60):
        row = np.full(300, -np.inf, np.float32)
        row[[3, 299]] = 0.0, -distance * temperature
        token = draw_one(NUMPY, row, Rule(temperature, u=1 - 2**-53))
        assert token == draw_one(native, row, Rule(temperature, u=1 - 2**-53))
        assert token == (299 if exp(row[299:].astype(np.float64) / temperature)[0] * UNITS > 0.5 else 3)
        seen.add(token)
    assert seen == {3, 299}


def test_a_row_does_not_depend_on_its_neighbours(native: RowOps) -> None:
    logits = np.stack([normal(3000, spread, i) for i, spread in enumerate((0.1, 1, 2, 5, 1, 1, 9))])
    logits[2, 5], logits[4, :] = np.nan, -np.inf
    some = [Rule(0.8, 0, 0.9, 0.0, 0.3), Rule(0.0), Rule(1.2, 7, 1.0, 0.1, 0.99)]
    which = np.array([6, 0, 0, 3, 5, 4, 2, 1, 2, 6], np.int32)
    rule_rows = [some[i % 3] for i in range(len(which))]
    together = native.draw(logits, which, np.array(rule_rows, np.float64))
    assert together.tolist() == [
        draw_one(native, logits[row], rule) for row, rule in zip(which, rule_rows, strict=True)
    ]
    rng = np.random.default_rng(8)
    shapes = [None, *(Shaping(mask=packed(rng.random(3000) < share)) for share in (0.001, 0.9, 0.5))] * 3
    shapes[5] = Shaping(Penalties(np.arange(900), np.ones(900, np.int64), 1.3), (np.array([5]), np.array([9.0])))
    shaped = native.draw(logits, which, np.array(rule_rows, np.float64), shapes[:10])
    assert shaped.tolist() == [
        draw_one(native, logits[row], *how) for row, *how in zip(which, rule_rows, shapes, strict=False)
    ]
    assert shaped.tolist() != together.tolist()
    ranks = native.rank(logits, which, 6)
    for i, row in enumerate(which):
        alone = native.rank(logits[row][None], np.zeros(1, np.int32), 6)
        assert [part[i].tolist() for part in ranks] == [part[0].tolist() for part in alone]


def test_no_rows_no_tokens(native: RowOps) -> None:
    none = np.empty(0, np.int32)
    assert native.draw(np.empty((0, 9), np.float32), none, np.empty((0, 5))).shape == (0,)
    assert native.rank(np.empty((0, 9), np.float32), none, 3).ids.shape == (0, 3)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (1, Rule(1.0)),
        (-1, Rule(1.0)),
        (0, Rule(-1.0)),
        (0, Rule(math.nan)),
        (0, Rule(1.0, -1)),
        (0, Rule(1.0, top_p=0.0)),
        (0, Rule(1.0, min_p=1.5)),
        (0, Rule(1.0, u=1.0)),
        (0, Rule(1.0, u=math.nan)),
    ],
)
def test_what_would_leave_its_arrays_is_refused(native: RowOps, row: int, rule: Rule) -> None:
    with pytest.raises((ValueError, IndexError)):
        native.draw(np.zeros((1, 8), np.float32), np.array([row], np.int32), np.array([rule], np.float64))


@pytest.mark.parametrize(
    "shaping",
    [
        Shaping(mask=np.zeros(2, np.uint32)),
        Shaping(mask=np.zeros(4, np.uint32)[::2]),
        Shaping(mask=np.zeros(0, np.uint32)),
        Shaping(banned=np.array([70])),
        Shaping(banned=np.array([-1])),
        Shaping(bias=(np.array([70]), np.ones(1))),
        Shaping(bias=(np.array([7]), np.ones(2))),
        Shaping(Penalties(np.array([70]), np.ones(1, np.int64))),
        Shaping(Penalties(np.array([7]), np.ones(2, np.int64))),
    ],
)
def test_a_shaping_that_does_not_fit_its_row_is_refused(native: RowOps, shaping: Shaping) -> None:
    with pytest.raises((ValueError, IndexError, BufferError)):
        draw_one(native, np.zeros(70, np.float32), Rule(1.0), shaping)


def test_one_shaping_for_each_row_or_none(native: RowOps) -> None:
    logits, rows = np.zeros((1, 8), np.float32), np.zeros(2, np.int32)
    with pytest.raises(ValueError):
        native.draw(logits, rows, np.array([Rule(0.0)] * 2, np.float64), [None])


def test_what_is_taken_where_nothing_is_left(native: RowOps) -> None:
    row, five = np.full(70, -np.inf, np.float32), np.zeros(70, np.bool_)
    five[[33, 34, 40, 64, 69]] = True
    for ops in (native, NUMPY):
        for rule in (Rule(0.0), Rule(0.7, u=0.9)):
            for allowed in (five, ~five):
                first, second = np.flatnonzero(allowed)[:2]
                mask = packed(allowed)
                assert draw_one(ops, row, rule, Shaping(mask=mask)) == first
                assert draw_one(ops, row, rule, Shaping(mask=mask, banned=np.array([first]))) == second
                assert draw_one(ops, row, rule, Shaping(mask=mask, banned=np.flatnonzero(allowed))) == first
            assert draw_one(ops, row, rule, Shaping(mask=np.zeros(3, np.uint32))) == 0
            assert draw_one(ops, row, rule, Shaping(banned=np.arange(70))) == 0
            assert draw_one(ops, row, rule, Shaping(banned=np.array([1, 0]))) == 2


def test_more_than_the_row_has_cannot_be_ranked(native: RowOps) -> None:
    with pytest.raises(ValueError):
        native.rank(np.zeros((1, 8), np.float32), np.zeros(1, np.int32), 9)


# --- the sampler over both


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "temperature": draw(st.sampled_from([0.0, 0.0, 0.7, 1.0])),
        "top_p": draw(st.sampled_from([1.0, 0.8])),
        "top_k": draw(st.sampled_from([0, 20])),
        "min_p": draw(st.sampled_from([0.0, 0.02])),
        "frequency_penalty": draw(st.sampled_from([0.0, 0.0, 0.6])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.0, 1.2])),
        "logit_bias": draw(st.sampled_from([(), ((3, 2.5), (4, -100.0))])),
        "logprobs": draw(st.sampled_from([None, None, 0, 5])),
        "min_tokens": draw(st.sampled_from([0, 3])),
    }
    return fields


@settings(max_examples=60, deadline=None)
@given(st.lists(parameters(), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_a_sampler_says_the_same_on_both(native: RowOps, kinds: list[dict[str, Any]], seed: int) -> None:
    vocab, slots = 777, np.arange(len(kinds), dtype=np.int32)
    samplers = [Sampler(vocab, len(kinds), ops) for ops in (NUMPY, native)]
    for slot, fields in enumerate(kinds):
        params = SamplingParams(max_tokens=50, **fields)
        for sampler in samplers:
            sampler.admit(Admit(slot, params, seed + slot, (1, 2, 3), (4,), frozenset({9, 10})))
    allowed = np.random.default_rng(seed).integers(0, 2**32, 25, dtype=np.uint32)
    for step in range(6):
        logits = normal(vocab * len(kinds), 2.0, seed + step).reshape(len(kinds), vocab)
        masks = Masks({0: allowed}) if step % 2 else None
        seen = [sampler.sample(logits, slots, np.full(len(kinds), 5 + step), masks) for sampler in samplers]
        assert seen[0][0].tolist() == seen[1][0].tolist()
        assert seen[0][1] == seen[1][1]
