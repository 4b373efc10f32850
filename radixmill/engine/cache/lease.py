"""Leases: the pages and the locked prefix that one sequence holds.

Knows the tree, the pools and plan numbers; knows nothing of requests, budgets or devices.

    # [0, shared)        in the tree, on the path to our locked node
    # [shared, filled)   ours alone: computed by a plan already made
    # [filled, room)     ours alone: taken, not written yet
    # pages[: owned] are the tree's, pages[owned :] ours

`owned` is shared // P where we hold a copy of (or wrote) the page in which `shared` lies, else ⌈shared / P⌉: then a write
into that page needs a copy first, because the page is the tree's.

In a group with a window a lease has, besides, a reference of its own to each page that it may still read or has not given
to the tree, whoever else has one; the others it gives back as it goes on, and lists as 0:

    # pages[: first]         0: nobody reads them
    # pages[first : owned]   the tree's too, perhaps
    # pages[owned :]         ours alone

Plans run in the order they were made, so what a plan will write may enter the tree as soon as the plan is made.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence

from radixmill.core.plan import PageCopy
from radixmill.engine.cache.node import HOLE, WIDTH, Mark, Node
from radixmill.engine.cache.pages import Pools
from radixmill.engine.cache.radix import Match, RadixTree
from radixmill.engine.cache.tails import PASSING, RESTING, Tails


class Cache:
    """All pages: the free ones, the tree's, the leases', and those that wait for a plan to be committed."""

    def __init__(
        self,
        totals: Sequence[int],
        page_size: int,
        *,
        windows: Sequence[int] = (),
        reuse: bool = True,
        keep: int | None = None,
    ) -> None:
        """`totals`: pages per KV group; of the first, which forgets nothing, and of one for each of `windows`.

        Without `reuse` nothing enters the tree. `keep`: pages of the first group that prefixes which no sequence holds may
        fill, and in proportion of the others; None: all. Beyond, the oldest are evicted before a page is taken, though
        others are free: pages are touched in order, so memory that was never needed is never used."""
        self.page_size = page_size
        self.reuse = reuse
        self.keep = totals[0] if keep is None else keep
        self.pools = Pools(totals, windows, page_size)
        self._keeps = tuple((pool, -(-self.keep * pool.total // totals[0])) for pool in self.pools.windows)
        self.tree = RadixTree(self.pools, page_size)
        self.leases: set[Lease] = set()
        self._unlocks: list[tuple[int, Node]] = []  # (plan, node)

    @property
    def available(self) -> int:
        """Pages of the first group that can be had now, evicting what nobody holds."""
        return self.pools.free + self.tree.evictable

    @property
    def deferred(self) -> bool:
        """Whether pages will come free as soon as plans already made are committed."""
        return self.pools.retired > 0 or bool(self._unlocks)

    def fits(self, lease: Lease, upto: int, others: Sequence[tuple[Lease, int]] = ()) -> bool:
        """Whether pages can be had, in every group, for positions below `upto` of a lease and for the others', each below
        its own, and for a page more of each of the others."""
        need = lease.need(upto) + sum(1 + max(other.need(until), 0) for other, until in others)
        return need <= self.available and all(
            lease.lasting(group, upto) + sum(1 + other.lasting(group, until) for other, until in others)
            <= pool.free + pool.idle
            for group, pool in enumerate(self.pools.windows, 1)
        )

    def awaits(self, count: int) -> bool:
        """Of `count` pages that could not be taken: whether in every group that is short some will come free as soon as
        plans already made are committed."""
        windows = enumerate(self.pools.windows, 1)
        slim = [group for group, pool in windows if pool.free + pool.idle < count]
        if (self.available < count or not slim) and not self._unlocks and not self.pools.awaits(0):
            return False
        return all(map(self.pools.awaits, slim))

    def peek(self, namespace: Hashable, keys: array[int]) -> int:
        """How many tokens `open` would find. Changes nothing, not even the order of eviction."""
        root = self.tree.roots.get(namespace)
        return self._find(root, keys).tokens if root and self.reuse else 0

    def open(self, namespace: Hashable, keys: array[int]) -> Lease:
        """A lease on the longest cached prefix of `keys` that leaves at least the last one to compute. Takes no page."""
        root = self.tree.root(namespace)
        node = self.tree.cut(*self._find(root, keys)) if self.reuse else root
        self.tree.lock(node)
        if self.tree.tails:
            self.tree.tails.mark(node)
        lease = Lease(self, node)
        self.leases.add(lease)
        return lease

    def _find(self, root: Node, keys: array[int]) -> Match:
        """How much of `keys` but the last is cached, as far as one can go on behind it in every group."""
        found = self.tree.match(root, keys[:-1].tobytes())
        return Match(found.node, self.tree.tails.usable(*found)) if self.tree.tails else found

    def take(self, count: int) -> tuple[array[int], ...] | None:
        """`count` pages of every group, or None and nothing taken."""
        if self.available < count or not self.could(count):
            return None
        while count and self.tree.evictable > self.keep and self.tree.evict():
            pass
        while self.pools.free < count:
            if not self.tree.evict():
                return None
        if self._keeps and count:
            self._make_windows(count)
        return self.pools.take(count)

    def could(self, count: int) -> bool:
        """Whether the groups with windows have so many pages, or the tree can let go of them."""
        return all(pool.free + pool.idle >= count for pool in self.pools.windows)

    def spares(self, count: int) -> bool:
        """Whether `take` would give so many pages without letting go of any."""
        free = count <= self.pools.free and self.tree.evictable <= self.keep
        return free and all(count <= pool.free and pool.idle <= keep for pool, keep in self._keeps)

    def _make_windows(self, count: int) -> None:
        """Have `count` pages free in each group with a window, which can be."""
        assert self.tree.tails
        for pool, keep in self._keeps:
            while (pool.free < count or pool.idle > keep) and self.tree.tails.strip(pool):
                pass

    def begin(self, plan: int) -> None:
        """A plan of this number is being made; it may name any page that a lease holds now."""
        self.pools.newest = plan

    def commit(self, plan: int) -> None:
        """Plan number `plan` and all before it are done: what only they named is free."""
        self.pools.commit(plan)
        ready = [node for last, node in self._unlocks if last <= plan]
        if ready:
            self._unlocks = [entry for entry in self._unlocks if entry[0] > plan]
            for node in ready:
                self.tree.unlock(node)

    def unlock(self, node: Node, plan: int) -> None:
        """Unlock as soon as `plan` is committed."""
        if plan <= self.pools.committed:
            self.tree.unlock(node)
        else:
            self._unlocks.append((plan, node))

    def flush(self) -> int:
        """Forget every prefix that nobody holds; how many pages of the first group that freed."""
        before = self.pools.free
        while self.tree.evict():
            pass
        return self.pools.free - before

    def conserved(self) -> bool:
        """Whether `check` finds nothing wrong."""
        try:
            self.check()
        except AssertionError:
            return False
        return True

    def check(self) -> None:
        """Everything: conservation per group with counts taken anew, locks, intervals. Linear in the cache's size."""
        self.tree.check()
        nodes = list(self.tree.walk())
        for group, pool in enumerate(self.pools.groups):
            tree = (page for node in nodes for page in node.pages[group] if page != HOLE)
            held = (page for lease in self.leases for page in lease.holds(group))
            pool.check([*tree, *held, *self.pools.quarantined(group)])
        everyone = [*nodes, *self.tree.roots.values()]
        assert sum(node.locks for node in everyone) == len(self.leases) + len(self._unlocks)
        for lease in self.leases:
            lease.check()


