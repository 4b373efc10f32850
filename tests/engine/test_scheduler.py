"""What the scheduler promises, case by case."""

from __future__ import annotations

import numpy as np
import pytest

from radixmill.core.messages import End, TokenDelta, TokenLogprob, Usage
from radixmill.core.plan import LAST_SAMPLED, StepPlan, StepResult
from radixmill.core.request import GenerateRequest, SamplingParams
from radixmill.engine.schedule.room import chunk
from tests.engine.drive import Drive
from tests.engine.fakes import alone, spec, submit

BOTH = pytest.mark.parametrize("overlap", [False, True])


def counts(plan: StepPlan | None) -> list[int]:
    return plan.counts.tolist() if plan else []


# --- grants


def test_chunk_ends_on_a_page_unless_it_is_the_last() -> None:
    assert chunk(computed=0, behind=10, budget=10, page_size=4) == 10
    assert chunk(computed=0, behind=10, budget=9, page_size=4) == 8
    assert chunk(computed=3, behind=10, budget=6, page_size=4) == 5
    assert chunk(computed=3, behind=10, budget=1, page_size=4) == 1
    assert chunk(computed=4, behind=10, budget=3, page_size=4) == 3


def test_prefill_is_cut_and_decode_goes_on_beside_it() -> None:
    drive = Drive(spec(pages=64, page_size=4), step_tokens=20)
    drive.submit(submit([1, 2, 3], 0, max_tokens=8))
    assert counts(drive.step()) == [3]
    drive.submit(submit(range(40), 1, max_tokens=2))
    assert counts(drive.step()) == [1, 16]  # 19 left, to a page's end
    assert counts(drive.step()) == [1, 16]
    plan = drive.step()
    assert plan and counts(plan) == [1, 8] and plan.samples.tolist() == [True, True]
    drive.run()
    assert drive.tokens["front", 1] == alone(range(40), 7, 2)


def test_decode_rows_are_never_cut_by_the_budget_nor_do_they_shut_out_prefill() -> None:
    drive = Drive(spec(pages=300, slots=41), step_tokens=16, max_running_requests=41)
    for i in range(40):
        drive.submit(submit([i], i, max_tokens=50))
    for _ in range(10):
        drive.step()
    assert counts(drive.step()) == [1] * 40
    drive.submit(submit([45] * 50, 40))
    assert counts(drive.step()) == [1] * 40 + [16]


def test_the_plan_says_what_the_device_must_know() -> None:
    drive = Drive(spec(page_size=4), overlap=True)
    drive.submit(submit([5, 6, 7, 8, 9], 3, seed=11, max_tokens=3, output=(1,), stop_token_ids=(2,)))
    first, second = drive.step(), drive.step()
    assert first and second
    (card,) = first.admits
    assert (card.prompt, card.output, card.seed, card.stop_ids) == ((5, 6, 7, 8, 9), (1,), 11, frozenset({2}))
    assert (
        first.tokens.tolist() == [5, 6, 7, 8, 9, 1]
        and first.starts.tolist() == [0]
        and first.samples.tolist() == [True]
    )
    assert len(first.pages[0].ids) == 2 and first.pages[0].starts.tolist() == [0, 2]
    assert second.tokens.tolist() == [LAST_SAMPLED] and second.starts.tolist() == [6] and not second.admits
    # The prompt's ragged page is the tree's by now: the next write goes to a copy.
    (copy,) = second.copies
    assert (copy.src, copy.dst, copy.tokens) == (first.pages[0].ids[1], second.pages[0].ids[1], 2)


def test_running_rows_are_limited_by_slots_and_by_the_option() -> None:
    for slots, most in ((2, 8), (8, 2)):
        drive = Drive(spec(slots=slots), max_running_requests=most)
        drive.submit(submit([1], *range(5)))
        drive.submit(submit([2], *range(5, 9)))
        while drive.step():
            assert len(drive.scheduler.running.rows) <= 2


# --- ends


