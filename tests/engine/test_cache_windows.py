"""Window groups, case by case: what a lease holds, what a hit needs, what the tree lets go of first."""

from __future__ import annotations

from array import array
from random import Random

import pytest

from radixmill.engine.cache import Lease
from tests.engine.drive import Drive
from tests.engine.fakes import alone, lone_pages, spec, submit
from tests.engine.test_cache import Steps

WINDOW = 6


def held(lease: Lease, group: int = 1) -> list[int]:
    """Page indices of a window group that the lease may read."""
    return list(range(lease.firsts[group - 1], len(lease.pages[group])))


def press(steps: Steps) -> None:
    """Have the tree let go of all pages of the window that no mark needs."""
    tails = steps.cache.tree.tails
    assert tails
    while tails._queue:
        tails._trim(tails._queue.popleft())
    steps.cache.check()


def test_a_window_at_32k_holds_its_tokens_to_the_page() -> None:
    """And the tree what is left: all, while nobody needs it."""
    steps, upto = Steps(pages=600, size=64, windows={128: 20}), 0
    keys = list(range(1 << 15))
    lease = steps.open(keys)
    while upto < 1 << 15:
        upto += 512
        assert lease.grow(upto)
        assert len(held(lease)) <= 128 // 64 + 1 + 512 // 64
        steps.compute(lease, keys, upto, adopt=upto)
        assert held(lease) == [upto // 64 - 2, upto // 64 - 1]
    assert len(lease.pages[0]) == 512
    for upto in range((1 << 15) + 1, (1 << 15) + 200):
        keys.append(upto)
        steps.compute(lease, keys, upto, adopt=upto // 64 * 64 if upto % 64 == 0 else None)
        assert len(held(lease)) <= 3
    lease.drop()
    steps.cache.check()
    steps.cache.flush()
    assert all(pool.free == pool.total for pool in steps.cache.pools.groups)


def test_a_hit_where_the_tail_was_kept() -> None:
    steps = Steps(pages=40, windows={WINDOW: 40})
    steps.life(range(30))
    press(steps)
    lease = steps.open([*range(30), 1, 2, 3])
    assert lease.shared == 30 and held(lease) == [6, 7]  # the tail (24, 30) of page size 4
    assert list(lease.pages[1][:6]) == [0] * 6
    copies = steps.compute(lease, [], 31)
    assert [copy.group for copy in copies] == [0, 1] and all(copy.tokens == 2 for copy in copies)


@pytest.mark.parametrize(("window", "size"), [(6, 4), (9, 4), (8, 1), (128, 64), (1, 4), (2, 4), (2, 1)])
def test_the_same_prompt_again_is_a_hit_of_all_but_its_last_token(window: int, size: int) -> None:
    """A hit leaves the last token to compute, so it needs a page more where the window reaches back to a page's end."""
    for length in range(window + size, window + 3 * size + 3):
        steps, prompt = Steps(pages=100, size=size, windows={window: 100}), array("q", range(length))
        steps.life(prompt)
        press(steps)
        assert steps.cache.peek("", prompt) == length - 1
        lease, said = steps.open(prompt), [*prompt, *range(1000, 1003 + window)]
        steps.compute(lease, said, length)
        lease.adopt(prompt, length, rests=True)
        steps.compute(lease, said, len(said))
        lease.close(array("q", said), len(said))
        press(steps)
        assert steps.cache.peek("", prompt) == length - 1, "where a prompt ended and its answer went on"


def test_guesses_have_no_prefix_forgotten() -> None:
    """Of whichever group has too few free pages, or too many that prefixes fill."""
    steps = Steps(pages=100, windows={WINDOW: 20})
    for at in (0, 100):
        steps.life(range(at, at + 30))
    (pool,), lease = steps.cache.pools.windows, steps.open(range(500, 530))
    steps.compute(lease, [], 8)
    spare, idle = pool.free, pool.idle
    assert steps.cache.pools.free > spare > 0
    assert lease.spare(8 + 4 * spare) and not lease.spare(lease.room + 1)
    assert pool.idle == idle and steps.found(range(30)) == 30 and steps.found(range(100, 115)) == 15
    assert lease.grow(lease.room + 1) and pool.idle < idle


def test_guesses_have_nothing_forgotten_that_is_kept_beyond_measure() -> None:
    steps = Steps(pages=100, windows={WINDOW: 20})
    steps.life(range(30))
    lease, (pool,) = steps.open(range(500, 530)), steps.cache.pools.windows
    steps.cache._keeps = ((pool, pool.idle - 1),)
    assert not lease.spare(4)
    steps.cache._keeps = ((pool, pool.idle),)
    assert lease.spare(4)


def test_where_the_tail_is_gone_one_goes_on_from_an_earlier_point_and_fills_the_holes() -> None:
    steps = Steps(pages=40, windows={WINDOW: 40})
    steps.life(range(30))
    press(steps)
    branch = [*range(20), *range(100, 112)]
    assert steps.found(branch) == 0, "the tree knows 20 tokens, and nowhere among them the keys of the window"
    steps.life(branch)
    press(steps)
    assert steps.found([*branch[:20], 7, 7]) == 20, "it was filled, and a point where branches part keeps its tail"
    assert steps.found(range(30)) == 30


def test_a_point_inside_a_page_where_branches_part_gets_its_tail_back() -> None:
    steps = Steps(pages=60, windows={WINDOW: 60})
    stem, (pool,) = range(18), steps.cache.pools.windows
    for branch in (100, 200):
        steps.life([*stem, *range(branch, branch + 9)])
    while pool.idle:
        assert steps.cache.tree.tails and steps.cache.tree.tails.strip(pool)
    assert steps.life([*stem, *range(300, 309)]) == 0
    press(steps)
    assert steps.found([*stem, 7, 7]) == 18


@pytest.mark.parametrize("ends", [False, True])
def test_the_tail_where_a_sequence_was_stopped_is_kept_and_none_on_its_way(ends: bool) -> None:
    steps, keys = Steps(pages=60, windows={WINDOW: 60}), range(40)
    lease = steps.open(keys)
    for upto in range(8, 41, 8):
        steps.compute(lease, keys, upto, adopt=upto)
    press(steps)
    assert steps.found(keys) == 40 and steps.found(range(32)) == 0, "while it runs"
    lease.close(array("q", keys), 40) if ends else lease.drop()
    steps.life(range(500, 520))
    press(steps)
    assert steps.found(keys) == 40 and steps.found(range(32)) == 0
    (pool,) = steps.cache.pools.windows
    assert pool.total - pool.free == 2 + 2, "two tails of six tokens"


def test_who_goes_on_does_not_take_along_the_tail_of_one_that_was_stopped_there() -> None:
    steps, keys = Steps(pages=60, windows={WINDOW: 60}), range(33)
    stopped, other = steps.open(keys), steps.open(keys)
    for lease in (stopped, other):
        steps.compute(lease, keys, 16)
        lease.adopt(array("q", keys), 16)
    stopped.drop()
    steps.compute(other, keys, 32, adopt=32)
    press(steps)
    assert steps.found(keys[:16]) == 16


def test_nothing_is_let_go_of_before_it_is_needed() -> None:
    steps = Steps(pages=40, windows={WINDOW: 40})
    steps.life(range(30))
    assert [steps.found(range(n)) for n in range(31)] == list(range(31))


def test_what_no_mark_needs_goes_first_then_the_mark_that_was_not_used_for_longest() -> None:
    steps = Steps(pages=100, windows={WINDOW: 20})
    first, second, third = range(30), range(100, 130), range(200, 230)
    steps.life(first)
    steps.life(second)
    assert steps.found(range(15)) == 15
    steps.life(third)  # 24 pages for 20
    assert steps.found(range(15)) == 0 and steps.found(first) == 30, "the inside of the first has gone, not its end"
    for at in range(1000, 1600, 100):
        steps.life(range(at, at + 30))
    assert steps.found(first) == 0 and steps.found(range(1500, 1530)) == 30


def test_a_page_that_a_lease_reads_outlives_the_trees() -> None:
    steps = Steps(pages=40, windows={WINDOW: 9})
    keys = list(range(10))
    lease = steps.open(keys)
    steps.compute(lease, keys, 10, adopt=10)
    mine = list(lease.pages[1])
    other = steps.open([99] * 30)
    assert other.grow(24) and not set(other.pages[1]) & set(mine[1:]), "(4, 10) is still to be read"
    assert not other.grow(32), "no page of the lease's is to be had"
    steps.cache.check()


def test_a_page_waits_for_the_plan_that_may_read_it() -> None:
    steps = Steps(pages=40, windows={4: 40})
    (pool,), keys = steps.cache.pools.windows, list(range(40))
    steps.cache.reuse = False
    lease = steps.open(keys)
    steps.compute(lease, keys, 8, fly=True)
    assert pool.free == 38 and steps.cache.deferred, "page 0 has slid out, but the plan may read it"
    steps.cache.commit(0)
    assert pool.free == 39


def test_a_windows_pool_that_is_full_refuses_and_changes_nothing() -> None:
    steps = Steps(pages=40, windows={WINDOW: 4})
    steps.life(range(8))
    lease = steps.open([7] * 30)
    assert not lease.grow(20) and steps.found(range(8)) == 8
    assert lease.grow(16) and steps.found(range(8)) == 0
    steps.cache.check()


def test_a_newcomer_fits_if_every_group_has_the_pages_that_it_will_hold() -> None:
    steps = Steps(pages=100, windows={400: 10, WINDOW: 10})
    one, other = steps.open(range(20)), steps.open(range(100, 200))
    steps.compute(one, [], 20)
    fits = steps.cache.fits
    assert fits(other, 20) and not fits(other, 21), "the longer window has 5 pages left of 10"
    assert fits(other, 16, [(one, 20)]) and not fits(other, 17, [(one, 20)]), "one more for who runs"
    assert fits(other, 12, [(one, 24)]) and not fits(other, 13, [(one, 24)]), "and its prefill"
    short = Steps(pages=100, windows={WINDOW: 4})
    assert short.cache.fits(short.open(range(300)), 300), "it never holds more than its window"


@pytest.mark.parametrize("overlap", [False, True])
def test_a_window_with_fewer_pages_admits_no_more_than_it_can_hold(overlap: bool) -> None:
    """Whichever group is the scarce one, about as many are preempted."""
    preempted = []
    for pages, windows in ((100, ()), (400, (400,))):
        model = spec(pages, slots=16, context=390, windows=windows, window_pages=100)
        drive = Drive(model, overlap=overlap, check=False, step_tokens=64)
        for id in range(24):
            drive.submit(submit([id, *range(7)], id, seed=id, max_tokens=100))
        drive.run()
        preempted.append(drive.scheduler.counters.preemptions)
    assert 0 < preempted[1] < 1.2 * preempted[0], preempted


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("window_pages", [24, 32])
def test_who_waited_for_part_of_what_another_computes_finds_it(overlap: bool, window_pages: int) -> None:
    """Though the other goes on at once, in a pool that cannot keep all of it."""
    dice = Random(2)
    story, cuts = [dice.randrange(50) for _ in range(200)], (180, 150, 120, 90, 60)
    model = spec(400, windows=(8,), window_pages=window_pages)
    drive = Drive(model, step_tokens=16, overlap=overlap)
    drive.submit(submit(story, 0, max_tokens=2))
    for id, cut in enumerate(cuts, 1):
        drive.submit(submit([*story[:cut], 49 - story[cut], 3, 4], id, max_tokens=2))
    drive.run()
    assert [drive.cached["front", id] for id in range(1, 6)] == list(cuts)


def test_one_waits_for_pages_only_where_they_come_in_the_group_that_is_short() -> None:
    steps = Steps(pages=5, windows={4: 40})
    cache, (pool,) = steps.cache, steps.cache.pools.windows
    cache.reuse = False
    lease, other = steps.open(range(40)), steps.open(range(100, 140))
    steps.compute(other, [], 8)
    steps.compute(lease, [], 12, fly=True)
    assert cache.deferred and pool.free == 40 - 1 - 3 and cache.pools.free == 0
    assert not cache.awaits(1), "a page of the window is on its way, and of the other group none"
    other.plan = steps.plan - 1
    other.drop()
    assert cache.awaits(1)
    cache.commit(steps.plan - 1)
    assert not cache.awaits(3) and cache.available == 2


def test_one_waits_for_a_page_of_the_window_that_is_short() -> None:
    steps = Steps(pages=40, windows={4: 4, 400: 40})
    cache, (pool, _) = steps.cache, steps.cache.pools.windows
    cache.reuse = False
    lease = steps.open(range(40))
    steps.compute(lease, [], 12, fly=True)
    assert pool.free == 1 and not lease.grow(24) and cache.awaits(lease.need(24))
    cache.commit(steps.plan - 1)
    assert pool.free == 3 and lease.grow(24)
    assert not lease.grow(28) and not cache.awaits(1)


def test_what_slides_out_of_a_window_delays_nobody() -> None:
    """Steps are those of a model without windows, where pages that forget nothing are the scarce ones."""
    plans = []
    for windows in ((), (8,)):
        model = spec(40, slots=8, context=120, windows=windows, window_pages=400)
        drive = Drive(model, overlap=True, prefix_cache=False, step_tokens=64, speculation="off")
        for id in range(8):
            drive.submit(submit([id, *range(7)], id, seed=id, max_tokens=60))
        drive.run()
        plans.append([(plan.slots.tolist(), plan.counts.tolist()) for plan in drive.executor.plans])
        assert drive.scheduler.counters.preemptions > 3
    assert plans[0] == plans[1]


def play(window: int, size: int, *, pages: int = 40, spare: int = 0, tight: bool = True, **options: object) -> Drive:
    """Prompts with much in common, forks and all, in a pool of a window that is as small as may be."""
    least = lone_pages(window, size, 16, 4) + spare
    model = spec(pages, size, slots=4, windows=(window,), window_pages=least if tight else pages)
    drive, dice = Drive(model, step_tokens=16, **options), Random(window * size)  # type: ignore[arg-type]
    story = [dice.randrange(11) for _ in range(model.context)]
    wanted = {}
    for turn in range(6):
        prompt = [*story[: dice.randrange(1, model.context - 12)], turn]
        ids = (10 * turn, 10 * turn + 1)
        drive.submit(submit(prompt, *ids, seed=turn, max_tokens=8))
        wanted |= {id: alone(prompt, turn + n, 8) for n, id in enumerate(ids)}
        for _ in range(dice.randrange(12)):
            drive.step()
    drive.run()
    assert all(drive.tokens["front", id] == said for id, said in wanted.items())
    return drive


@pytest.mark.parametrize("size", [1, 4, 64])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 9, 63, 64, 65, 100])
@pytest.mark.parametrize("overlap", [False, True])
def test_windows_and_pages_of_any_size(size: int, window: int, overlap: bool) -> None:
    pages = {1: 120, 4: 40, 64: 5}[size]
    play(window, size, pages=pages, overlap=overlap, speculation="off" if overlap else "ngram")
    play(window, size, pages=pages, overlap=overlap, prefix_cache=False)


def test_each_window_is_told_by_itself() -> None:
    drive = Drive(spec(40, 4, windows=(6, 9), window_pages=30), speculation="off")
    drive.submit(submit(range(20), 1, max_tokens=1))
    drive.run()
    stats = drive.scheduler.stats()
    both = [{"window": w, "bytes": 4 * 30, "pages_total": 30, "pages_free": 25, "pages_evictable": 5} for w in (6, 9)]
    assert stats["kv_windows"] == both


def test_same_answers_with_room_for_more_hits() -> None:
    tight, roomy = (play(9, 4, tight=tight).scheduler.counters for tight in (True, False))
    assert tight.reused_tokens < roomy.reused_tokens and tight.computed_tokens > roomy.computed_tokens > 0
