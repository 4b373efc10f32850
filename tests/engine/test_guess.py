"""Guesses: found as a plain search would find them, scored by what really came, and computed only where that pays."""

from __future__ import annotations

from array import array
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixmill.engine.schedule.guess import CATCH_UP, MATCH, REACH, Guesser, Match, Memory, Odds, Pace, Recall

FIXED, SLOPE = 0.004, 0.001  # seconds of a step, and of each token in it


def search(tokens: list[int]) -> Match | None:
    """The same by looking at every place."""
    pairs = [i for i in range(2, len(tokens)) if tokens[i - 2 : i] == tokens[-2:]][-REACH:]
    common = {i: max(n for n in range(2, min(MATCH, i) + 1) if tokens[i - n : i] == tokens[-n:]) for i in pairs}
    return Match(max(common, key=lambda i: (common[i], i)), max(common.values())) if common else None


@given(st.lists(st.integers(0, 2), max_size=60), st.randoms(use_true_random=False))
def test_a_match_is_what_a_plain_search_finds(tokens: list[int], dice: Random) -> None:
    recall, row = Recall(), array("q", tokens)
    upto = 0
    while upto < len(tokens):
        upto = dice.randint(upto + 1, len(tokens))
        recall.learn(row, upto)
        recall.learn(row, upto)
        assert recall.find(row) == search(tokens[:upto])


@given(st.lists(st.integers(-(1 << 62), 1 << 62), min_size=3, max_size=9))
def test_tokens_may_be_any_keys(tokens: list[int]) -> None:
    recall = Recall()
    recall.learn(array("q", tokens * 2), 2 * len(tokens))
    found = recall.find(array("q", tokens * 2))
    assert found and found == search(tokens * 2)


def test_a_long_prompt_is_learnt_over_several_steps() -> None:
    memory, tokens = Memory(), array("q", [1, 2, 3] * CATCH_UP)
    learnt = []
    while memory.renew(tokens, len(tokens)) is None:
        learnt.append(memory.recall.learnt)
    assert learnt == [CATCH_UP, 2 * CATCH_UP]
    assert memory.recall.find(tokens) == Match(len(tokens) - 3, MATCH)


def test_what_repeats_goes_on_repeating() -> None:
    guesser = Guesser(7, always=True)
    assert guesser.guess(Memory(), array("q", [5, 1, 2, 3, 1, 2]), 7, 0.0).tolist() == [3, 1, 2, 3, 1, 2, 3]
    assert guesser.guess(Memory(), array("q", [5, 1, 2, 3, 4, 1, 2]), 3, 0.0).tolist() == [3, 4, 1]
    assert guesser.guess(Memory(), array("q", [4, 4, 4]), 2, 0.0).tolist() == [4, 4]
    for tokens, most in (([1, 2, 3], 7), ([], 7), ([1], 7), ([1, 2, 1, 2], 0), ([1, 2, 1, 2], -3)):
        assert not guesser.guess(Memory(), array("q", tokens), most, 0.0)


def test_a_guess_is_scored_whether_or_not_it_was_computed() -> None:
    memory, odds = Memory(), Odds()
    memory.renew(array("q", [1, 2, 3, 4, 1, 2]), 6)  # 3, 4, 1 … after a match of two
    memory.renew(array("q", [1, 2, 3, 4, 1, 2, 3, 9]), 8)
    odds.note(2, True)
    odds.note(3, False)
    assert [memory.odds[n] for n in range(MATCH + 2)] == [odds[n] for n in range(MATCH + 2)]
    assert odds[2] > Odds.PRIOR > odds[3] and odds[4] == Odds.PRIOR


def test_how_many_guesses_are_worth_their_price() -> None:
    odds = Odds()
    assert odds.worth(2, 0.5, 7) == 0 and odds.worth(2, 0.0, 7) == 7
    for _ in range(200):
        odds.note(MATCH, True)
        odds.note(2, False)
    assert odds.worth(MATCH, 0.6, 7) == 7 and odds.worth(2, 0.1, 7) == 0
    for _ in range(200):
        odds.note(MATCH, False)
    assert odds.worth(MATCH, 0.1, 7) == 0


# --- costs


def test_the_cost_of_a_row_is_learnt_in_spite_of_noise() -> None:
    pace, dice = Pace(), Random(1)
    for n in range(300):
        tokens = dice.choice([1, 1, 2, 4, 8])
        stall = 1.0 if n % 29 == 0 else 0.0
        pace.observe(tokens, (FIXED + SLOPE * tokens) * dice.uniform(0.9, 1.1) + stall)
        pace.observe(400, 3.0)
    assert pace.slope == pytest.approx(SLOPE, rel=0.35)
    assert pace.cost(1) == pytest.approx(FIXED + SLOPE, rel=0.2)
    assert 0.1 < pace.price(1) < pace.price(3) < pace.price(7) < 1


def test_what_was_never_seen_is_taken_from_the_prior() -> None:
    pace = Pace()
    assert pace.price(1) == 1.0
    for _ in range(100):
        pace.observe(1, 0.01)
    assert pace.price(1) == pytest.approx(Pace.PRIOR, rel=0.01)
    pace.observe(1, 0.0)
    assert pace.price(1) == pytest.approx(Pace.PRIOR, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 40), st.just(0.0) | st.floats(1e-6, 10)), max_size=50), st.integers(1, 64))
def test_no_price_is_absurd(seen: list[tuple[int, float]], rows: int) -> None:
    pace = Pace()
    for tokens, seconds in seen:
        pace.observe(tokens, seconds)
    assert 0 < pace.price(rows) <= rows


def simulate(text: list[int], start: int, most: int = 7) -> tuple[float, int, int]:
    """A device that says `text` from `start` on: seconds, over those without guesses; guesses checked; right ones."""
    guesser, memory = Guesser(most), Memory()
    at, seconds, drafted, accepted = start, 0.0, 0, 0
    while at < len(text):
        guess = guesser.guess(memory, array("q", text[:at]), len(text) - at - 1, guesser.price(1)).tolist()
        right = next((n for n, token in enumerate(guess) if text[at + n] != token), len(guess))
        took = FIXED + SLOPE * (1 + len(guess))
        guesser.pace.observe(1 + len(guess), took)
        at, seconds = at + 1 + right, seconds + took
        drafted, accepted = drafted + len(guess), accepted + right
    return seconds / ((len(text) - start) * (FIXED + SLOPE)), drafted, accepted


@pytest.mark.parametrize("seed", range(5))
def test_text_without_repeats_costs_nothing(seed: int) -> None:
    dice = Random(seed)
    for words in (20, 200, 50_000):
        relative, _, _ = simulate([dice.randrange(words) for _ in range(800)], 100)
        assert relative < 1.01


@pytest.mark.parametrize("seed", range(5))
def test_a_repeated_text_with_changes_is_fast(seed: int) -> None:
    dice = Random(seed)
    story = [dice.randrange(500) for _ in range(400)]
    again = [dice.randrange(500) if dice.random() < 0.02 else token for token in story]
    relative, drafted, accepted = simulate(story + again, 400)
    assert relative < 0.5 and accepted > 0.7 * drafted


@pytest.mark.parametrize("seed", range(5))
def test_what_stops_repeating_stops_being_guessed(seed: int) -> None:
    """Pairs recur, but what follows them is chance: after a while of repeating, few guesses are lost on that."""
    dice = Random(seed)
    noise = [dice.randrange(6) for _ in range(1000)]
    relative, drafted, accepted = simulate([1, 2, 3, 4, 5] * 20 + noise, 20)
    assert accepted > 50 and drafted - accepted < 60 and relative < 1
