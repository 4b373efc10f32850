"""A node of the radix tree: a stretch of tokens and its pages. Knows neither the tree's order nor who holds what."""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from typing import Literal

WIDTH = 8  # bytes of a key
HOLE = -1  # no page: the tree has let go of it
Pages = tuple["array[int]", ...]  # per KV group
Mark = Literal[0, 1, 2]


class Node:
    """Positions [start, end) of a root path. Equal only to itself."""

    __slots__ = (
        "children",
        "end",
        "held",
        "keys",
        "locks",
        "mark",
        "namespace",
        "offered",
        "pages",
        "parent",
        "queued",
        "shares",
        "start",
        "used",
    )

    def __init__(self, parent: Node | None, keys: bytes, pages: Pages, namespace: Hashable = None) -> None:
        self.parent = parent
        self.keys = keys  # int64, native order
        self.pages = pages  # of the first group all; of the others pages or HOLEs
        self.namespace = namespace  # of a root
        self.start: int = parent.end if parent else 0
        self.end: int = self.start + len(keys) // WIDTH
        self.children: dict[bytes, Node] = {}  # by first key
        self.shares = False  # first page, in the first group, is the parent's last
        self.locks = 0  # holders of exactly this node
        self.held = 0  # locks, and children that are held
        self.used = 0  # tick of the last lock or unlock
        self.mark: Mark = 0  # see tails
        self.queued = self.offered = False  # has an entry in tails' queue, in its heap

    @property
    def fresh(self) -> int:
        """Pages, in the first group, that this node is the uppermost to reference."""
        return len(self.pages[0]) - self.shares

    @property
    def evictable(self) -> bool:
        return not self.held and not self.children and self.parent is not None
