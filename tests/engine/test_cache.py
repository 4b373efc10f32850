"""The cache, case by case: what a page is shared with, what is evicted first, what a refusal changes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from radixmill.core.plan import PageCopy
from radixmill.engine.cache import Cache, Lease


class Steps:
    """A cache and plans that are committed at once, unless `fly`."""

    def __init__(
        self, pages: int = 16, size: int = 4, keep: int | None = None, windows: dict[int, int] | None = None
    ) -> None:
        """`windows`: and the pages of each."""
        windows = windows or {}
        self.cache = Cache([pages, *windows.values()], size, windows=list(windows), keep=keep)
        self.plan = 0

    def open(self, keys: Iterable[int], namespace: str = "") -> Lease:
        return self.cache.open(namespace, array("q", keys))

    def compute(
        self, lease: Lease, keys: Iterable[int], upto: int, *, adopt: int | None = None, fly: bool = False
    ) -> list[PageCopy]:
        """One plan that writes [filled, upto); then the tree adopts."""
        assert lease.grow(upto)
        copies = list(lease.copies)
        self.cache.begin(self.plan)
        lease.write(upto, self.plan)
        if adopt is not None:
            lease.adopt(array("q", keys), adopt)
        self.plan += 1
        if not fly:
            self.cache.commit(self.plan - 1)
        self.cache.check()
        return copies

    def life(self, keys: Iterable[int], namespace: str = "") -> int:
        """A sequence that is computed, and ends. Returns what it found."""
        keys = list(keys)
        lease = self.open(keys, namespace)
        found = lease.shared
        self.compute(lease, keys, len(keys))
        lease.close(array("q", keys), len(keys))
        self.cache.check()
        return found

    def found(self, keys: Iterable[int]) -> int:
        return self.cache.peek("", array("q", [*keys, -7]))


def test_a_match_is_exact_and_leaves_one_token() -> None:
    steps = Steps()
    steps.life(range(10))
    assert steps.life(range(10)) == 9
    assert steps.life([*range(6), 99, 98]) == 6
    assert steps.life([0]) == 0
    assert steps.life([5, 6]) == 0


def test_a_split_inside_a_page_copies_nothing_and_a_write_after_it_copies_once() -> None:
    steps = Steps()
    steps.life(range(10))
    used = steps.cache.pools.free
    lease = steps.open([*range(6), 99, 98, 97])
    assert steps.cache.pools.free == used and [node.shares for node in steps.cache.tree.walk()].count(True) == 1
    shared = lease.pages[0][1]
    (copy,) = steps.compute(lease, [], 7)
    assert copy == PageCopy(0, shared, lease.pages[0][1], 2) and lease.pages[0][1] != shared
    assert steps.compute(lease, [], 8) == []


def test_a_ragged_prompt_enters_the_tree_and_its_owner_goes_on_in_a_copy() -> None:
    steps = Steps()
    keys = list(range(12))
    lease = steps.open(keys)
    steps.compute(lease, keys, 6, adopt=6)
    tail = lease.pages[0][1]
    assert steps.found(keys[:6]) == 6
    (copy,) = steps.compute(lease, keys, 9)
    assert (copy.src, copy.tokens) == (tail, 2)
    # With the whole page adopted, the prompt's node refers to it too, and the ragged copy is free again.
    free = steps.cache.pools.free
    steps.compute(lease, keys, 9 + 1, adopt=8)
    assert steps.cache.pools.free == free + 1


def test_of_twins_the_tree_keeps_the_first_ones_pages() -> None:
    steps = Steps()
    keys = list(range(11))
    one, two = steps.open(keys), steps.open(keys)
    steps.compute(one, keys, 10)
    steps.compute(two, keys, 10)
    own = list(two.pages[0])
    one.adopt(array("q", keys), 10)
    two.adopt(array("q", keys), 10)
    assert list(two.pages[0]) == [*one.pages[0][:2], own[2]]  # whole pages are the tree's, the ragged one is private
    assert two.grow(11) and not two.copies
    steps.cache.check()


def test_pages_given_back_wait_for_the_last_plan_that_names_them() -> None:
    steps = Steps(pages=4)
    lease = steps.open(range(9))
    steps.compute(lease, [], 4)
    steps.compute(lease, [], 8, fly=True)
    lease.drop()
    assert steps.cache.available == 2 and steps.cache.deferred
    steps.cache.commit(steps.plan - 1)
    assert steps.cache.available == 4 and not steps.cache.deferred


def test_a_lock_lasts_as_long() -> None:
    steps = Steps(pages=4)
    steps.life(range(8))
    lease = steps.open(range(9))
    steps.compute(lease, range(9), 9, fly=True)
    lease.drop()
    assert steps.cache.take(3) is None and steps.cache.tree.evictable == 0
    steps.cache.commit(steps.plan - 1)
    assert steps.cache.take(4) is not None


def test_a_refusal_changes_nothing() -> None:
    steps = Steps(pages=4, windows={6: 4})
    steps.life(range(8))
    lease = steps.open([7, *range(20)])
    assert not lease.grow(17)
    assert steps.found(range(8)) == 8 and not lease.pages[0]
    assert lease.grow(16) and steps.found(range(8)) == 0
    steps.cache.check()


def test_eviction_is_least_recently_used_first_leaf_by_leaf() -> None:
    steps = Steps(pages=12)
    stem = list(range(8))
    for branch in (100, 200, 300):
        steps.life([*stem, *range(branch, branch + 4)])
    steps.life([9] * 4)
    steps.life([*stem, 100, 101])  # touches the stem and 100's branch, whose rest is older than all
    order = []
    for _ in range(8):
        before = {tuple(k): steps.found(k) for k in CASES}
        if not steps.cache.tree.evict():
            break
        steps.cache.check()
        order += [(k[0], k[-1], n, steps.found(k)) for k, n in before.items() if steps.found(k) < n]
    assert order == [
        (0, 103, 12, 10),  # [102, 103] was last used first
        (0, 203, 12, 8),
        (0, 303, 12, 8),
        (9, 9, 4, 0),
        (0, 103, 10, 9),  # its last token was computed anew, a node of its own
        (0, 103, 9, 8),
        (0, 103, 8, 0),
        (0, 203, 8, 0),
        (0, 303, 8, 0),
    ]


CASES = [*[[*range(8), *range(b, b + 4)] for b in (100, 200, 300)], [9] * 4]


def test_a_chain_goes_from_its_end_when_its_time_has_come() -> None:
    steps = Steps(pages=12)
    lease = steps.open(range(9))
    for upto in (4, 8):
        steps.compute(
            lease, range(9), upto, adopt=upto
        )  # a chain of two nodes; the upper was last used before [50] * 4
    steps.life([50] * 4)
    lease.close(array("q", range(9)), 8)
    for expected in ((8, 0), (4, 0), (0, 0)):
        assert steps.cache.tree.evict()
        assert (steps.found(range(8)), steps.found([50] * 4)) == expected


def test_namespaces_come_and_go() -> None:
    steps = Steps()
    assert [steps.life(range(8), name) for name in "aba"] == [0, 0, 7]
    assert set(steps.cache.tree.roots) == {"a", "b"}
    steps.cache.flush()
    assert not steps.cache.tree.roots
    steps.open([1, 2]).drop()
    assert not steps.cache.tree.roots


def test_stale_entries_of_the_eviction_order_are_swept() -> None:
    """A server that never runs out of pages must not remember every use of each."""
    steps = Steps()
    for _ in range(500):
        steps.life(range(8))
    assert len(steps.cache.tree._heap) < 100
    steps.cache.check()


def test_prefixes_beyond_what_is_kept_go_before_a_fresh_page_is_touched() -> None:
    steps = Steps(pages=100, keep=5)
    first, second, third = range(12), range(100, 112), range(200, 212)  # three pages each
    for keys in (first, second):
        steps.life(keys)
    assert (steps.found(first), steps.found(second)) == (12, 12), "nobody has taken a page since"
    steps.life(third)
    assert (steps.found(first), steps.found(second), steps.found(third)) == (0, 12, 12), "the oldest went"
    assert steps.cache.pools.free == 94


def test_running_sequences_may_have_every_page_whatever_is_kept() -> None:
    steps = Steps(pages=16, keep=0)
    lease = steps.open(range(64))
    steps.compute(lease, range(64), 64)
    assert steps.cache.pools.free == 0


def test_a_page_to_spare_costs_no_prefix() -> None:
    steps = Steps(pages=100, keep=1)
    steps.life(range(12))
    lease = steps.open([7])
    assert not lease.spare(1) and steps.found(range(12)) == 12
    assert lease.grow(1) and steps.found(range(12)) == 0
