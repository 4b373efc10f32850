"""Log-probabilities of prompts in the scheduler: each position once, whatever is cached, cut, preempted or forked."""

from __future__ import annotations

import pytest

from radixmill.core.messages import End, SeqStart, Submit, Usage
from radixmill.engine.schedule.draft import Draft
from radixmill.engine.schedule.score import AT_ONCE, Scoring
from tests.engine.drive import Drive
from tests.engine.fakes import alone, scores, spec, submit

BOTH = pytest.mark.parametrize("overlap", [False, True])
PROMPT = [(i * 7 + i // 3) % 11 for i in range(200)]
ROOMY = spec(pages=400, page_size=4)
KEY = ("front", 0)


def scored(drive: Drive) -> list[int]:
    """Positions scored by each step that had any."""
    return [int(plan.scores.sum()) for plan in drive.executor.plans if plan.scores is not None]


@BOTH
@pytest.mark.parametrize("start", [0, 1, 2, 70, 199, 200])
def test_every_token_from_the_first_wanted_on(overlap: bool, start: int) -> None:
    drive = Drive(ROOMY, overlap=overlap)
    drive.submit(submit(PROMPT, 0, prompt_logprobs=0, prompt_logprobs_from=start))
    drive.run()
    assert drive.scores[KEY] == scores(PROMPT, start)
    assert len(drive.scores[KEY]) == 200 - max(start, 1)
    assert drive.tokens[KEY] == alone(PROMPT, 7, 4)


@BOTH
@pytest.mark.parametrize("length", [1, 2, 65, 200])
def test_nothing_is_generated_where_nothing_is_wanted(overlap: bool, length: int) -> None:
    drive = Drive(ROOMY, overlap=overlap)
    drive.submit(submit(PROMPT[:length], 0, 1, max_tokens=0, prompt_logprobs=0))
    drive.run()
    assert drive.scores == {KEY: scores(PROMPT[:length], 0)} and not drive.tokens[KEY]
    assert drive.ends[KEY] == End("length", Usage(length, 0, 0))
    assert drive.ends["front", 1].reason == "length"
    assert drive.computed == length - 1 and not any(plan.samples.any() for plan in drive.executor.plans)


def test_a_step_scores_so_many_and_no_row_is_left_out() -> None:
    drive = Drive(ROOMY)
    for i in range(3):
        drive.submit(submit([i, *PROMPT], i, prompt_logprobs=0))
    assert drive.step().scores.tolist() == [AT_ONCE, 1, 1]  # type: ignore[union-attr]
    drive.run()
    assert all(drive.scores["front", i] == scores([i, *PROMPT], 0) for i in range(3))
    assert max(scored(drive)) == AT_ONCE + 2


def test_what_comes_before_the_first_wanted_is_computed_as_ever() -> None:
    drive = Drive(ROOMY)
    drive.submit(submit(PROMPT, 0, prompt_logprobs=0, prompt_logprobs_from=181))
    drive.run()
    assert scored(drive) == [19] and drive.executor.plans[0].counts.tolist() == [200]


def test_a_cached_prefix_is_used_up_to_the_first_wanted() -> None:
    drive = Drive(ROOMY)
    drive.submit(submit(PROMPT, 0))
    drive.run()
    for i, start in enumerate((0, 1, 2, 90, 200), 1):
        drive.submit(submit(PROMPT, i, prompt_logprobs=0, prompt_logprobs_from=start))
        drive.run()
        assert drive.scores["front", i] == scores(PROMPT, start)
        assert drive.cached["front", i] == max(start - 1, 0)


def test_forks_share_the_scored_prompt() -> None:
    drive = Drive(ROOMY)
    drive.submit(submit(PROMPT, 0, 1, 2, prompt_logprobs=0))
    drive.run()
    assert drive.scores == {KEY: scores(PROMPT, 0)}
    assert [drive.tokens["front", i] for i in range(3)] == [alone(PROMPT, 7 + i, 4) for i in range(3)]
    assert drive.computed == 200 + 3 * 3 + 2, "the prompt once, and its last token for each fork"


@BOTH
@pytest.mark.parametrize("turn", range(5))
@pytest.mark.parametrize("most", [0, 4])
def test_preemption_scores_nothing_twice(overlap: bool, turn: int, most: int) -> None:
    """Preempted after each step in turn, while a step of its own may be under way."""
    drive = Drive(ROOMY, overlap=overlap)
    drive.submit(submit(PROMPT, 0, max_tokens=most, prompt_logprobs=0))
    for _ in range(turn + 1):
        drive.step()
    (seq,) = drive.scheduler.running.rows or (None,)
    if seq:
        drive.scheduler.room.preempt(seq, Draft(0))
    drive.run()
    assert drive.scores[KEY] == scores(PROMPT, 0) and drive.tokens[KEY] == alone(PROMPT, 7, most)
    assert sum(scored(drive)) == 199


def test_a_record_with_output_has_told_already() -> None:
    drive = Drive(ROOMY)
    said = alone(PROMPT, 7, 4)
    message = submit(PROMPT, 0, prompt_logprobs=0)
    drive.submit(Submit(message.request, (SeqStart(0, 7, tuple(said[:2]), score=True),)))
    drive.run()
    assert not drive.scores and drive.tokens[KEY] == said


def test_cancelled_halfway_tells_nothing() -> None:
    drive = Drive(ROOMY)
    drive.submit(submit(PROMPT, 0, prompt_logprobs=0))
    drive.step()
    drive.scheduler.cancel("front", 0)
    drive.run()
    assert not drive.scores and drive.ends[KEY].reason == "cancelled"


def test_a_grant_ends_where_the_scores_do() -> None:
    scoring = Scoring(prompt_len=10, start=4)  # positions 3 … 8 score
    assert scoring.fit(0, 10, 6) == 10 and scoring.fit(0, 9, 6) == 9
    assert scoring.fit(0, 10, 5) == 8 and scoring.fit(2, 8, 1) == 2 and scoring.fit(0, 10, -3) == 4
    assert scoring.plan(5) == 2 and scoring.at == 5 and scoring.due == 4
    assert scoring.plan(10) == 4 and not scoring.due and not scoring.done