class Lease:
    """What one running sequence holds. Closed exactly once, by `close` or `drop`."""

    __slots__ = ("cache", "copies", "filled", "firsts", "node", "owned", "pages", "plan", "room", "shared")

    def __init__(self, cache: Cache, node: Node) -> None:
        self.cache = cache
        self.node = node
        self.shared = self.filled = node.end
        self.pages: tuple[array[int], ...] = (cache.tree.path_pages(node),)
        self.owned = len(self.pages[0])
        self.firsts: list[int] = []  # of each group with a window: index of the first page that we refer to
        self.room = 0  # positions below it can be written without `grow`
        self.plan = -1  # the last plan that names us
        self.copies: list[PageCopy] = []  # for the next plan, before its forward pass
        self._set_room()
        if cache.tree.tails:
            self._open_windows(cache.tree.tails)

    def _open_windows(self, tails: Tails) -> None:
        """Refer to the tail of what was found."""
        for group, pool in enumerate(self.cache.pools.windows, 1):
            first = pool.first(self.shared)
            ids = array("i", [0]) * first + tails.tail(self.node, group, first)
            for page in ids[first:]:
                pool.share(page)
            self.pages += (ids,)
            self.firsts.append(first)

    # --- grow

    def need(self, upto: int) -> int:
        """Pages to take before [filled, upto) can be written."""
        return -(-upto // self.cache.page_size) - len(self.pages[0]) + self._ragged

    def lasting(self, group: int, upto: int) -> int:
        """Pages of a group with a window that we will hold, as soon as [filled, upto) is written, beyond those held now."""
        will = -(-upto // self.cache.page_size) - self.cache.pools.windows[group - 1].first(upto)
        return max(will - len(self.pages[group]) + self.firsts[group - 1], 0)

    def grow(self, upto: int) -> bool:
        """Make [filled, upto) writable, evicting if need be; on False nothing has changed."""
        if upto <= self.room:
            return True
        taken = self.cache.take(max(self.need(upto), 0))
        if taken is None:
            return False
        if self._ragged:
            self._copy_tail(taken)
        for ids, new in zip(self.pages, taken, strict=True):
            ids.extend(new)
        self._set_room()
        return True

    def write(self, upto: int, plan: int) -> None:
        """Plan number `plan` names our pages and writes [filled, upto)."""
        assert self.filled < upto <= self.room
        self.filled, self.plan = upto, plan
        if self.firsts:
            self._retire_copied()
            self._slide()
        self.copies.clear()

    def spare(self, upto: int) -> bool:
        """Make [filled, upto) writable if free pages are enough, so that nobody loses anything by it."""
        return upto <= self.room or (self.cache.spares(self.need(upto)) and self.grow(upto))

    def settle(self, upto: int) -> None:
        """A plan wrote beyond `filled` on trial, and [filled, upto) is good: keep that, give back pages beyond it.

        # [filled, upto)   ours alone: good now
        # [upto, …)        stale: in the page of `upto` until written anew, which no reader goes beyond
        """
        assert self.filled <= upto <= self.room and not self._ragged
        self.filled = upto
        keep = max(-(-upto // self.cache.page_size), self.owned)
        for group, ids in enumerate(self.pages):
            for page in ids[keep:]:
                self.cache.pools.retire(group, page, self.plan)
            del ids[keep:]
        self._set_room()
        if self.firsts:
            self._slide()

    @property
    def _ragged(self) -> bool:
        """Whether the next write falls into a page of the tree."""
        return self.filled < self.owned * self.cache.page_size

    def _copy_tail(self, taken: tuple[array[int], ...]) -> None:
        """Replace the last page, which is the tree's, by a copy in a fresh one (popped from `taken`)."""
        tokens = self.filled % self.cache.page_size
        assert tokens and self.owned == len(self.pages[0])
        for group, (ids, new) in enumerate(zip(self.pages, taken, strict=True)):
            fresh = new.pop()
            self.copies.append(PageCopy(group, ids[-1], fresh, tokens))
            ids[-1] = fresh
        self.owned -= 1

    def _retire_copied(self) -> None:
        """In groups with a window we still refer to the page that was copied; the plan that copies it is made, or given up."""
        for copy in self.copies:
            if copy.group:
                self.cache.pools.retire(copy.group, copy.src, self.plan)

    def _slide(self) -> None:
        """Give back what no query will read, once the tree has had it."""
        pools, given = self.cache.pools, self.shared // self.cache.page_size
        for group, pool in enumerate(pools.windows, 1):
            first, upto = self.firsts[group - 1], pool.first(self.filled)
            if self.cache.reuse:
                upto = min(upto, given)
            ids = self.pages[group]
            for index in range(first, upto):
                pools.retire(group, ids[index], self.plan)
                ids[index] = 0
            self.firsts[group - 1] = max(first, upto)

    def _set_room(self) -> None:
        self.room = self.filled if self._ragged else len(self.pages[0]) * self.cache.page_size

    # --- give to the tree

    def adopt(self, keys: array[int], upto: int, *, rests: bool = False) -> None:
        """Let the tree have [shared, upto) of a sequence with these `keys`: whole pages, or all of [shared, filled).
        `rests`: others will probably go on from there.

        # [shared, found)  someone put it there meanwhile: keep the tree's whole pages, give ours back;
        #                  the page in which `found` lies stays ours
        # [found, upto)    only we have it: the tree takes our pages, a ragged last one too
        """
        # NOTE: a ragged page with positions of ours beyond `upto` must not become the tree's while we go on.
        assert upto == self.filled or upto % self.cache.page_size == 0 or not self.cache.reuse
        self._give(keys, upto, RESTING if rests else PASSING)

    def part(self, upto: int) -> bool:
        """If the tree has [0, upto) of ours, let it know that others will go on behind that; else False."""
        tree = self.cache.tree
        if upto > self.shared:
            return False
        if tree.tails:
            tree.tails.mark(tree.cut(self.node, upto))
        return True

    def _give(self, keys: array[int], upto: int, mark: Mark) -> None:
        assert upto <= self.filled
        if upto <= self.shared or not self.cache.reuse:
            return
        tree, size = self.cache.tree, self.cache.page_size
        tail = keys[self.shared : upto].tobytes()
        node = tree.descend(self.node, tail)
        found = node.end
        self._swap(node, found // size)
        if found < upto:
            last = -(-upto // size)
            pages = tuple(ids[found // size : last] for ids in self.pages)
            node = tree.extend(node, tail[(found - self.shared) * WIDTH :], pages)
            self.owned = last
        tree.lock(node)
        tree.unlock(self.node)
        old, self.node, self.shared = self.node, node, upto
        self._set_room()
        if tree.tails:
            tree.tails.moved(old, node, mark)
            self._slide()

    def _swap(self, node: Node, upto: int) -> None:
        """Use the tree's pages on the way to `node` instead of our own, up to page index `upto`; retire ours."""
        if upto <= self.owned:
            return
        assert self.owned == self.shared // self.cache.page_size
        tree, ids = self.cache.tree, self.pages[0]
        for page in ids[self.owned : upto]:
            self.cache.pools.retire(0, page, self.plan)
        ids[self.owned : upto] = tree.path_pages(node, below=self.node)[: upto - self.owned]
        if tree.tails:
            tree.tails.exchange(node, self.node, self.pages, range(self.owned, upto), self.plan)
        self.owned = upto

    # --- end

    def close(self, keys: array[int], upto: int) -> None:
        """The sequence has ended: the tree adopts [shared, upto), the ragged tail too; the rest goes back."""
        self._give(keys, min(upto, self.filled), RESTING)
        self.drop()

    def drop(self) -> None:
        """Give back what is ours alone, and the lock: at once, or when the last plan that names us is committed."""
        for group in range(len(self.pages)):
            for page in self.holds(group):
                self.cache.pools.retire(group, page, self.plan)
        if self.cache.tree.tails:
            self.cache.tree.tails.mark(self.node)
        self.cache.unlock(self.node, self.plan)
        self.cache.leases.remove(self)

    def holds(self, group: int) -> list[int]:
        """Pages that we refer to; in the first group only those that the tree does not."""
        if not group:
            return self.pages[0][self.owned :].tolist()
        copied = [copy.src for copy in self.copies if copy.group == group]
        return self.pages[group][self.firsts[group - 1] :].tolist() + copied

    def check(self) -> None:
        size = self.cache.page_size
        assert self.shared == self.node.end <= self.filled <= max(self.room, self.shared)
        assert self.owned in (self.shared // size, -(-self.shared // size))
        assert self.pages[0][: self.owned] == self.cache.tree.path_pages(self.node)[: self.owned]
        for pool, ids, first in zip(self.cache.pools.windows, self.pages[1:], self.firsts, strict=True):
            assert len(ids) == len(self.pages[0]) and not any(ids[:first])
            assert first <= pool.first(self.filled) and (first <= self.owned or not self.cache.reuse)
            assert all(pool.refs[page] == 1 for page in ids[self.owned :][max(first - self.owned, 0) :])
