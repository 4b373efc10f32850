"""The two number machines below the sampler: Philox and a portable exp."""

from __future__ import annotations

import math
from decimal import Context, Decimal

import numpy as np
import pytest
from scipy import stats

from radixmill.device.sampling.exp import exp
from radixmill.device.sampling.philox import philox4x32, uniform


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers that come with Random123
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter: str, key: str, words: str) -> None:
    a, b, c, d = (int(w, 16) for w in counter.split())
    k0, k1 = (int(w, 16) for w in key.split())
    assert philox4x32((a, b, c, d), (k0, k1)) == tuple(int(w, 16) for w in words.split())


def test_uniform_takes_the_first_word_with_low_words_first() -> None:
    seed, position = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    word = philox4x32((0x76543210, 0xFEDCBA98, 0, 0), (0x89ABCDEF, 0x01234567))[0]
    assert uniform(seed, position) == (word >> 8) / 2**24


def test_uniform_is_uniform_along_positions_and_along_seeds() -> None:
    assert stats.kstest([uniform(7, t) for t in range(5000)], "uniform").pvalue > 1e-3
    assert stats.kstest([uniform(s, 7) for s in range(5000)], "uniform").pvalue > 1e-3
    assert all(0 <= uniform(s, s) < 1 for s in range(1000))


def test_exp_is_as_exact_as_it_says() -> None:
    exact = Context(prec=40)
    rng = np.random.default_rng(0)
    x = np.concatenate((-rng.exponential(10, 3000), -np.logspace(-16, math.log10(707.9), 1000), [0.0, -707.99]))
    for value, got in zip(x, exp(x), strict=True):
        true = exact.exp(Decimal(float(value)))
        assert abs((Decimal(float(got)) - true) / true) < Decimal("5e-15" if value >= -30 else "1e-13")


def test_exp_at_its_ends() -> None:
    assert exp(np.array([0.0, -0.0, -708.1, -1e300, -np.inf])).tolist() == [1, 1, 0, 0, 0]
    assert exp(np.empty(0)).shape == (0,)


def test_exp_of_a_value_does_not_depend_on_its_place() -> None:
    x = -np.random.default_rng(2).exponential(20, 30_001)
    whole = exp(x)
    assert np.array_equal(np.concatenate([exp(x[i : i + 777]) for i in range(0, len(x), 777)]), whole)
    assert np.array_equal(exp(x[::-3]), whole[::-3])