@BOTH
def test_each_way_to_end(overlap: bool) -> None:
    drive = Drive(spec(context=20), overlap=overlap)
    said = alone([1, 2], 7, 30)
    drive.submit(submit([1, 2], 0, max_tokens=5))
    drive.submit(submit([1, 2], 1, max_tokens=30, stop_token_ids=(said[3],)))
    drive.submit(submit([1, 2], 2, max_tokens=30))  # to the context's end
    drive.submit(submit([1, 2], 3, max_tokens=0))
    drive.submit(submit([1, 2], 4, max_tokens=30))
    drive.step()
    drive.scheduler.cancel("front", 4)
    drive.scheduler.cancel("front", 4)
    drive.scheduler.cancel("front", 99)
    drive.run()
    ends = {seq: (end.reason, end.token, end.usage.completion) for (_, seq), end in drive.ends.items()}
    cut = said.index(said[3]) + 1
    assert ends.pop(4)[:2] == ("cancelled", None)
    assert ends == {0: ("length", None, 5), 1: ("stop", said[3], cut), 2: ("length", None, 18), 3: ("length", None, 0)}
    assert drive.tokens["front", 1] == said[:cut]  # the end token is told, as the last


def test_end_tokens_of_the_model_count_unless_ignored() -> None:
    eos = alone([1, 2], 7, 3)[1]
    drive = Drive(spec(eos=(eos,)))
    drive.submit(submit([1, 2], 0, max_tokens=3))
    drive.submit(submit([1, 2], 1, max_tokens=3, ignore_eos=True))
    drive.run()
    assert [drive.ends["front", i].reason for i in (0, 1)] == ["stop", "length"]


def test_nothing_left_to_do_for_a_resumed_sequence() -> None:
    """A record that was complete when the engine died ends at once, with the same reason."""
    drive = Drive(spec())
    said = tuple(alone([1, 2], 7, 5))
    drive.submit(submit([1, 2], 0, max_tokens=5, output=said))
    drive.submit(submit([1, 2], 1, max_tokens=9, output=said, stop_token_ids=(said[-1],)))
    assert drive.step() is None
    assert [(drive.ends["front", i].reason, drive.ends["front", i].token) for i in (0, 1)] == [
        ("length", None),
        ("stop", said[-1]),
    ]


def test_what_cannot_run_fails_alone() -> None:
    drive = Drive(spec(pages=6, page_size=4, context=16))
    drive.submit(submit([1] * 17, 0))
    drive.submit(submit([], 1))
    request = GenerateRequest(id="x", prompt=(1, 2), sampling=SamplingParams(max_tokens=3), numerics="another")
    drive.submit(type(submit([1], 0))(request, submit([1], 2).seqs))
    drive.submit(submit([1, 2], 3))
    drive.run()
    assert [drive.ends["front", i].reason for i in range(4)] == ["failed"] * 3 + ["length"]
    assert "17" in drive.ends["front", 0].detail and "another" in drive.ends["front", 2].detail


def test_a_live_id_submitted_again_goes_on() -> None:
    drive = Drive(spec())
    drive.submit(submit([1, 2], 0, max_tokens=6))
    drive.step()
    drive.scheduler.submit("front", submit([1, 2], 0, max_tokens=6))
    drive.run()
    assert drive.tokens["front", 0] == alone([1, 2], 7, 6)


@BOTH
def test_a_client_that_goes_away_takes_its_sequences_along(overlap: bool) -> None:
    drive = Drive(spec(slots=2), overlap=overlap)
    drive.submit(submit([1, 2], 0, 1, 2, max_tokens=30), "gone")
    drive.submit(submit([1, 2], 0, max_tokens=5), "here")
    drive.step()
    drive.scheduler.cancel("gone", 2)
    drive.scheduler.drop_client("gone")
    drive.run()
    assert set(drive.ends) == {("here", 0)}


