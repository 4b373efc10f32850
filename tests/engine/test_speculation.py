"""Guesses in the scheduler: what they may use, what becomes of them, and that nobody else notices."""

from __future__ import annotations

from array import array
from random import Random

import numpy as np
import pytest

from radixmill.core.config import ScheduleOptions
from radixmill.core.messages import End, TokenDelta, TokenLogprob, Usage
from radixmill.core.plan import NO_TOKEN, StepResult
from radixmill.engine.cache import Cache
from radixmill.engine.schedule import Scheduler
from radixmill.engine.schedule.draft import Draft
from radixmill.engine.schedule.guess import CROWD
from tests.engine.drive import Drive
from tests.engine.fakes import Prophet, alone, spec, submit


def seer(drive: Drive, *truths: list[int], skill: float = 1.0, most: int = 3) -> Prophet:
    """Let the drive's scheduler guess from these; always as much as it may."""
    prophet = Prophet(Random(0), skill, most)
    prophet.dice.randint = lambda a, b: b  # type: ignore[method-assign]
    prophet.truths += truths
    drive.scheduler.guesser = prophet
    return prophet


@pytest.mark.parametrize("page_size", [1, 4, 64])
def test_right_guesses_save_steps_and_nothing_is_computed_twice(page_size: int) -> None:
    drive = Drive(spec(pages=640 // page_size, page_size=page_size))
    seer(drive, [1, 2, 3, *alone([1, 2, 3], 7, 40)])
    drive.submit(submit([1, 2, 3], 0, max_tokens=21))
    assert drive.run() == 1 + 20 // 4
    assert drive.tokens["front", 0] == alone([1, 2, 3], 7, 21)
    assert drive.computed == 3 + 20
    counters = drive.scheduler.stats()
    assert (counters["drafted"], counters["accepted"]) == (15, 15)


def test_wrong_guesses_cost_no_step() -> None:
    drive = Drive(spec())
    seer(drive, [1, 2, 3, *[99] * 40])
    drive.submit(submit([1, 2, 3], 0, max_tokens=20))
    assert drive.run() == 20 and drive.tokens["front", 0] == alone([1, 2, 3], 7, 20)
    assert drive.scheduler.counters.drafted > 40 and not drive.scheduler.counters.accepted


def test_what_was_right_is_reused_and_what_was_wrong_is_not() -> None:
    """The next turn finds every token that the last one said, in pages that held wrong guesses meanwhile."""
    drive = Drive(spec(page_size=4))
    said = alone([1, 2, 3], 7, 18)
    seer(drive, [1, 2, 3, *said], skill=0.6, most=8)
    drive.submit(submit([1, 2, 3], 0, max_tokens=18))
    drive.run()
    assert 5 < drive.scheduler.counters.accepted < drive.scheduler.counters.drafted
    drive.submit(submit([1, 2, 3, *said, 5], 1, max_tokens=2))
    drive.run()
    assert drive.cached["front", 1] == 3 + 17


def guessing(max_tokens: int, guesses: list[int], **more: object) -> tuple[Scheduler, object]:
    """A scheduler and its plan, whose one row has said 4 and checks these guesses."""
    drive = Drive(spec())
    seer(drive, [1, 4, *guesses], most=len(guesses))
    drive.scheduler.submit("a", submit([1], 0, max_tokens=max_tokens, **more))
    first = drive.scheduler.schedule()
    assert first
    drive.scheduler.commit(first, StepResult(first.step, np.array([4]), (TokenLogprob(-4.0),)))
    plan = drive.scheduler.schedule()
    assert plan and plan.tokens.tolist() == [4, *guesses]
    return drive.scheduler, plan


def test_nothing_counts_after_a_stop_token() -> None:
    """Even if the device goes on."""
    scheduler, plan = guessing(9, [5, 6, 7], stop_token_ids=(8,), logprobs=0)
    drawn, logprobs = np.array([5, 8, 7, 9]), tuple(TokenLogprob(-float(n)) for n in range(4))
    told = scheduler.commit(plan, StepResult(plan.step, drawn, logprobs))
    assert told == [("a", TokenDelta(0, 1, (5, 8), logprobs[:2], End("stop", Usage(1, 3, 0), 8)))]
    assert scheduler.idle and not scheduler.pending()
    assert (scheduler.counters.drafted, scheduler.counters.accepted) == (3, 1)


def test_nothing_counts_after_the_last_token() -> None:
    scheduler, plan = guessing(4, [5, 6])
    told = scheduler.commit(plan, StepResult(plan.step, np.array([5, 6, 7, 8])[:3]))
    assert told == [("a", TokenDelta(0, 1, (5, 6, 7), None, End("length", Usage(1, 4, 0))))]


def test_a_run_has_as_many_logprobs_as_tokens() -> None:
    scheduler, plan = guessing(9, [5, 6, 7], logprobs=0)
    drawn = np.array([5, 9, NO_TOKEN, NO_TOKEN])
    told = scheduler.commit(plan, StepResult(plan.step, drawn, (TokenLogprob(-1.0), TokenLogprob(-2.0), None, None)))
    assert told == [("a", TokenDelta(0, 1, (5, 9), (TokenLogprob(-1.0), TokenLogprob(-2.0))))]


def test_a_row_cancelled_while_its_guesses_are_checked() -> None:
    scheduler, plan = guessing(9, [5, 6, 7])
    scheduler.cancel("a", 0)
    assert scheduler.commit(plan, StepResult(plan.step, np.array([5, 6, 7, 8]))) == []
    scheduler.cache.check()
    assert not scheduler.cache.leases and scheduler.cache.available == 64


def test_a_row_preempted_while_its_guesses_are_checked() -> None:
    """It keeps the tokens; nothing that it computed for them."""
    drive = Drive(spec(page_size=2))
    seer(drive, [1, 2, 3, *alone([1, 2, 3], 7, 40)], skill=0.8)
    drive.submit(submit([1, 2, 3], 0, max_tokens=30))
    preempted = 0
    while not drive.scheduler.idle:
        plan = drive.scheduler.schedule()
        assert plan
        ticket = drive.executor.launch(plan)
        ticket.sample(None)
        for seq in drive.scheduler.running.rows[:]:
            if seq.guessed and preempted < 3:
                drive.scheduler.room.preempt(seq, Draft(0))
                preempted += 1
        drive._land(plan, ticket)
        drive.scheduler.cache.check()
    drive.check_idle()
    assert preempted == 3 and drive.tokens["front", 0] == alone([1, 2, 3], 7, 30)


def test_overlap_does_without() -> None:
    """Something always flies, so what comes before a guess is never known; results are the same."""
    drive = Drive(spec(), overlap=True)
    seer(drive, [1, 2, 3, *alone([1, 2, 3], 7, 40)])
    drive.submit(submit([1, 2, 3], 0, max_tokens=30))
    drive.run()
    assert drive.tokens["front", 0] == alone([1, 2, 3], 7, 30)
    assert all(plan.guesses is None for plan in drive.executor.plans)


# --- what guesses may use


def test_guesses_take_only_what_real_work_leaves() -> None:
    drive = Drive(spec(pages=64, page_size=4), step_tokens=16)
    seer(drive, [1, 2, 3, *alone([1, 2, 3], 7, 60)], most=30)
    drive.submit(submit([1, 2, 3], 0, max_tokens=60))
    drive.step()
    drive.submit(submit([4] * 100, 1, max_tokens=1))
    plan = drive.step()
    assert plan and plan.counts.tolist() == [1, 16] and plan.guesses is None
    drive.run()
    assert max(len(plan.tokens) for plan in drive.executor.plans) == 17  # 16, and one for each row that decodes


def test_guesses_evict_nothing() -> None:
    """All pages are in use or hold a finished prompt; a row that needs one more may evict, a guess may not."""
    cache = Cache([4], 4)
    keys = array("q", range(12))
    old = cache.open("", keys)
    assert old.grow(12)
    old.write(12, -1)
    old.close(keys, 12)
    lease = cache.open("", array("q", [77] * 9))
    assert lease.grow(4) and cache.pools.free == 0 and cache.tree.evictable == 3
    lease.write(3, -1)
    assert lease.spare(4) and not lease.spare(5) and cache.tree.evictable == 3
    assert lease.grow(5) and cache.tree.evictable == 0 and cache.pools.free == 2
    assert lease.spare(16) and cache.pools.free == 0
    lease.write(5, -1)
    lease.settle(7)
    assert cache.pools.free == 2 and lease.filled == 7
    cache.check()


def test_a_crowd_does_not_even_look() -> None:
    for rows, looks in ((CROWD - 1, True), (CROWD, False)):
        drive = Drive(spec(slots=CROWD))
        for i in range(rows):
            drive.submit(submit([i, i], i, max_tokens=3))
        drive.step()
        drive.step()
        assert all((seq.memory is not None) == looks for seq in drive.scheduler.running.rows)


def test_off_is_absence() -> None:
    assert Scheduler(spec(), ScheduleOptions(speculation="off")).guesser is None
    assert Scheduler(spec(), ScheduleOptions(speculation="ngram", draft_tokens=3)).guesser.most == 3  # type: ignore[union-attr]


def test_guesses_come_from_what_was_said_before() -> None:
    """Through the real guesser: a prompt that holds the answer."""
    prompt = [1, 2, 3, *alone([1, 2, 3], 7, 2)]
    for _ in range(6):  # a text that foretells its own continuation, as far as it can
        prompt = [*prompt, *alone(prompt, 7, 3)]
    drive = Drive(spec(pages=100), speculation="ngram")
    drive.submit(submit(prompt, 0, max_tokens=200))
    drive.run()
    assert drive.tokens["front", 0] == alone(prompt, 7, 200)
    assert drive.scheduler.counters.drafted > 0
