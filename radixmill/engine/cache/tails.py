"""Which pages of window groups the tree keeps. Knows nodes, pages and order of use; knows nothing of leases or plans.

A query at position p of a group with window W reads (p − W, p] and no other key. So a sequence that is to go on behind m
tokens needs the pages of (m − W, m), the tail of m, and no page before it:

    page index      0          1          2          3              P = 4, W = 6
    upper     | 0 1 2 3 | 4 5 6 7 | 8 9 . . |                    mark at 10: tail (4, 10), pages 1 and 2
    lower                         | 8 9 0 1 | 2 3 . .|           mark at 14: tail (8, 14), pages 2 and 3

A match of m tokens is good for the largest u ≤ m whose tail is there: what follows u is computed anew, into pages that
then fill the tree's holes (`exchange`). So a hole costs time and never a wrong key.

Marks are where somebody probably goes on: the ends of prompts and sequences, where a match has ended, where branches part.
RESTING stays; PASSING is where a running sequence is, and goes on with it. A mark at m keeps the tails of m and of m − 1:
a match never covers a prompt's last token, so m − 1 is where the same prompt goes on.

Nothing is let go before its page is wanted. Then first what is in no mark's tail, in the order it came; then the mark that
was not used for longest loses its tail, as a whole.

NOTE: a node that is not queued has no page before the tail of the nearest mark at or below it, and every mark has an entry
in the heap. So as long as a page is idle, `strip` finds one.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Iterator

from radixmill.engine.cache.node import HOLE, Mark, Node
from radixmill.engine.cache.pages import Pools, WindowPool

PASSING: Mark = 1
RESTING: Mark = 2


class Tails:
    """The window groups' side of a radix tree, which tells it of every change."""

    def __init__(self, pools: Pools, page_size: int) -> None:
        self.pools = pools
        self.page_size = page_size
        self._groups = tuple(enumerate(pools.windows, 1))
        self._reach = max(pool.window for pool in pools.windows) + page_size  # no tail reaches further back
        self._queue: deque[Node] = deque()  # may have pages in no mark's tail; each node once
        self._marks: list[tuple[int, int, Node]] = []  # (used when offered, serial, node); each node once
        self._serial = 0

    # --- look

    def usable(self, node: Node, tokens: int) -> int:
        """Of `tokens` matched, the deepest node being `node`, how many a sequence can go on behind: of all ends of pages and
        nodes on the path the last whose tail is there."""
        size, hole = self.page_size, tokens  # page index: no tail from behind it is whole
        while node.parent is not None:
            stop, start = min(node.end, tokens), node.start // size
            last = -1 if self._bare(node) else min(-(-stop // size) - 1, hole)
            for index in range(last, start - 1, -1):
                if index <= hole:
                    upto = min(stop, (index + 1) * size)
                    found = self._hole(node, upto)
                    if found is None:
                        return upto
                    hole = found
            hole, node = min(hole, start) if last < 0 else hole, node.parent
        return 0

    def tail(self, node: Node, group: int, first: int) -> array[int]:
        """Pages of the path to `node` from index `first` on."""
        ids = array("i", (page for _, page in self._backwards(node, node.end, group, first)))
        ids.reverse()
        return ids

    def _hole(self, node: Node, upto: int) -> int | None:
        """Index of a page that is lacking in the tail of `upto`."""
        for group, pool in self._groups:
            for index, page in self._backwards(node, upto, group, pool.first(upto)):
                if page == HOLE:
                    return index
        return None

    def _bare(self, node: Node) -> bool:
        """Whether no tail that ends in the node is whole, at a glance."""
        lists = (node.pages[group] for group, pool in self._groups if pool.window > 1)
        return any(ids.count(HOLE) == len(ids) for ids in lists)

    def _backwards(self, node: Node, upto: int, group: int, first: int) -> Iterator[tuple[int, int]]:
        """(index, page) of the path to `node`, from the page before `upto` back to `first`: of each, the deepest node's."""
        size = self.page_size
        start = node.start // size
        for index in range(-(-upto // size) - 1, first - 1, -1):
            while index < start:
                assert node.parent is not None
                node = node.parent
                start = node.start // size
            yield index, node.pages[group][index - start]

    # --- what the tree tells

    def grown(self, child: Node) -> None:
        """A new leaf: the tree refers to its pages, and to its first one instead of a hole before it. Where it is not the
        only child, branches part."""
        parent, inside = child.parent, child.start % self.page_size
        assert parent is not None
        if len(parent.children) > 1:
            self.mark(parent)
        for group, pool in self._groups:
            ids = child.pages[group]
            for page in ids:
                if page != HOLE:
                    pool.keep(page)
            if inside and ids[0] != HOLE and parent.pages[group][-1] == HOLE:
                self._fill(parent, group, -1, ids[0])
        self._enqueue(child)

    def split(self, upper: Node, lower: Node) -> None:
        """A node was cut; both parts have the page that was cut through."""
        for group, pool in self._groups:
            if lower.start % self.page_size and (page := lower.pages[group][0]) != HOLE:
                pool.keep(page)
        if lower.queued:
            self._enqueue(upper)
        self.mark(upper)

    def merged(self, node: Node, child: Node) -> None:
        """The node's last page in the first group became the child's first one; here too, where the child has one."""
        for group, pool in self._groups:
            mine, theirs = node.pages[group][-1], child.pages[group][0]
            if theirs not in (HOLE, mine):
                self._fill(node, group, -1, theirs)
                if mine != HOLE:
                    pool.forgo(mine)

    def removed(self, leaf: Node, parent: Node) -> None:
        for group, pool in self._groups:
            for page in leaf.pages[group]:
                if page != HOLE:
                    pool.forgo(page)
        if leaf.mark:
            self._expose(parent, leaf.end)

    # --- what leases tell

    def mark(self, node: Node, kind: Mark = RESTING) -> None:
        """Somebody will probably go on behind this node."""
        if node.parent is None:
            return
        node.mark = max(node.mark, kind)
        if not node.offered:
            self._offer(node)

    def moved(self, old: Node, new: Node, kind: Mark) -> None:
        """A running sequence went from `old`, which it has unlocked, on to `new`."""
        self.mark(new, kind)
        if old.mark == PASSING and not old.locks:
            self._unmark(old)

    def exchange(self, node: Node, below: Node, lease: tuple[array[int], ...], span: range, plan: int) -> None:
        """On the way from `below` to `node`, for page indices in `span`: where the tree has a page, the lease takes it and
        retires its own; where it has a hole, it takes the lease's, too. `lease`: pages of all groups."""
        for group, pool in self._groups:
            ids, seen, step = lease[group], span.stop, node
            while step is not below:
                start = step.start // self.page_size
                for index in range(max(start, span.start), min(start + len(step.pages[group]), span.stop)):
                    theirs = step.pages[group][index - start]
                    if theirs == HOLE:
                        self._fill(step, group, index - start, ids[index])
                    elif index < seen and theirs != ids[index]:
                        pool.share(theirs)
                        self.pools.retire(group, ids[index], plan)
                        ids[index] = theirs
                seen = min(seen, start)
                assert step.parent is not None
                step = step.parent

    # --- let go

    def strip(self, pool: WindowPool) -> bool:
        """Make the tree let go of pages until some come free in this pool; False if it has none that are idle."""
        before = pool.free
        while pool.idle and pool.free == before:
            if self._queue:
                self._trim(self._queue.popleft())
            else:
                self._forget_oldest()
        return pool.free > before

    def _trim(self, node: Node) -> None:
        """Let go of a node's pages before the tail of the nearest mark."""
        node.queued = False
        if node.parent is None:
            return
        start, mark = node.start // self.page_size, self._nearest(node)
        for group, pool in self._groups:
            ids = node.pages[group]
            for at in range(len(ids) if mark is None else min(len(ids), pool.first(mark - 1) - start)):
                if ids[at] != HOLE:
                    pool.forgo(ids[at])
                    ids[at] = HOLE

    def _nearest(self, node: Node) -> int | None:
        """The end of the nearest mark at or below `node` whose tail may reach back to it."""
        best = node.end + self._reach + 1
        stack = [node]
        while stack:
            step = stack.pop()
            if step.mark:
                best = min(best, step.end)
            elif step.end < best:
                stack.extend(step.children.values())
        return best if best <= node.end + self._reach else None

    def _forget_oldest(self) -> None:
        """Unmark what was not used for longest."""
        used, _, node = heapq.heappop(self._marks)
        node.offered = False
        if node.parent is None or not node.mark:
            return
        if node.used > used:
            self._offer(node)
        else:
            self._unmark(node)

    def _unmark(self, node: Node) -> None:
        node.mark = 0
        self._expose(node, node.end)

    def _expose(self, node: Node, mark: int) -> None:
        """There was a mark, at `node` or below, whose tail is protected no longer."""
        first = min(pool.first(mark - 1) for pool in self.pools.windows) * self.page_size
        while node.parent is not None and node.end > first:
            self._enqueue(node)
            node = node.parent

    def _fill(self, node: Node, group: int, at: int, page: int) -> None:
        node.pages[group][at] = page
        self.pools.windows[group - 1].keep(page)
        self._enqueue(node)

    def _enqueue(self, node: Node) -> None:
        if not node.queued:
            node.queued = True
            self._queue.append(node)

    def _offer(self, node: Node) -> None:
        self._serial += 1
        node.offered = True
        heapq.heappush(self._marks, (node.used, self._serial, node))

    def sweep(self, nodes: int) -> None:
        """Forget entries of what is no longer there; `nodes`: how many of the tree are. Paid for by what came since."""
        if len(self._marks) > 64 + 4 * nodes:
            for _, _, node in self._marks:
                node.offered = node.parent is not None and node.mark > 0
            self._marks = [entry for entry in self._marks if entry[2].offered]
            heapq.heapify(self._marks)
        if len(self._queue) > 64 + 4 * nodes:
            self._queue = deque(node for node in self._queue if node.parent is not None)

    # --- check

    def check(self, nodes: list[Node]) -> None:
        """The NOTE above, and what the pools count."""
        assert {id(node) for node in nodes if node.mark} <= {id(entry[2]) for entry in self._marks}
        assert {id(node) for node in nodes if node.queued} == {id(n) for n in self._queue if n.parent is not None}
        for group, pool in self._groups:
            pool.check_kept(page for node in nodes for page in node.pages[group] if page != HOLE)
            for node in nodes:
                mark, ids = self._nearest(node), node.pages[group]
                tail = len(ids) if mark is None else max(pool.first(mark - 1) - node.start // self.page_size, 0)
                assert len(ids) == len(node.pages[0])
                assert node.queued or all(page == HOLE for page in ids[:tail])
