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

    def offer(tokens: list[int], most: int) -> list[int]:
        return guesser.offer(Memory(), array("q", tokens), most).tokens.tolist()

    assert offer([5, 1, 2, 3, 1, 2], 7) == [3, 1, 2, 3, 1, 2, 3]
    assert offer([5, 1, 2, 3, 4, 1, 2], 3) == [3, 4, 1]
    assert offer([4, 4, 4], 2) == [4, 4]
    for tokens, most in (([1, 2, 3], 7), ([], 7), ([1], 7), ([1, 2, 1, 2], 0), ([1, 2, 1, 2], -3)):
        assert not offer(tokens, most)


def test_a_guess_is_scored_whether_or_not_it_was_computed() -> None:
    memory, odds = Memory(), Odds()
    memory.renew(array("q", [1, 2, 3, 4, 1, 2]), 6)  # 3, 4, 1 … after a match of two
    memory.renew(array("q", [1, 2, 3, 4, 1, 2, 3, 9]), 8)
    odds.note(2, True)
    odds.note(3, False)
    assert [memory.odds[n] for n in range(MATCH + 2)] == [odds[n] for n in range(MATCH + 2)]
    assert odds[2] > Odds.PRIOR[2] and odds[3] < Odds.PRIOR[3] and odds[4] == Odds.PRIOR[4]


def test_chances_are_of_a_guess_and_all_before_it() -> None:
    odds = Odds()
    assert odds.chances(2, 3) == pytest.approx([0.35, 0.35 * 0.45]) and odds.chances(MATCH, 2) == pytest.approx(
        [0.8, 0.64]
    )
    for _ in range(200):
        odds.note(MATCH, True)
        odds.note(2, False)
    assert odds.chances(MATCH + 1, 7) == pytest.approx([1] * 7, abs=1e-3) and not odds.chances(2, 7)
    for _ in range(200):
        odds.note(MATCH, False)
    assert not odds.chances(MATCH, 7)


@given(st.integers(1, 7), st.lists(st.lists(st.floats(0, 1), max_size=7), min_size=1, max_size=7), st.integers(0, 50))
def test_no_row_gets_more_than_it_offers_nor_all_more_than_is_left(
    size: int, chances: list[list[float]], left: int
) -> None:
    rows = [sorted(row, reverse=True) for row in chances]
    for always in (False, True):
        guesser = Guesser(7, always=always)
        for tokens in range(1, 9):
            guesser.pace.observe(tokens, FIXED + SLOPE * tokens / size)
        counts = guesser.choose(rows, left)
        assert len(counts) == len(rows) and sum(counts) <= left
        assert all(count <= len(row) for count, row in zip(counts, rows, strict=True))
        assert not always or sum(counts) == min(left, sum(map(len, rows)))


def test_the_likely_ones_are_checked_as_far_as_that_gives_more_tokens_a_second() -> None:
    guesser = Guesser(7)
    assert guesser.choose([[1.0] * 7], 50) == [0]  # no step was seen yet
    for _ in range(40):
        for tokens in range(1, 9):
            guesser.pace.observe(tokens, FIXED + SLOPE * tokens)
    assert guesser.choose([[1.0] * 7], 50) == [7]
    assert guesser.choose([[1.0] * 7], 3) == [3]
    assert guesser.choose([[0.9, 0.8, 0.3, 0.1]], 50) == [2]  # one token in 5 ms, 1.81 in 6, 2.53 in 7, 2.8 in 8
    assert guesser.choose([[0.1] * 7], 50) == [0]
    assert guesser.choose([[0.1], [0.95, 0.9, 0.5], []], 50) == [0, 2, 0]
    assert sum(guesser.choose([[1.0] * 7] * 2, 50)) == 14
    assert guesser.choose([[1.0] * 7, [0.4], []], 50) == [3, 0, 0]  # 10 ms instead of 7: others wait for these


def test_tiles_are_seen() -> None:
    """A fifth token begins a new tile: five cost as much as eight."""
    guesser = Guesser(7)
    for _ in range(40):
        for tokens in (1, 4, 5, 6, 8):
            guesser.pace.observe(tokens, 0.010 if tokens <= 4 else 0.018)
    assert guesser.choose([[1.0] * 4], 50) == [3]
    assert guesser.choose([[1.0] * 7], 50) == [7]


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


def test_what_was_never_seen_is_taken_from_the_prior() -> None:
    pace = Pace()
    assert pace.cost(1) == 0
    for _ in range(100):
        pace.observe(1, 0.01)
    pace.observe(1, 0.0)
    assert pace.cost(1) == pytest.approx(0.01) and pace.cost(5) == pytest.approx(0.01 * (1 + 4 * Pace.PRIOR))


def test_what_was_seen_long_ago_counts_no_more() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(6, 1.0)
    for _ in range(400):
        pace.observe(1, 0.01)
    assert pace.cost(6) == pytest.approx(0.01 * (1 + 5 * Pace.PRIOR), rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 80), st.just(0.0) | st.floats(1e-6, 10)), max_size=50), st.integers(1, 64))
def test_no_cost_is_absurd(seen: list[tuple[int, float]], tokens: int) -> None:
    pace = Pace()
    for size, seconds in seen:
        pace.observe(size, seconds)
    small = [seconds for size, seconds in seen if size <= Pace.SMALL and seconds]
    assert pace.cost(tokens) > 0 if small else pace.cost(tokens) == 0


def simulate(text: list[int], start: int, most: int = 7) -> tuple[float, int, int]:
    """A device that says `text` from `start` on: seconds, over those without guesses; guesses checked; right ones."""
    guesser, memory = Guesser(most), Memory()
    at, seconds, drafted, accepted = start, 0.0, 0, 0
    while at < len(text):
        offer = guesser.offer(memory, array("q", text[:at]), len(text) - at - 1)
        guess = offer.tokens[: guesser.choose([offer.chances], 50)[0]].tolist()
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
        assert relative < 1.02


@pytest.mark.parametrize("seed", range(5))
def test_a_repeated_text_with_changes_is_fast(seed: int) -> None:
    dice = Random(seed)
    story = [dice.randrange(500) for _ in range(400)]
    again = [dice.randrange(500) if dice.random() < 0.02 else token for token in story]
    relative, drafted, accepted = simulate(story + again, 400)
    assert relative < 0.5 and accepted > 0.7 * drafted


@pytest.mark.parametrize("seed", range(5))
def test_what_stops_repeating_stops_being_guessed(seed: int) -> None:
    """Pairs recur, but what follows them is chance: less is lost on that than the repeats had gained."""
    dice = Random(seed)
    noise = [dice.randrange(6) for _ in range(1000)]
    relative, _, accepted = simulate([1, 2, 3, 4, 5] * 20 + noise, 20)
    assert accepted > 50 and relative < 1