def test_logprobs_go_with_their_token() -> None:
    scheduler = Drive(spec()).scheduler
    scheduler.submit("a", submit([1], 0, max_tokens=1, logprobs=0))
    plan = scheduler.schedule()
    assert plan
    told = scheduler.commit(plan, StepResult(plan.step, np.array([4]), (TokenLogprob(-0.5),)))
    assert told == [("a", TokenDelta(0, 0, (4,), (TokenLogprob(-0.5),), End("length", Usage(1, 1, 0)), 0))]


# --- preemption and order


@BOTH
def test_the_youngest_of_the_lowest_priority_gives_way(overlap: bool) -> None:
    drive = Drive(spec(pages=12, page_size=2, context=20), overlap=overlap)
    drive.submit(submit([1, 1], 0, max_tokens=18, priority=1))
    drive.submit(submit([2, 2], 1, max_tokens=18))
    drive.submit(submit([3, 3], 2, max_tokens=18))
    drive.submit(submit([4, 4], 3, max_tokens=18, priority=1))
    left: list[int] = []
    before = set()
    while not drive.scheduler.idle:
        drive.step()
        rows = {seq.id for seq in drive.scheduler.running.rows}
        left += sorted(before - rows - {seq for _, seq in drive.ends})
        before = rows
    assert left[:2] == [2, 1] and 0 not in left
    assert {seq: drive.tokens["front", seq] for seq in range(4)} == {i: alone([i + 1] * 2, 7, 18) for i in range(4)}


@BOTH
def test_a_row_already_granted_can_still_give_way(overlap: bool) -> None:
    """An old prompt, computed in chunks, finds that a younger stream has taken its last pages; nobody is let in meanwhile."""
    drive = Drive(spec(pages=42, page_size=2, context=80), overlap=overlap, step_tokens=17)
    drive.submit(submit([1] * 79, 0, max_tokens=1))
    drive.submit(submit([2], 1, max_tokens=30))
    drive.submit(submit([3], 2, max_tokens=1))
    plan = drive.step()
    assert counts(plan) == [16, 1]
    young = drive.scheduler.running.last
    for _ in range(6):
        if drive.scheduler.counters.preemptions:
            break
        plan = drive.step()
    assert young.state == "waiting" and (plan is None or not plan.admits)
    drive.run()
    assert drive.tokens["front", 0] == alone([1] * 79, 7, 1) and drive.tokens["front", 1] == alone([2], 7, 30)


def test_streams_go_on_while_a_more_urgent_prompt_is_computed() -> None:
    drive = Drive(spec(pages=64, page_size=4), step_tokens=16)
    drive.submit(submit([1, 2, 3], 0, max_tokens=20))
    drive.step()
    drive.submit(submit([4] * 100, 1, max_tokens=1, priority=1))
    assert counts(drive.step()) == counts(drive.step()) == counts(drive.step()) == [1, 16]


def test_priority_then_arrival() -> None:
    drive = Drive(spec(slots=1))
    for i, priority in enumerate([0, 2, 1, 2]):
        drive.submit(submit([i], i, max_tokens=1, priority=priority))
    drive.run()
    assert [seq for _, seq in drive.ends] == [1, 3, 2, 0]


def test_lpm_prefers_what_is_cached() -> None:
    drive = Drive(spec(slots=1, page_size=4), schedule_policy="lpm")
    drive.submit(submit(range(12), 0, max_tokens=1))
    drive.run()
    drive.submit(submit([9] * 12, 1, max_tokens=1))
    drive.submit(submit([*range(6), 9], 2, max_tokens=1))
    drive.submit(submit([*range(9), 9], 3, max_tokens=1))
    drive.run()
    assert [seq for _, seq in drive.ends] == [0, 3, 2, 1]
    assert [drive.cached["front", i] for i in range(4)] == [0, 0, 6, 9]


def test_lpm_starves_nobody() -> None:
    """A sequence that nothing is cached for, while better ones keep coming."""
    drive = Drive(spec(slots=1, context=64), schedule_policy="lpm")
    drive.submit(submit(range(40), 0, max_tokens=1))
    drive.run()
    drive.submit(submit([9] * 10, 1, max_tokens=1))
    for i in range(2, 60):
        drive.submit(submit([*range(39), i], i, max_tokens=1))
        drive.submit(submit([*range(38), i], 100 + i, max_tokens=1))
        drive.step()
    order = [seq for _, seq in drive.ends]
    assert 1 in order and 5 < order.index(1) <= 18


