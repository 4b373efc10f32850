"""The arithmetic of the report."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixmill.bench.client import Answer
from radixmill.bench.drive import Run
from radixmill.bench.http import Origin
from radixmill.bench.report import error_lines, figures, grid, medians, percentile, ratios, tables


def run(*answers: Answer, server: str = "a", seconds: float = 2.0, repeat: int = 0) -> Run:
    return Run(server, "decode1", repeat, seconds, answers)


ONE = Answer(prompt_tokens=10, output_tokens=5, cached_tokens=2, arrivals=[0.1, 0.2, 0.2, 0.5, 0.9], seconds=1.0)
BURST = Answer(prompt_tokens=20, output_tokens=9, arrivals=[0.3, 0.7], seconds=1.0)
LONE = Answer(prompt_tokens=30, output_tokens=1, arrivals=[0.4], seconds=0.5)
BAD = Answer(prompt_tokens=99, output_tokens=99, arrivals=[9.0], error="boom")


def test_figures_of_a_run() -> None:
    f = figures(run(ONE, BURST, LONE, BAD))
    assert (f.requests, f.errors, f.prompt_tokens, f.output_tokens, f.cached_tokens) == (4, 1, 60, 15, 2)
    assert (f.output_per_second, f.prompt_per_second) == (7.5, 30.0)
    assert f.ttft_p50 == pytest.approx(300)
    assert f.tpot_p50 == pytest.approx((200 + 50) / 2)  # 0.8 s over 4 tokens, 0.4 s over 8; the lone token has none
    assert f.itl_p50 == pytest.approx(300)  # of 0, 100, 300, 400, 400
    assert f.itl_p99 == pytest.approx(400, rel=0.01)


def test_a_run_of_errors_has_no_times() -> None:
    f = figures(run(BAD))
    assert (f.errors, f.output_per_second, f.ttft_p50, f.itl_p99) == (1, 0.0, None, None)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0, 100))
def test_percentile_equals_numpy(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-9)


def test_percentile_of_nothing() -> None:
    assert percentile([], 50) is None


def test_medians_are_taken_figure_by_figure_and_errors_add_up() -> None:
    runs = [run(ONE, seconds=s, repeat=i) for i, s in enumerate((1.0, 10.0, 2.0))] + [
        run(BAD, server="b"),
        run(ONE, server="b"),
    ]
    summary = medians(runs)
    assert summary["a", "decode1"].output_per_second == 2.5
    assert summary["b", "decode1"].errors == 1
    assert summary["b", "decode1"].ttft_p50 == pytest.approx(100)


def test_ratios_are_above_one_where_the_first_is_better() -> None:
    fast, slow = figures(run(BURST, seconds=1.0)), figures(run(ONE, seconds=2.0))
    r = ratios(fast, slow)
    assert r["output_per_second"] == pytest.approx(9 / 2.5)
    assert r["tpot_p50"] == pytest.approx(200 / 50)
    assert r["ttft_p50"] == pytest.approx(100 / 300)
    assert ratios(figures(run(LONE)), slow)["tpot_p50"] is None


def test_tables_show_both_servers_and_their_ratio() -> None:
    text = tables(medians([run(ONE), run(BURST, server="b"), run(LONE, server="b")]))
    assert text.count("decode1") == 3 and "a over b" in text and "×" in text


def test_grid_aligns() -> None:
    assert grid([["a", "bbb"], ["cc", "1"]]) == "a   bbb\n───────\ncc    1"


def test_error_lines_count_equal_errors_and_stop() -> None:
    runs = [run(*(Answer(error=f"e{i % 7}") for i in range(20)))]
    lines = error_lines(runs, limit=2)
    assert lines == ["3× a decode1: e0", "3× a decode1: e1", "… and 5 more kinds of errors"]
    assert error_lines([run(ONE)]) == []


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://h/v1/", "http://h:80"),
        ("https://h/api/v1", "https://h:443/api"),
        ("http://[::1]:5", "http://[::1]:5"),
    ],
)
def test_origins(url: str, text: str) -> None:
    assert str(Origin.parse(url)) == text
