"""Costs that must not grow, within bounds that noise does not reach: a regression of the order shows, not one of a percent."""

from __future__ import annotations

from tests.engine.bench_scheduler import steps, tree


def test_a_match_does_not_see_the_size_of_the_tree() -> None:
    costs = tree(sizes=((10, 100), (3000, 100)))
    for name in ("match 1k", "open+drop", "insert 1k"):
        small, large = costs[name]
        assert large < 4 * small + 20, (name, small, large)
    assert costs["evict"][1] < 100


def test_a_step_costs_as_much_as_it_has_rows() -> None:
    few, many = steps((16, 128), times=40)["a row"]
    assert many < 2 * few + 2 and many < 40, (few, many)
