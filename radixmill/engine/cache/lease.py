"""Leases: the pages and the locked prefix that one sequence holds.

Knows the tree, the pools and plan numbers; knows nothing of requests, budgets or devices.

    # [0, shared)        in the tree, on the path to our locked node
    # [shared, filled)   ours alone: computed by a plan already made
    # [filled, room)     ours alone: taken, not written yet
    # pages[: owned] are the tree's, pages[owned :] ours

`owned` is shared // P where we hold a copy of (or wrote) the page in which `shared` lies, else ⌈shared / P⌉: then a write
into that page needs a copy first, because the page is the tree's.

Plans run in the order they were made, so what a plan will write may enter the tree as soon as the plan is made.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence

from radixmill.core.plan import PageCopy
from radixmill.engine.cache.pages import Pools
from radixmill.engine.cache.radix import WIDTH, Node, RadixTree


class Cache:
    """All pages: the free ones, the tree's, the leases', and those that wait for a plan to be committed."""

    def __init__(self, totals: Sequence[int], page_size: int, *, reuse: bool = True, keep: int | None = None) -> None:
        """`totals`: pages per KV group. Without `reuse` nothing enters the tree. `keep`: pages that prefixes which no
        sequence holds may fill; None: all. Beyond, the oldest are evicted before a page is taken, though others are free:
        pages are touched in order, so memory that was never needed is never used."""
        self.page_size = page_size
        self.reuse = reuse
        self.keep = max(totals) if keep is None else keep
        self.pools = Pools(totals)
        self.tree = RadixTree(self.pools, page_size)
        self.leases: set[Lease] = set()
        self._unlocks: list[tuple[int, Node]] = []  # (plan, node)

    @property
    def available(self) -> int:
        """Pages that can be had now, evicting what nobody holds."""
        return self.pools.free + self.tree.evictable

    @property
    def deferred(self) -> bool:
        """Whether pages will come free as soon as plans already made are committed."""
        return self.pools.retired > 0 or bool(self._unlocks)

    def peek(self, namespace: Hashable, keys: array[int]) -> int:
        """How many tokens `open` would find. Changes nothing, not even the order of eviction."""
        root = self.tree.roots.get(namespace)
        return self.tree.match(root, keys[:-1].tobytes()).tokens if root and self.reuse else 0

    def open(self, namespace: Hashable, keys: array[int]) -> Lease:
        """A lease on the longest cached prefix of `keys` that leaves at least the last one to compute. Takes no page."""
        root = self.tree.root(namespace)
        node = self.tree.descend(root, keys[:-1].tobytes()) if self.reuse else root
        self.tree.lock(node)
        lease = Lease(self, node)
        self.leases.add(lease)
        return lease

    def take(self, count: int) -> tuple[array[int], ...] | None:
        """`count` pages of every group, or None and nothing taken."""
        if self.available < count:
            return None
        while count and self.tree.evictable > self.keep and self.tree.evict():
            pass
        while self.pools.free < count:
            if not self.tree.evict():
                return None
        return self.pools.take(count)

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
        """Forget every prefix that nobody holds; how many pages that freed (in the tightest group)."""
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
            tree = (page for node in nodes for page in node.pages[group])
            held = (page for lease in self.leases for page in lease.pages[group][lease.owned :])
            pool.check([*tree, *held, *self.pools.quarantined(group)])
        everyone = [*nodes, *self.tree.roots.values()]
        assert sum(node.locks for node in everyone) == len(self.leases) + len(self._unlocks)
        for lease in self.leases:
            lease.check()


class Lease:
    """What one running sequence holds. Closed exactly once, by `close` or `drop`."""

    __slots__ = ("cache", "copies", "filled", "node", "owned", "pages", "plan", "room", "shared")

    def __init__(self, cache: Cache, node: Node) -> None:
        self.cache = cache
        self.node = node
        self.shared = self.filled = node.end
        self.pages = cache.tree.path_pages(node)
        self.owned = len(self.pages[0])
        self.room = 0  # positions below it can be written without `grow`
        self.plan = -1  # the last plan that names us
        self.copies: list[PageCopy] = []  # for the next plan, before its forward pass
        self._set_room()

    # --- grow

    def need(self, upto: int) -> int:
        """Pages to take before [filled, upto) can be written."""
        return -(-upto // self.cache.page_size) - len(self.pages[0]) + self._ragged

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
        self.copies.clear()

    def spare(self, upto: int) -> bool:
        """Make [filled, upto) writable if free pages are enough, so that nobody loses anything by it."""
        cache = self.cache
        free = self.need(upto) <= cache.pools.free and cache.tree.evictable <= cache.keep
        return upto <= self.room or (free and self.grow(upto))

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

    def _set_room(self) -> None:
        self.room = self.filled if self._ragged else len(self.pages[0]) * self.cache.page_size

    # --- give to the tree

    def adopt(self, keys: array[int], upto: int) -> None:
        """Let the tree have [shared, upto) of a sequence with these `keys`: whole pages, or all of [shared, filled).

        # [shared, found)  someone put it there meanwhile: keep the tree's whole pages, give ours back;
        #                  the page in which `found` lies stays ours
        # [found, upto)    only we have it: the tree takes our pages, a ragged last one too
        """
        # NOTE: a ragged page with positions of ours beyond `upto` must not become the tree's while we go on.
        assert upto == self.filled or upto % self.cache.page_size == 0 or not self.cache.reuse
        self._give(keys, upto)

    def _give(self, keys: array[int], upto: int) -> None:
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
        self.node, self.shared = node, upto
        self._set_room()

    def _swap(self, node: Node, upto: int) -> None:
        """Use the tree's pages on the way to `node` instead of our own, up to page index `upto`; retire ours."""
        if upto <= self.owned:
            return
        assert self.owned == self.shared // self.cache.page_size
        theirs = self.cache.tree.path_pages(node, below=self.node)
        for group, ids in enumerate(self.pages):
            for page in ids[self.owned : upto]:
                self.cache.pools.retire(group, page, self.plan)
            ids[self.owned : upto] = theirs[group][: upto - self.owned]
        self.owned = upto

    # --- end

    def close(self, keys: array[int], upto: int) -> None:
        """The sequence has ended: the tree adopts [shared, upto), the ragged tail too; the rest goes back."""
        self._give(keys, min(upto, self.filled))
        self.drop()

    def drop(self) -> None:
        """Give back what is ours alone, and the lock: at once, or when the last plan that names us is committed."""
        for group, ids in enumerate(self.pages):
            for page in ids[self.owned :]:
                self.cache.pools.retire(group, page, self.plan)
        self.cache.unlock(self.node, self.plan)
        self.cache.leases.remove(self)

    def check(self) -> None:
        size = self.cache.page_size
        assert self.shared == self.node.end <= self.filled <= max(self.room, self.shared)
        assert self.owned in (self.shared // size, -(-self.shared // size))
        tree = self.cache.tree.path_pages(self.node)
        for ids, theirs in zip(self.pages, tree, strict=True):
            assert ids[: self.owned] == theirs[: self.owned]