def test_fcfs_does_not_let_small_ones_past_a_big_one() -> None:
    drive = Drive(spec(pages=20, page_size=2, slots=4, context=36), step_tokens=512)
    drive.submit(submit([1] * 20, 0, max_tokens=10))
    drive.step()
    drive.submit(submit([2] * 30, 1, max_tokens=1))
    drive.submit(submit([3] * 2, 2, max_tokens=1))
    drive.run()
    assert [seq for _, seq in drive.ends] == [0, 1, 2]


# --- reuse


def test_tenants_do_not_share() -> None:
    drive = Drive(spec())
    for i, tenant in enumerate(["a", "b", "a"]):
        drive.submit(submit(range(20), i, max_tokens=1, tenant=tenant))
        drive.run()
    assert [drive.cached["front", i] for i in range(3)] == [0, 0, 19]


def test_cached_is_what_the_first_admission_found() -> None:
    """A preempted sequence finds its own pages again; that does not count."""
    drive = Drive(spec(pages=12, page_size=2, context=20))
    drive.submit(submit([1, 1], 0, max_tokens=18))
    drive.submit(submit([2, 2], 1, max_tokens=18))
    drive.run()
    assert drive.scheduler.counters.preemptions
    assert [drive.ends["front", i].usage.cached for i in (0, 1)] == [0, 0]


def test_outputs_are_reused_in_the_next_turn_to_the_token() -> None:
    drive = Drive(spec(page_size=8))
    drive.submit(submit(range(10), 0, max_tokens=7))
    drive.run()
    history = [*range(10), *drive.tokens["front", 0]]
    drive.submit(submit([*history, 1, 2, 3], 1, max_tokens=2))
    drive.run()
    assert drive.cached["front", 1] == len(history) - 1  # nobody has computed the last token's KV


