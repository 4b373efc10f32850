"""The radix tree: which prefixes have their KV in which pages.

Knows keys, pages and order of use; knows nothing of requests, plans' contents or devices.

A node covers positions [start, end) of its root path. Its pages cover page indices start // P … ⌈end / P⌉ − 1. Where
`start` lies inside a page, the node's first page holds the earlier positions of that page too:

    page index      0          1          2                  P = 4, upper = [0, 6), two children
    upper     | 0 1 2 3 | 4 5 . . |                    pages a b
    left                | 4 5 6 7 | 8 9 . . |          pages b c      cut from upper: b has two references (`shares`)
    right               | 4 5 6 . |                    pages d        began as a copy of b's first two positions

So the page of index i on a root path is that of the deepest node on it that covers i. Siblings never share a page.

Groups with a window have pages of the same indices, or HOLEs: the tree may let go of any of them (see `tails`).

A lock on a node keeps it and, since only leaves are evicted, all above it. NOTE: an unlocked node with one child and an
end inside a page always has that child's first page as its last (`_merge_tail`): a chain of turns of one conversation
costs no page more than its tokens fill.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Hashable, Iterator
from typing import NamedTuple

import numpy as np

from radixmill.engine.cache.node import WIDTH, Node, Pages
from radixmill.engine.cache.pages import Pools
from radixmill.engine.cache.tails import Tails


class Match(NamedTuple):
    """How far a sequence is known."""

    node: Node  # the deepest that matched at least in part
    tokens: int  # exact: may end inside the node, and inside a page


class RadixTree:
    """Prefixes by (namespace, keys). `evictable` counts the pages, in the first group, that evicting leaves would free."""

    def __init__(self, pools: Pools, page_size: int) -> None:
        self.pools = pools
        self.page_size = page_size
        self.roots: dict[Hashable, Node] = {}
        self.evictable = 0
        self.nodes = 0  # roots not counted
        self._tick = 0
        self._heap: list[tuple[int, int, Node]] = []  # leaves by last use; stale entries stay until popped or swept
        self._serial = 0
        self.tails = Tails(pools, page_size) if pools.windows else None

    def root(self, namespace: Hashable) -> Node:
        """The empty prefix of a namespace; goes away again when nobody holds it and nothing is below it."""
        root = self.roots.get(namespace)
        if root is None:
            root = self.roots[namespace] = Node(None, b"", tuple(array("i") for _ in self.pools.groups), namespace)
        return root

    # --- look

    def match(self, node: Node, keys: bytes) -> Match:
        """The longest known beginning of `keys`, which follow the node's end. Changes nothing."""
        at, size = 0, len(keys)
        while at < size:
            child = node.children.get(keys[at : at + WIDTH])
            if child is None:
                break
            if not keys.startswith(child.keys, at):
                return Match(child, child.start + common(child.keys, keys, at))
            node, at = child, at + len(child.keys)
        return Match(node, node.end)

    def path_pages(self, node: Node, below: Node | None = None) -> array[int]:
        """In the first group the pages of [0, node.end), or from page index below.end // P on: of each index, the deepest
        node's."""
        path = []
        while node is not below and node.parent is not None:
            path.append(node)
            node = node.parent
        first = below.end // self.page_size if below else 0
        ids = array("i")
        for step in reversed(path):
            del ids[step.start // self.page_size - first :]
            ids.extend(step.pages[0])
        return ids

    # --- grow

    def descend(self, node: Node, keys: bytes) -> Node:
        """Like `match`, but the tree is cut so that the match ends with the node returned."""
        return self.cut(*self.match(node, keys))

    def cut(self, node: Node, tokens: int) -> Node:
        """The node on the path to `node` that ends with so many tokens, cut there if none does."""
        while tokens <= node.start and node.parent is not None:
            node = node.parent
        return self._split(node, tokens) if tokens < node.end else node

    def extend(self, node: Node, keys: bytes, pages: Pages) -> Node:
        """A new leaf below `node`, which takes over the caller's reference to each page of the first group, and has its own
        to those of the others. Lock it before anything else."""
        child = Node(node, keys, pages)
        assert keys[:WIDTH] not in node.children
        node.children[keys[:WIDTH]] = child
        self.nodes += 1
        self.evictable += child.fresh
        if self.tails:
            if len(node.children) > 1:
                self._touch(node)
            self.tails.grown(child)
        self._merge_tail(node)
        return child

    def _split(self, node: Node, at: int) -> Node:
        """Cut before position `at`; a page cut through is referenced by both. The node itself stays the lower part."""
        parent, size = node.parent, self.page_size
        assert parent is not None
        cut = (at - node.start) * WIDTH
        upto, since = -(-at // size) - node.start // size, at // size - node.start // size
        upper = Node(parent, node.keys[:cut], tuple(ids[:upto] for ids in node.pages))
        upper.shares, upper.used, upper.held = node.shares, node.used, int(node.held > 0)
        parent.children[node.keys[:WIDTH]] = upper
        upper.children[node.keys[cut : cut + WIDTH]] = node
        node.parent, node.start, node.keys, node.shares = upper, at, node.keys[cut:], at % size != 0
        node.pages = tuple(ids[since:] for ids in node.pages)
        if node.shares:
            self.pools.full.share(node.pages[0][0])
        if self.tails:
            self.tails.split(upper, node)
        self.nodes += 1
        return upper

    # --- hold

    def lock(self, node: Node) -> None:
        """Keep the node, and so all above it, until `unlock`."""
        node.locks += 1
        self._touch(node)
        above: Node | None = node
        while above is not None:
            above.held += 1
            if above.held > 1:
                return
            self.evictable -= above.fresh
            above = above.parent

    def unlock(self, node: Node) -> None:
        assert node.locks > 0
        node.locks -= 1
        self._touch(node)
        above: Node | None = node
        while above is not None:
            above.held -= 1
            if above.held:
                break
            self.evictable += above.fresh
            self._offer(above)
            above = above.parent
        self._merge_tail(node)

    def _touch(self, node: Node) -> None:
        self._tick += 1
        node.used = self._tick

    def _merge_tail(self, node: Node) -> None:
        """Where an only child's first page repeats the node's last, let the node refer to the child's."""
        if node.locks or len(node.children) != 1 or node.end % self.page_size == 0:
            return
        (child,) = node.children.values()
        if child.shares:
            return
        mine, theirs = node.pages[0], child.pages[0]
        old, mine[-1] = mine[-1], theirs[0]
        self.pools.full.share(theirs[0])
        # A plan that is still running may read the old page, if any sequence that went through here still lives.
        self.pools.retire(0, old, self.pools.newest if node.held else self.pools.committed)
        if self.tails:
            self.tails.merged(node, child)
        child.shares = True
        leaves_parent = node.shares and len(node.pages[0]) == 1
        if not node.held and not leaves_parent:
            self.evictable -= 1
        if leaves_parent:
            assert node.parent is not None
            node.shares = False
            self._merge_tail(node.parent)

    # --- evict

    def evict(self) -> bool:
        """Remove the leaf that was not used for longest; False when every leaf is held.

        A parent left without children is next, unless it was itself used since: no leaf is older than the one that went.
        """
        while self._heap:
            used, _, node = heapq.heappop(self._heap)
            if node.evictable and node.used == used:
                self._remove(node)
                return True
        return False

    def _remove(self, leaf: Node) -> None:
        parent = leaf.parent
        assert parent is not None
        del parent.children[leaf.keys[:WIDTH]]
        leaf.parent = None
        self.nodes -= 1
        self.evictable -= leaf.fresh
        for page in leaf.pages[0]:
            self.pools.full.drop(page)
        if self.tails:
            self.tails.removed(leaf, parent)
            self.tails.sweep(self.nodes)
        self._offer(parent)
        self._merge_tail(parent)

    def _offer(self, node: Node) -> None:
        """Put a leaf that nobody holds up for eviction; let go of an empty root."""
        if node.evictable:
            self._serial += 1
            heapq.heappush(self._heap, (node.used, self._serial, node))
            if len(self._heap) > 64 + 4 * self.nodes:
                self._sweep()
        elif node.parent is None and not node.children and not node.held:
            self.roots.pop(node.namespace, None)

    def _sweep(self) -> None:
        """Forget stale entries; paid for by the pushes since the last time."""
        fresh = {id(entry[2]): entry for entry in self._heap if entry[2].evictable and entry[0] == entry[2].used}
        self._heap = list(fresh.values())
        heapq.heapify(self._heap)

    # --- check

    def walk(self) -> Iterator[Node]:
        """Every node but the roots. For checks only."""
        stack = [child for root in self.roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check(self) -> None:
        """The tree's own invariants; references are counted by the caller."""
        nodes = list(self.walk())
        assert len(nodes) == self.nodes
        assert sum(node.fresh for node in nodes if not node.held) == self.evictable
        offered = {id(node) for used, _, node in self._heap if node.used == used}
        for node in nodes:
            self._check_node(node)
            assert not node.evictable or id(node) in offered
        if self.tails:
            self.tails.check(nodes)
        for root in self.roots.values():
            assert root.children or root.held
            assert root.held == root.locks + sum(child.held > 0 for child in root.children.values())

    def _check_node(self, node: Node) -> None:
        parent, size = node.parent, self.page_size
        assert parent is not None and node.start == parent.end < node.end == node.start + len(node.keys) // WIDTH
        assert parent.children[node.keys[:WIDTH]] is node
        assert node.held == node.locks + sum(child.held > 0 for child in node.children.values())
        mine, theirs = node.pages[0], parent.pages[0]
        assert len(mine) == -(-node.end // size) - node.start // size
        assert node.shares == (node.start % size != 0 and mine[0] == theirs[-1])
        if len(node.children) == 1 and not node.locks and node.end % size:
            assert next(iter(node.children.values())).shares


def common(a: bytes, b: bytes, at: int = 0) -> int:
    """How many keys `a` and `b[at:]` begin with alike."""
    count = min(len(a), len(b) - at) // WIDTH
    differ = np.frombuffer(a, np.int64, count) != np.frombuffer(b, np.int64, count, at)
    first = int(differ.argmax()) if count else 0
    return first if count and differ[first] else count
