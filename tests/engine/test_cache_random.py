"""Pools, tree and leases under random use, against naive oracles.

The memory is simulated: each slot of each page holds a hash of (namespace, tokens up to that position). A wrong page, slot,
copy, fill count or namespace shows as a wrong hash, whoever reads it. What is free is wiped before each plan.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from radixmill.engine.cache import Cache, Lease
from radixmill.engine.cache.node import Node
from tests.engine.fakes import mix

NAMESPACES = ("a", "b")
STORIES = tuple([(i * k + i // 5) % 3 for i in range(30)] for k in (1, 2))
TOKENS = st.builds(  # much in common, and forks anywhere
    lambda story, upto, tail: [*STORIES[story][:upto], *tail],
    st.integers(0, 1),
    st.integers(1, 30),
    st.lists(st.integers(0, 2), max_size=5),
)
COUNTS = st.sampled_from([1, 2, 3, 5, 8, 99])  # tokens granted; 99: all that are left


@dataclass(eq=False)
class User:
    """A sequence, as far as the cache is concerned."""

    namespace: str
    keys: array[int]
    lease: Lease

    def hashes(self, upto: int) -> list[int]:
        return hashes(self.namespace, self.keys[:upto])


def hashes(namespace: str, keys: array[int]) -> list[int]:
    state, out = NAMESPACES.index(namespace) + 1, []
    for key in keys:
        state = mix(state, key)
        out.append(state)
    return out


class CacheMachine(RuleBasedStateMachine):
    """Rules are what the scheduler does, in any order: open, plan (grow, write, adopt), commit, close, drop, flush."""

    users = Bundle("users")

    @initialize(
        pages=st.integers(2, 40),
        size=st.sampled_from([1, 2, 3, 4, 8]),
        windows=st.dictionaries(st.sampled_from([1, 2, 3, 4, 6, 9, 50]), st.integers(1, 40), max_size=2),
        reuse=st.sampled_from([True] * 4 + [False]),
        keep=st.sampled_from([None, None, 0, 1, 5]),
    )
    def start(self, pages: int, size: int, windows: dict[int, int], reuse: bool, keep: int | None) -> None:
        """`windows`: and the pages of each."""
        totals = [pages, *windows.values()]
        self.windows = [None, *windows]
        self.cache = Cache(totals, size, windows=list(windows), reuse=reuse, keep=keep)
        self.memory = [[[0] * size for _ in range(total)] for total in totals]
        self.live: list[User] = []
        self.flying: list[tuple[int, dict[User, tuple[set[int], ...]]]] = []  # plan, pages it names
        self.plans = 0
        self.given: set[tuple[str, tuple[int, ...]]] = set()  # prefixes that were ever adopted, all of them
        self.pressed = False  # whether pages were ever scarce

    @rule(target=users, namespace=st.sampled_from(NAMESPACES), keys=TOKENS)
    def open(self, namespace: str, keys: list[int]) -> User:
        tokens = array("q", keys)
        expected = self._usable(namespace, tokens)
        assert self.cache.peek(namespace, tokens) == expected
        if not self.pressed and self.cache.reuse:
            assert expected == self._longest(namespace, tuple(keys[:-1])), "nothing is let go of before it is needed"
        lease = self.cache.open(namespace, tokens)
        assert lease.shared == expected
        user = User(namespace, tokens, lease)
        self.live.append(user)
        return user

    @rule(namespace=st.sampled_from(NAMESPACES), keys=TOKENS, cut=st.integers(0, 2))
    def visit(self, namespace: str, keys: list[int], cut: int) -> None:
        """A whole life in one plan: a finished sequence leaves its ragged tail in the tree."""
        user = self.open(namespace, keys)
        self.plan([(user, len(keys))], tails=True)
        self.end(user, keep=True, back=cut)

    @rule(user=users, more=st.lists(st.integers(0, 2), max_size=6))
    def say(self, user: User, more: list[int]) -> None:
        user.keys.extend(more)

    @rule(
        grants=st.lists(st.tuples(users, COUNTS), min_size=1, max_size=4, unique_by=lambda g: id(g[0])),
        tails=st.booleans(),
    )
    def plan(self, grants: list[tuple[User, int]], tails: bool) -> None:
        """A plan: grow some leases, copy, write, then let the tree have it."""
        rows: list[tuple[User, int]] = []
        for user, count in grants:
            upto = min(user.lease.filled + count, len(user.keys))
            if user in self.live and upto > user.lease.filled and self._grow(user, upto):
                rows.append((user, upto))
        if not rows:
            return
        number, self.plans = self.plans, self.plans + 1
        self.cache.begin(number)
        self._run(number, rows)
        for user, upto in rows:
            cut = upto if tails else upto - upto % self.cache.page_size
            if cut > user.lease.shared:
                self._give(user, cut)
                user.lease.adopt(user.keys, cut, rests=tails)

    @rule()
    def commit(self) -> None:
        if self.flying:
            number, _ = self.flying.pop(0)
            self.cache.commit(number)

    @rule(user=consumes(users), keep=st.booleans(), back=st.integers(0, 2))
    def end(self, user: User, keep: bool, back: int) -> None:
        """A sequence ends (its last tokens may not be certain), or is preempted."""
        upto = max(user.lease.filled - back, 0)
        self.live.remove(user)
        if keep:
            self._give(user, upto)
            user.lease.close(user.keys, upto)
        else:
            user.lease.drop()

    @rule()
    def flush(self) -> None:
        self.cache.flush()
        self.pressed = True

    @invariant()
    def conserved(self) -> None:
        if hasattr(self, "cache"):
            self.cache.check()

    @invariant()
    def everyone_reads_right(self) -> None:
        for user in getattr(self, "live", ()):
            for group, ids in enumerate(user.lease.pages):
                back, upto = self._back(group, user.lease.filled), user.lease.filled
                assert self._read(group, ids, upto, back) == user.hashes(upto)[back:]

    @invariant()
    def tree_is_what_was_given(self) -> None:
        if not hasattr(self, "cache"):
            return
        known = set()
        for namespace, keys, nodes in self._paths():
            truth = hashes(namespace, keys)
            assert self._read(0, self.cache.tree.path_pages(nodes[-1]), len(keys)) == truth
            for group in range(1, len(self.memory)):
                self._holes_or_right(group, nodes[-1], truth)
            known |= {(namespace, tuple(keys[:n])) for n in range(1, len(keys) + 1)}
        assert known <= self.given
        if not self.pressed and self.cache.reuse:
            assert known == self.given

    def teardown(self) -> None:
        """When all have left and all is committed, every page can be had again."""
        if not hasattr(self, "cache"):
            return
        for user in self.live:
            user.lease.drop()
        self.cache.commit(self.plans)
        assert not self.cache.deferred
        self.cache.check()
        self.cache.flush()
        assert all(pool.free == pool.total for pool in self.cache.pools.groups)
        assert not self.cache.tree.roots and not self.cache.tree.nodes

    # --- the oracle and the memory

    def _grow(self, user: User, upto: int) -> bool:
        """Grow a lease; a refusal changes nothing and is right."""
        lease, cache, windows = user.lease, self.cache, self.cache.pools.windows
        before, need = [list(ids) for ids in lease.pages], lease.need(upto)
        short = any(need > pool.free for pool in cache.pools.groups)
        can = need <= cache.available and all(need <= pool.free + pool.idle for pool in windows)
        beyond = need > 0 and cache.tree.evictable > cache.keep
        beyond |= need > 0 and any(pool.idle * cache.pools.full.total > cache.keep * pool.total for pool in windows)
        self.pressed |= short or beyond
        grown = lease.grow(upto)
        if not grown:
            assert not can or cache.deferred
            assert [list(ids) for ids in lease.pages] == before and not lease.copies
        return grown

    def _run(self, number: int, rows: list[tuple[User, int]]) -> None:
        size = self.cache.page_size
        named = {
            user: tuple(
                set(ids[self._back(group, user.lease.filled) // size : -(-upto // size)])
                for group, ids in enumerate(user.lease.pages)
            )
            for user, upto in rows
        }
        self._no_foreign_writes(rows, named)
        for user, upto in rows:
            start = user.lease.filled
            self._wipe()
            for copy in user.lease.copies:
                src, dst = self.memory[copy.group][copy.src], self.memory[copy.group][copy.dst]
                dst[:] = [0] * len(dst)
                dst[: copy.tokens] = src[: copy.tokens]
            for group, ids in enumerate(user.lease.pages):
                for position, value in enumerate(user.hashes(upto)[start:], start):
                    self.memory[group][ids[position // self.cache.page_size]][position % self.cache.page_size] = value
                back = self._back(group, start)
                assert self._read(group, ids, upto, back) == user.hashes(upto)[back:], "the plan reads something else"
            user.lease.write(upto, number)
        self.flying.append((number, named))

    def _no_foreign_writes(self, rows: list[tuple[User, int]], named: dict[User, tuple[set[int], ...]]) -> None:
        """A page that is written is named by no other row, of this plan or one not committed, and is not the tree's."""
        size = self.cache.page_size
        for group in range(len(self.memory)):
            tree = {page for node in self.cache.tree.walk() for page in node.pages[group]}
            for user, upto in rows:
                written = set(user.lease.pages[group][user.lease.filled // size : -(-upto // size)])
                assert not written & tree
                others = [pages for other, pages in named.items() if other is not user]
                others += [pages for _, plan in self.flying for other, pages in plan.items() if other is not user]
                assert not any(written & pages[group] for pages in others)

    def _give(self, user: User, upto: int) -> None:
        if self.cache.reuse:
            self.given |= {(user.namespace, tuple(user.keys[:n])) for n in range(1, upto + 1)}

    def _read(self, group: int, ids: array[int], upto: int, since: int = 0) -> list[int]:
        size = self.cache.page_size
        return [self.memory[group][ids[p // size]][p % size] for p in range(since, upto)]

    def _back(self, group: int, upto: int) -> int:
        """The first position that a query at `upto` reads."""
        window = self.windows[group]
        return 0 if window is None else max(upto - window + 1, 0)

    def _wipe(self) -> None:
        for pool, pages in zip(self.cache.pools.groups, self.memory, strict=True):
            for page, refs in enumerate(pool.refs):
                if not refs:
                    pages[page][:] = [-1] * len(pages[page])

    def _holes_or_right(self, group: int, node: Node, truth: list[int]) -> None:
        """What the tree has of a node is right up to the node's end, whoever reads it."""
        size, first = self.cache.page_size, node.start // self.cache.page_size
        for index, page in enumerate(node.pages[group], first):
            if page >= 0:
                upto = min((index + 1) * size, node.end)
                assert self.memory[group][page][: upto - index * size] == truth[index * size : upto]

    def _paths(self) -> list[tuple[str, array[int], list[Node]]]:
        """Every node's whole prefix, and the nodes on the way to it."""
        out = []
        for namespace, root in self.cache.tree.roots.items():
            stack: list[tuple[list[Node], bytes]] = [([root], b"")]
            while stack:
                nodes, keys = stack.pop()
                stack += [([*nodes, child], keys + child.keys) for child in nodes[-1].children.values()]
                tokens = array("q")
                tokens.frombytes(keys)
                out.append((str(namespace), tokens, nodes))
        return out

    def _usable(self, namespace: str, keys: array[int]) -> int:
        """Naive: of all beginnings that the tree has, the longest after which every group has what a query may read."""
        best = 0
        for other, known, nodes in self._paths() if self.cache.reuse else ():
            for upto in range(nodes[-1].start + 1, nodes[-1].end + 1):
                fits = other == namespace and upto < len(keys) and known[:upto] == keys[:upto]
                if fits and all(self._can_go_on(group, nodes, upto) for group in range(len(self.memory))):
                    best = max(best, upto)
        return best

    def _can_go_on(self, group: int, nodes: list[Node], upto: int) -> bool:
        """Whether the page of every position that a query at `upto` reads is there; and the one it writes into."""
        size, back = self.cache.page_size, self._back(group, upto)
        read = {position // size for position in range(back, upto)} | ({upto // size} if upto % size else set())
        deepest = (max((n for n in nodes if n.start // size <= index), key=lambda n: n.end) for index in read)
        return all(node.pages[group][i - node.start // size] >= 0 for node, i in zip(deepest, read, strict=True))

    def _longest(self, namespace: str, keys: tuple[int, ...]) -> int:
        """Naive: compare with every prefix in the tree."""
        best = 0
        for other, known, _ in self._paths() if self.cache.reuse else ():
            if other == namespace:
                n = 0
                while n < min(len(keys), len(known)) and keys[n] == known[n]:
                    n += 1
                best = max(best, n)
        return best


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seed", range(32))
def test_long_walks(seed: int) -> None:
    """The same rules, for long, and biased towards what is rare: scarce pages, ragged tails, twins."""
    dice = Random(seed)
    walk = CacheMachine()
    pages, size = dice.randint(6, 24), dice.choice([1, 2, 3, 4, 8])
    windows = {dice.choice([1, 2, 3, 5, size, 2 * size, 11]): dice.randint(3, pages) for _ in range(dice.randrange(3))}
    walk.start(pages, size, windows, True, dice.choice([None, None, 0, 3]))
    for _ in range(250):
        _move(walk, dice)
        walk.conserved()
        walk.everyone_reads_right()
        walk.tree_is_what_was_given()
    walk.teardown()


def _move(walk: CacheMachine, dice: Random) -> None:
    story = STORIES[dice.randrange(2)][: dice.randint(1, 30)] + [dice.randrange(3) for _ in range(dice.randrange(4))]
    some = dice.sample(walk.live, min(len(walk.live), dice.randint(1, 3)))
    match dice.choice(["open", "visit", "plan", "plan", "commit", "commit", "end", "say"]):
        case "open" if len(walk.live) < 5:
            walk.open(dice.choice(NAMESPACES[: 1 + (dice.random() < 0.2)]), story)
        case "visit":
            walk.visit("a", story, dice.randrange(3))
        case "plan":
            walk.plan([(user, dice.choice([1, 2, 5, 99])) for user in some], dice.random() < 0.5)
        case "commit":
            walk.commit()
        case "end" if some:
            walk.end(some[0], dice.random() < 0.7, dice.randrange(3))
        case "say" if some:
            walk.say(some[0], [dice.randrange(3) for _ in range(dice.randrange(4))])
