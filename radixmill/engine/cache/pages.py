"""Page bookkeeping. Knows ids, reference counts and plan numbers; knows nothing of tensors, devices or requests."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence


class PagePool:
    """The pages 0 … total − 1 of one KV group: free, or referenced by so many holders."""

    __slots__ = ("_free", "refs", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.refs = [0] * total
        self._free = list(range(total - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> array[int]:
        """`count` free pages, each with one reference. The caller has checked that there are as many."""
        cut = len(self._free) - count
        assert cut >= 0
        taken = array("i", self._free[cut:])
        del self._free[cut:]
        for page in taken:
            self.refs[page] = 1
        return taken

    def share(self, page: int) -> None:
        assert self.refs[page] > 0
        self.refs[page] += 1

    def drop(self, page: int) -> None:
        refs = self.refs[page] - 1
        assert refs >= 0
        self.refs[page] = refs
        if not refs:
            self._free.append(page)

    def check(self, held: Iterable[int]) -> None:
        """`held` names each page once per holder: the counts must agree, and free + distinct(held) == total."""
        counted = [0] * self.total
        for page in held:
            counted[page] += 1
        assert counted == self.refs, [
            (p, c, r) for p, (c, r) in enumerate(zip(counted, self.refs, strict=True)) if c != r
        ]
        assert len(set(self._free)) == len(self._free)
        assert not any(self.refs[page] for page in self._free)
        assert self.free + sum(count > 0 for count in counted) == self.total


class WindowPool(PagePool):
    """The pages of a group whose queries look back no further than a window. Leases and tree nodes each have references of
    their own, so the tree may let go of any page at any time.

    kept    references of each page that are the tree's
    idle    pages that only the tree refers to: to be had by making it let go of them
    """

    __slots__ = ("idle", "kept", "page_size", "window")

    def __init__(self, total: int, window: int, page_size: int) -> None:
        """`window`: positions a query looks back, itself included."""
        super().__init__(total)
        self.window = window
        self.page_size = page_size
        self.kept = [0] * total
        self.idle = 0

    def first(self, upto: int) -> int:
        """Index of the first page that queries at position `upto`, or behind it, may read; never beyond the one it is in."""
        return max(upto + 1 - self.window, 0) // self.page_size

    def share(self, page: int) -> None:
        self.idle -= self._is_idle(page)
        super().share(page)

    def drop(self, page: int) -> None:
        super().drop(page)
        self.idle += self._is_idle(page)

    def keep(self, page: int) -> None:
        """One more node of the tree refers to it, besides a lease or another node."""
        super().share(page)
        self.kept[page] += 1

    def forgo(self, page: int) -> None:
        """A node refers to it no more."""
        self.idle -= self._is_idle(page)
        self.kept[page] -= 1
        super().drop(page)
        self.idle += self._is_idle(page)

    def _is_idle(self, page: int) -> bool:
        return self.refs[page] == self.kept[page] > 0

    def check_kept(self, kept: Iterable[int]) -> None:
        """`kept` names each page once per node."""
        counted = [0] * self.total
        for page in kept:
            counted[page] += 1
        assert counted == self.kept
        assert self.idle == sum(map(self._is_idle, range(self.total)))


class Pools:
    """One pool per KV group, and the pages that wait for a plan to be committed before they are free."""

    def __init__(self, totals: Sequence[int], windows: Sequence[int] = (), page_size: int = 1) -> None:
        """`totals`: of the group that forgets nothing, then of each that has a window."""
        self.full = PagePool(totals[0])
        sizes = zip(totals[1:], windows, strict=True)
        self.windows = tuple(WindowPool(total, window, page_size) for total, window in sizes)
        self.groups = (self.full, *self.windows)
        self.newest = -1  # the last plan made, or being made
        self.committed = -1
        self._retired: list[tuple[int, int, int]] = []  # (plan, group, page)

    @property
    def free(self) -> int:
        """Of the group that forgets nothing."""
        return self.full.free

    @property
    def retired(self) -> int:
        return len(self._retired)

    def take(self, count: int) -> tuple[array[int], ...]:
        return tuple(pool.take(count) for pool in self.groups)

    def retire(self, group: int, page: int, plan: int) -> None:
        """Drop one reference as soon as `plan`, the last that may name the page, is committed."""
        if plan <= self.committed:
            self.groups[group].drop(page)
        else:
            self._retired.append((plan, group, page))

    def commit(self, plan: int) -> None:
        self.committed = plan
        if not self._retired:
            return
        waiting = self._retired
        self._retired = []
        for entry in waiting:
            self.retire(entry[1], entry[2], entry[0])

    def awaits(self, group: int) -> bool:
        """Whether pages of this group wait for a plan."""
        return any(entry[1] == group for entry in self._retired)

    def quarantined(self, group: int) -> list[int]:
        return [page for _, g, page in self._retired if g == group]