def test_a_long_conversation_costs_no_page_more_than_it_fills() -> None:
    """Every turn begins inside a page; the copies must not pile up."""
    drive = Drive(spec(pages=22, page_size=8))
    history: list[int] = []
    for turn in range(30):
        history += [turn % 5, 1, 2]
        drive.submit(submit(history, turn, max_tokens=2))
        drive.run()
        history += drive.tokens["front", turn]
        cache = drive.scheduler.cache
        assert cache.pools.groups[0].total - cache.pools.free == -(-(len(history) - 1) // 8)
    assert drive.computed == sum(1 + 3 + 1 for _ in range(30)) - 1


def test_no_prefix_cache() -> None:
    drive = Drive(spec(), prefix_cache=False)
    drive.submit(submit(range(20), 0, 1, max_tokens=2))
    drive.run()
    assert drive.computed == 2 * 21 and drive.cached == {("front", 0): 0, ("front", 1): 0}
    assert not drive.scheduler.cache.tree.nodes


@BOTH
@pytest.mark.parametrize("page_size", [1, 16, 64])
@pytest.mark.parametrize("step_tokens", [512, 2048])
def test_eight_with_one_prefix_compute_it_once(overlap: bool, page_size: int, step_tokens: int) -> None:
    prefix = [i % 43 for i in range(900)]
    drive = Drive(
        spec(pages=16000 // page_size, page_size=page_size, context=8192),
        overlap=overlap,
        check=False,
        step_tokens=step_tokens,
    )
    for i in range(8):
        drive.submit(submit([*prefix, 44 + i, *range(13)], i, max_tokens=1))
    drive.run()
    assert drive.computed == 900 + 8 * 14
    assert [drive.cached["front", i] for i in range(8)] == [0] + [900] * 7


@BOTH
@pytest.mark.parametrize("length", [31, 32, 33])
def test_forks_of_one_prompt_compute_it_once(overlap: bool, length: int) -> None:
    drive = Drive(spec(page_size=8, context=40), overlap=overlap, step_tokens=16)
    drive.submit(submit(range(length), *range(5), max_tokens=1))
    drive.run()
    assert drive.computed == length + 4  # the last token of each is its own to compute
    assert [drive.tokens["front", i] for i in range(5)] == [alone(range(length), 7 + i, 1) for i in range(5)]


def test_nobody_waits_for_little() -> None:
    """4 tokens in common of 40: not worth a step."""
    drive = Drive(spec(page_size=8, context=80, pages=64), step_tokens=512)
    drive.submit(submit([*range(4), *[7] * 36], 0, max_tokens=1))
    drive.submit(submit([*range(4), *[8] * 36], 1, max_tokens=1))
    assert counts(drive.step()) == [40, 40]


def test_who_waits_goes_on_when_the_other_is_cancelled() -> None:
    drive = Drive(spec(page_size=8, context=120, pages=64), step_tokens=16)
    drive.submit(submit(range(100), 0, 1, max_tokens=1))
    drive.step()
    assert len(drive.scheduler.running.rows) == 1
    drive.scheduler.cancel("front", 0)
    drive.run()
    assert drive.ends["front", 1].reason == "length" and drive.cached["front", 1] == 16


def test_flush() -> None:
    drive = Drive(spec(page_size=4))
    drive.submit(submit(range(16), 0, max_tokens=1))
    drive.run()
    assert drive.scheduler.flush_cache() == 4 and drive.scheduler.stats()["pages_free"] == 64
    drive.submit(submit(range(16), 1, max_tokens=1))
    drive.run()
    assert drive.cached["front", 1] == 0


@BOTH
def test_who_must_run_alone_goes_first_until_it_has_said_something(overlap: bool) -> None:
    drive = Drive(spec(page_size=4, pages=64, slots=4), overlap=overlap, step_tokens=16)
    drive.submit(submit(range(10), 0, 1, max_tokens=6))
    drive.step()
    drive.submit(submit(range(20, 56), 2, max_tokens=3, alone=True, priority=-1))
    drive.submit(submit(range(5), 3, max_tokens=3, priority=1))
    steps = []
    while ("front", 2) not in drive.ends:
        if drive.step():
            steps.append(drive.last)
    first = next(i for i, rows in enumerate(steps) if 2 in rows)
    assert steps[first : first + 3] == [[2]] * 3  # a prefill of 36 tokens at 16 a step
    assert len(steps[first + 3]) > 1 and 2 in steps[first + 3]
    drive.run()
    assert drive.tokens["front", 2] == alone(range(20, 56), 7, 3)
    assert drive.tokens["front", 3] == alone(range(5), 7, 3)


@BOTH
def test_room_is_made_for_who_must_run_alone(overlap: bool) -> None:
    """A full pool, and no free slot: the others give way, and go on afterwards."""
    drive = Drive(spec(page_size=4, pages=8, slots=2), overlap=overlap)
    for i in range(2):
        drive.submit(submit([i, *range(8)], i, max_tokens=6))
    drive.step()
    assert not drive.scheduler.running.free_slots
    drive.submit(submit(range(30, 52), 2, max_tokens=2, alone=True))
    while drive.last != [2]:
        drive.step()
    drive.run()
    assert drive.scheduler.counters.preemptions >= 2
    assert drive.tokens["front", 2] == alone(range(30, 52), 7, 2)
    assert all(drive.tokens["front", i] == alone([i, *range(8)], 7, 6) for i in range(2))


def test_who_must_run_alone_and_is_cancelled_holds_nobody_up() -> None:
    drive = Drive(spec(page_size=4, pages=64), step_tokens=16)
    drive.submit(submit(range(100), 0, max_tokens=3, alone=True))
    drive.submit(submit(range(5), 1, max_tokens=3))
    drive.step()
    drive.scheduler.cancel("front", 0)
    drive.run()
    assert drive.tokens["front", 1] == alone(range(5), 7, 3)
