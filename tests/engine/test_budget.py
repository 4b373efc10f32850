"""The token budget follows the machine."""

from __future__ import annotations

import pytest

from radixmill.engine.schedule.budget import FLOOR, Budget


def run(budget: Budget, steps: int, fixed: float, per_token: float) -> float:
    """Full steps on a machine with these costs; how long the last took."""
    seconds = 0.0
    for _ in range(steps):
        seconds = fixed + budget.tokens * per_token
        budget.observe(budget.tokens, seconds)
    return seconds


@pytest.mark.parametrize(("fixed", "per_token"), [(0.0, 0.004), (0.2, 0.004), (0.5, 0.01)])
def test_steps_come_to_take_as_long_as_they_may(fixed: float, per_token: float) -> None:
    assert run(Budget(512, 1.0), 60, fixed, per_token) == pytest.approx(1.0, abs=0.03)


def test_a_fast_machine_keeps_the_whole_budget_and_a_hopeless_one_the_floor() -> None:
    fast, slow = Budget(512, 1.0), Budget(512, 1.0)
    run(fast, 20, 0.01, 0.001)
    run(slow, 20, 5.0, 1.0)
    assert (fast.tokens, slow.tokens) == (512, FLOOR)


def test_small_quick_steps_say_nothing() -> None:
    budget = Budget(512, 1.0)
    for _ in range(100):
        budget.observe(4, 0.2)  # decode: mostly the cost of reading the weights
    assert budget.tokens == 512


def test_one_hiccup_changes_little_and_a_slow_start_is_forgotten() -> None:
    budget = Budget(512, 1.0)
    run(budget, 10, 0.0, 0.0015)
    budget.observe(512, 30.0)
    assert budget.tokens == 512
    budget = Budget(512, 1.0)
    budget.observe(512, 8.0)
    assert budget.tokens < 100
    run(budget, 6, 0.0, 0.0015)
    assert budget.tokens == 512
