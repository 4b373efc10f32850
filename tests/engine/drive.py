"""The engine's loop around a scheduler and a fake device, with the laws checked at every step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from typing import Any

from radixmill.core.config import ScheduleOptions
from radixmill.core.messages import End, Submit, TokenDelta, TokenLogprob
from radixmill.core.plan import StepPlan, Ticket
from radixmill.core.spec import ModelSpec
from radixmill.engine.cache.pages import PagePool, WindowPool
from radixmill.engine.schedule import Scheduler
from tests.engine.fakes import HashExecutor


class Drive:
    """One step at a time. Collects what the clients are told; refuses gaps, doubles and second ends."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        overlap: bool = False,
        prefix_cache: bool = True,
        check: bool = True,
        grammars: Any = None,
        **options: object,
    ) -> None:
        self.scheduler = Scheduler(spec, ScheduleOptions(**options), prefix_cache, grammars=grammars)  # type: ignore[arg-type]
        self.executor = HashExecutor(spec)
        self.overlap, self.check = overlap, check
        self.flying: tuple[StepPlan, Ticket] | None = None
        self.tokens: defaultdict[tuple[Hashable, int], list[int]] = defaultdict(list)
        self.cached: dict[tuple[Hashable, int], int] = {}
        self.ends: dict[tuple[Hashable, int], End] = {}
        self.scores: dict[tuple[Hashable, int], tuple[TokenLogprob, ...]] = {}
        self.last: list[int] = []  # rows of the last plan
        self.lonely = 0  # steps of one sequence that had to run alone

    def submit(self, message: Submit, client: Hashable = "front") -> None:
        self.scheduler.submit(client, message)
        for start in message.seqs:
            self.tokens[client, start.seq] = list(start.output)

    def step(self) -> StepPlan | None:
        """One turn of the engine's loop."""
        self._hear(self.scheduler.pending())
        lonely = self._lonely()
        plan = self.scheduler.schedule()
        if self.check:
            self.scheduler.cache.check()
        if plan:
            self._nobody_beside(plan, lonely)
            self._no_foreign_writes(plan)
            self._no_vain_guesses(plan)
        if self.check:
            for group, pool in enumerate(self.scheduler.cache.pools.groups):
                self.executor.poison(group, [page for page, refs in enumerate(pool.refs) if not refs])
        ticket = self.executor.launch(plan) if plan else None
        if self.flying:
            self._land(*self.flying)
        if plan and ticket:
            ticket.sample(self.scheduler.masks(plan))
        self.flying = (plan, ticket) if plan and ticket else None
        if self.flying and not self.overlap:
            self._land(*self.flying)
            self.flying = None
        self._hear(self.scheduler.pending())
        if self.check:
            self.scheduler.cache.check()
            self._no_page_too_many()
        return plan

    def run(self, most: int = 5000) -> int:
        """Until idle; how many steps had a plan. Fails rather than spin."""
        steps = turns = 0
        while not self.scheduler.idle:
            steps += self.step() is not None
            turns += 1
            assert turns < most, f"no progress: {self.scheduler.stats()}"
        self.check_idle()
        return steps

    def check_idle(self) -> None:
        """Nobody holds anything: every page is free or can be evicted."""
        cache = self.scheduler.cache
        cache.check()
        assert not cache.leases and not cache.deferred
        assert cache.available == cache.pools.full.total
        assert all(pool.free + pool.idle == pool.total for pool in cache.pools.windows)

    @property
    def computed(self) -> int:
        return sum(len(plan.tokens) for plan in self.executor.plans)

    def _land(self, plan: StepPlan, ticket: Ticket) -> None:
        self._hear(self.scheduler.commit(plan, ticket.result()))

    def _hear(self, deltas: list[tuple[Hashable, TokenDelta]]) -> None:
        for client, delta in deltas:
            key = client, delta.seq
            assert key not in self.ends, "a delta after the end"
            assert delta.at == len(self.tokens[key]), "a gap or a double"
            self.tokens[key] += delta.tokens
            if delta.cached is not None:
                assert key not in self.cached
                self.cached[key] = delta.cached
            if delta.prompt_logprobs is not None:
                assert key not in self.scores and delta.at == 0 and (delta.tokens or delta.end)
                self.scores[key] = delta.prompt_logprobs
            if delta.end:
                self.ends[key] = delta.end
                assert delta.end.usage.completion == len(self.tokens[key])

    def _lonely(self) -> set[int]:
        """Those that must run alone, and could run now."""
        return {seq.id for seq in [*self.scheduler.running.rows, *self.scheduler.queue.order()] if seq.alone}

    def _nobody_beside(self, plan: StepPlan, lonely: set[int]) -> None:
        """Where someone must run alone, that is what happens, and soon: nobody else has a step before."""
        rows = self.last = self.scheduler.flying(plan)
        if lonely:
            assert len(rows) == 1 and rows[0] in lonely and self.flying is None and plan.guesses is None
            assert len(plan.admits) <= 1
            self.lonely += 1

    def _no_page_too_many(self) -> None:
        """Whoever has no guesses on the way holds pages for what is computed, and no other; of a window, for no more than
        that and a page at either end, or what the tree has not got yet."""
        size = self.scheduler.spec.page_size
        for seq in self.scheduler.running.rows:
            if not seq.guessed and seq.lease:
                last = -(-seq.computed // size)
                assert len(seq.lease.pages[0]) == last
                for pool, first in zip(self.scheduler.cache.pools.windows, seq.lease.firsts, strict=True):
                    given = seq.lease.shared // size if self.scheduler.cache.reuse else last
                    assert last - first <= max((pool.window - 2) // size + 2, last - given)

    def _no_vain_guesses(self, plan: StepPlan) -> None:
        """Nobody guesses beyond its last token, or while another step runs; none of them is a stop token."""
        if plan.guesses is None:
            return
        assert self.flying is None and plan.guesses.any()
        by_slot = {seq.slot: seq for seq in self.scheduler.running.rows}
        ends = plan.counts.cumsum()
        for slot, end, count in zip(plan.slots.tolist(), ends.tolist(), plan.guesses.tolist(), strict=True):
            seq = by_slot[slot]
            assert seq.guessed == count and (not count or seq.length + count <= seq.limit)
            assert not seq.stop_ids & set(plan.tokens[end - count : end].tolist())

    def _no_foreign_writes(self, plan: StepPlan) -> None:
        """No page is written that another row names, in this plan or in the one that still flies."""
        admitted = {card.slot for card in plan.admits}
        for group in range(len(plan.pages)):
            pool = self.scheduler.cache.pools.groups[group]
            now = _rows(plan, group, pool)
            flying = _rows(self.flying[0], group, pool) if self.flying else {}
            for (slot, pages), start in zip(now.items(), plan.starts.tolist(), strict=True):
                written = set(pages[start // self.scheduler.spec.page_size :]) - {None}
                others = [theirs for other, theirs in now.items() if other != slot]
                others += [theirs for other, theirs in flying.items() if other != slot or slot in admitted]
                assert not any(written & set(theirs) for theirs in others)


def _rows(plan: StepPlan, group: int, pool: PagePool) -> dict[int, list[int | None]]:
    """Pages by slot; None where the window has slid on."""
    table, rows = plan.pages[group], {}
    for r, (slot, start) in enumerate(zip(plan.slots.tolist(), plan.starts.tolist(), strict=True)):
        first = pool.first(start) if isinstance(pool, WindowPool) else 0
        rows[slot] = [None] * first + table.ids[table.starts[r] + first : table.starts[r + 1]].tolist()
    return rows
