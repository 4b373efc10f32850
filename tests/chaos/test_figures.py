"""The arithmetic behind the figures, and that a broken answer is seen to be broken."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from tests.chaos.figures import Figures, Gap, auc, percentile, slope
from tests.chaos.fold import Fold
from tests.chaos.soak import Soak, growth


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert percentile([3, 1, 2], 0.5) == 2 and percentile([5], 0.99) == 5
    assert percentile(range(1, 101), 0.99) == 99 and math.isnan(percentile([], 0.5))


def test_a_slope_is_of_the_least_squares_line() -> None:
    assert slope([0, 1, 2], [5, 7, 9]) == pytest.approx(2) and slope([0, 1, 2, 3], [1, 2, 1, 2]) == pytest.approx(0.2)
    assert slope([1, 1], [1, 9]) == 0


def test_growth_leaves_out_the_first_third() -> None:
    calm = [(float(at), 1000 if at >= 20 else at) for at in range(60)]
    assert growth(calm) == pytest.approx(0)
    rising = [(float(at), 1_000_000 + 100 * at) for at in range(600)]  # 6,000 a minute
    assert growth(rising) == pytest.approx(0.58, abs=0.01)
    assert growth([(0.0, 1)]) == 0
    assert not Soak(1.0, memory=rising, statuses=Counter({200: 5})).good
    assert Soak(1.0, memory=calm, statuses=Counter({200: 5, 429: 3})).good
    assert not Soak(1.0, memory=calm, statuses=Counter({200: 5, 500: 1})).good


def test_the_area_under_the_curve() -> None:
    assert auc([3, 4], [1, 2]) == 1 and auc([1, 2], [3, 4]) == 0 and auc([1, 1], [1, 1]) == 0.5
    rng = random.Random(1)
    ones, others = ([rng.random() for _ in range(200)] for _ in range(2))
    assert 0.4 < auc(ones, others) < 0.6


def test_a_gap_is_held_against_what_has_to_be_computed_again() -> None:
    assert Gap(4.0, 1.0).ratio < 1 < Gap(4.5, 1.0).ratio and Gap(6.0, 0.0, deaths=2).ratio == 1
    figures = Figures(gaps=[Gap(9.0, 1.0)])
    assert not figures.good and "9.00 s" in figures.complaints()[0] and Figures().good


def chunk(ids: list[int], text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "token_ids": ids, "finish_reason": finish}]}


def folded(*events: dict[str, Any] | None) -> Fold:
    fold = Fold(status=200)
    for event in events:
        fold.add(event)
    return fold


USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}}


def test_a_doubled_token_is_counted_and_a_changed_one_is_not() -> None:
    twin = folded(chunk([1, 2], "ab"), chunk([3], "c", "length"), USAGE, None)
    assert twin.done and twin.differs(folded(chunk([1], "a"), chunk([2, 3], "bc", "length"), USAGE, None)) == ""
    twice = folded(chunk([1, 2], "ab"), chunk([2, 3], "bc", "length"), USAGE, None)
    assert twice.doubled(twin) == 1 and "said" in twice.differs(twin)
    other = folded(chunk([1, 9], "ax"), chunk([3], "c", "length"), USAGE, None)
    assert other.doubled(twin) == 0 and other.differs(twin)
    cut = folded(chunk([1, 2], "ab"))
    assert not cut.done and cut.doubled(twin) == 0


def test_an_error_in_a_stream_and_a_second_end_are_no_proper_end() -> None:
    assert folded(chunk([1], "a"), {"error": {"message": "x"}}, None).error
    assert "twice" in folded(chunk([1], "a", "stop"), chunk([], "", "stop")).error


def test_texts_of_apis_that_tell_no_tokens_are_looked_at_too() -> None:
    def said(*parts: str) -> Fold:
        deltas = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}} for p in parts
        ]
        return folded(*deltas, {"type": "message_stop"})

    assert said("ab", "c").differs(said("a", "bc")) == "" and said("ab", "bc").doubled(said("abc")) == 1
