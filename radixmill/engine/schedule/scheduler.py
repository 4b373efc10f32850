"""The scheduler: which sequences run in the next step, and what a finished step means for each.

Knows sequences, leases and plans; knows nothing of sockets, text or devices. There are no phases: every running sequence
is granted min(behind, budget) tokens, so a prefill chunk and a decode token are the same thing.

Room        pages for rows, and who makes room for whom
Admission   who of the queue gets a slot
Alone       who runs in steps of its own
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

from radixmill.core.config import ScheduleOptions
from radixmill.core.messages import End, EndReason, Submit, TokenDelta, TokenLogprob
from radixmill.core.plan import Masks, Run, StepPlan, StepResult
from radixmill.core.spec import ModelSpec
from radixmill.engine.cache import Cache
from radixmill.engine.grammar import GrammarError, Grammars
from radixmill.engine.schedule.accounts import Accounts
from radixmill.engine.schedule.admission import Admission
from radixmill.engine.schedule.alone import Alone
from radixmill.engine.schedule.budget import FLOOR, Budget
from radixmill.engine.schedule.constrained import Constrained
from radixmill.engine.schedule.counters import Counters
from radixmill.engine.schedule.draft import Draft
from radixmill.engine.schedule.guess import Guesser
from radixmill.engine.schedule.guessing import add_guesses
from radixmill.engine.schedule.patience import Patience
from radixmill.engine.schedule.queue import make_queue
from radixmill.engine.schedule.room import Holdings, Room
from radixmill.engine.schedule.running import Running
from radixmill.engine.schedule.sequence import Sequence
from radixmill.engine.schedule.sharing import matched

Client = Hashable
Sent = tuple[Client, TokenDelta]


class Scheduler:
    """Call in the engine's loop: schedule, launch, commit (of the same plan or the one before)."""

    def __init__(
        self,
        spec: ModelSpec,
        options: ScheduleOptions,
        prefix_cache: bool = True,
        keep: int | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        """`keep`: pages that prefixes which no sequence holds may fill; None: all. `grammars`: None: no constraints."""
        self.spec = spec
        totals, windows = [group.pages for group in spec.kv_groups], [g.window for g in spec.kv_groups if g.window]
        self.cache = Cache(totals, spec.page_size, windows=windows, reuse=prefix_cache, keep=keep)
        self.accounts = Accounts()
        self.queue = make_queue(options.schedule_policy, self.accounts, partial(matched, self.cache), spec.context)
        self.running = Running(min(options.max_running_requests, spec.slots), self.accounts)
        self.counters = Counters()
        self.patience = Patience()
        holdings = Holdings(self.cache, self.accounts, self.queue, self.running, self.counters)
        self.room = Room(holdings, spec.page_size, self._fail)
        self.admission = Admission(holdings, self.room, self.patience)
        self.alone = Alone(self.running, self.room, self.admission)
        self.budget = Budget(options.step_tokens, options.step_seconds)
        self.guesser = _guesser(options)
        self.constrained = Constrained(grammars, spec.vocab_size, spec.slots)
        self._live: dict[Client, dict[int, Sequence]] = {}
        self._flying: dict[int, tuple[Sequence, ...]] = {}  # rows of plans not committed yet
        self._pending: list[Sent] = []
        self._arrivals = 0

    # --- what comes in

    def submit(self, client: Client, message: Submit) -> None:
        """Queue the sequences of a request. A live id submitted again is the same record, and goes on as it is."""
        fresh = not any(start.output for start in message.seqs)
        prompt = array("q", message.request.prompt)
        for start in message.seqs:
            if start.seq in self._live.get(client, {}):
                continue
            self._arrivals += 1
            seq = Sequence(client, message.request, start, self.spec, self._arrivals, prompt)
            self._live.setdefault(client, {})[seq.id] = seq
            if fresh:
                self.patience.add(seq)
            if refusal := self._refusal(seq):
                self._fail(seq, refusal)
            elif message.request.constraint is None and message.request.thinking is None:
                self._enter(seq)
            else:
                self._bind(seq)

    def bind_waiting(self, hearing: Callable[[tuple[int, ...]], None] = lambda seqs: None) -> None:
        """A grammar has been built, or refused: look again at those that wait for one. `hearing`: told of each, before."""
        for seq in self.constrained.waiting():
            hearing((seq.id,))
            self._bind(seq)

    def _bind(self, seq: Sequence) -> None:
        try:
            if self.constrained.bind(seq):
                self._enter(seq)
        except GrammarError as error:
            self._finish(seq, "grammar", detail=str(error))

    def _enter(self, seq: Sequence) -> None:
        """Into the queue, unless it has nothing left to say or its grammar says it all."""
        seq.state = "waiting"
        self.queue.add(seq)
        if seq.alone:
            self.alone.add(seq)
        if reason := seq.over():
            self._finish(seq, reason, seq.end_token if reason == "stop" else None)
        elif seq.match is not None:
            at = seq.output_len
            reason, detail = self._advance(seq, ())
            if reason or seq.output_len > at:
                self.patience.met(seq)
                self._pending.append((seq.client, self._told(seq, at, None, reason, detail)))

    def cancel(self, client: Client, seq: int) -> None:
        """Stop a sequence, if it is live."""
        if found := self._live.get(client, {}).get(seq):
            self._finish(found, "cancelled")

    def drop_client(self, client: Client) -> None:
        """The client is gone: stop its sequences and tell nobody."""
        for seq in list(self._live.get(client, {}).values()):
            self._end(seq, "cancelled")
        self._pending = [sent for sent in self._pending if sent[0] != client]

    # --- a step

    def schedule(self) -> StepPlan | None:
        """The next step, or None if nothing can run now."""
        self._expire()
        if self.alone:
            if self._flying:  # they land first
                return None
            draft = Draft(max(self.budget.tokens, FLOOR))
            self.alone.fill(draft)
        else:
            draft = self._shared()
        return self._make(draft) if draft.rows else None

    def _shared(self) -> Draft:
        """What all that run and wait get of a step."""
        self.admission.make_way()
        draft = Draft(max(self.budget.tokens, self.running.decoding + FLOOR))
        turns, grant = self.running.by_turn(), self.room.grant
        for seq in turns.streams:
            grant(seq, draft)
        if turns.prompts:
            self.admission.admit(draft, before=turns.prompts[0])
        for seq in turns.prompts:
            grant(seq, draft)
        self.admission.admit(draft)
        self.admission.foresee()
        if self.guesser and draft.rows and not self._flying:
            add_guesses(draft, self.guesser)
        return draft

    def masks(self, plan: StepPlan) -> Masks | None:
        """Grammar masks of the rows that sample, to be asked for once, after the step before has been committed; None if
        no row has a grammar."""
        masks, failed = self.constrained.masks(plan.step)
        for seq, error in failed.items():
            self._finish(seq, "grammar", detail=str(error))
        return masks

    def commit(self, plan: StepPlan, result: StepResult) -> list[Sent]:
        """Fill the placeholders of a finished step, in the order of the plans. What each client is to be told."""
        rows = self._flying.pop(plan.step)
        self.cache.commit(plan.step)
        self.budget.observe(len(plan.tokens), result.seconds)
        if self.guesser:
            self.guesser.pace.observe(len(plan.tokens), result.seconds)
        landed = zip(rows, plan.samples.tolist(), result.runs(plan), result.scored(plan), strict=True)
        sent = []
        for seq, samples, run, scores in landed:
            if seq.state == "ended":
                continue
            if scores and seq.scoring:
                seq.scoring.entries += scores
            if samples:
                self.alone.free(seq)
                sent.append((seq.client, self._land(seq, run)))
            elif seq.mute and seq.scoring and seq.scoring.done:
                sent.append((seq.client, self._close(seq, "length")))
        return sent

    def pending(self) -> list[Sent]:
        """Deltas that belong to no step: ends of sequences that were cancelled, refused, or had nothing to do."""
        pending, self._pending = self._pending, []
        return pending

    @property
    def idle(self) -> bool:
        """Nothing runs, waits, flies or is to be told."""
        return not (self.running.rows or self.queue or self._flying or self._pending)

    def flying(self, plan: StepPlan) -> list[int]:
        """Ids of the sequences that a launched plan computes."""
        return [seq.id for seq in self._flying[plan.step]]

    def load(self) -> dict[str, Any]:
        """How much there is to do, see observe.pulse."""
        return {
            "busy": not self.idle,
            "running": len(self.running.rows),
            "waiting": len(self.queue),
            "waiting_tokens": self.queue.tokens,
        }

    def flush_cache(self) -> int:
        """Forget all prefixes that no sequence holds; how many pages that freed."""
        return self.cache.flush()

    def stats(self) -> dict[str, Any]:
        """Numbers for /server_info and the metrics. `conserved`: every page is free or somebody's; counted only when idle."""
        return {
            "live": sum(map(len, self._live.values())),
            "running": len(self.running.rows),
            "waiting": len(self.queue),
            "leases": len(self.cache.leases),
            "conserved": self.cache.conserved() if self.idle else None,
            "waiting_tokens": self.queue.tokens,
            "accounts": len(self.accounts),
            "step_budget": self.budget.tokens,
            "pages_free": self.cache.pools.free,
            "pages_evictable": self.cache.tree.evictable,
            "pages_total": self.cache.pools.full.total,
            **({"kv_windows": windows} if (windows := self._windows()) else {}),
            "tree_nodes": self.cache.tree.nodes,
            **vars(self.counters),
        }

    def _windows(self) -> list[dict[str, int]]:
        """Of each group with a window: its pages, free, and held by prefixes that would let go of them; bytes of all."""
        groups = [group for group in self.spec.kv_groups if group.window]
        return [
            {
                "window": pool.window,
                "bytes": group.bytes_per_token * self.spec.page_size * pool.total,
                "pages_total": pool.total,
                "pages_free": pool.free,
                "pages_evictable": pool.idle,
            }
            for group, pool in zip(groups, self.cache.pools.windows, strict=True)
        ]

    def _expire(self) -> None:
        """End those that have waited for their first step longer than they may."""
        for seq in self.patience.due():
            self.counters.expired += 1
            self._finish(seq, "expired")

    # --- making the plan

    def _make(self, draft: Draft) -> StepPlan:
        step = self.counters.steps
        self.counters.steps += 1
        self.cache.begin(step)
        plan = draft.build(step, len(self.spec.kv_groups), self.spec.page_size)
        self.counters.computed_tokens += len(plan.tokens)
        self._flying[step] = tuple(draft.rows)
        bound = {seq: row for row, seq in enumerate(draft.rows) if plan.samples[row] and seq.bound}
        self.constrained.begin(step, bound)
        for seq in draft.rows:
            self.accounts.computed(seq)
            self._share(seq)
        return plan

    def _share(self, seq: Sequence) -> None:
        """Let the tree have what is computed: whole pages, and all of a prefill when it is complete."""
        lease, upto = seq.lease, seq.certain
        assert lease is not None
        if upto != seq.goal:
            upto -= upto % self.spec.page_size
        if upto > lease.shared:
            lease.adopt(seq.tokens, upto, rests=upto == seq.goal)
            if seq.awaited:
                seq.awaited = {at for at in seq.awaited if not lease.part(at)}

    # --- ends

    def _land(self, seq: Sequence, run: Run) -> TokenDelta:
        """What a step sampled for a live sequence, which may have been preempted since. Nothing counts after its end."""
        tokens, logprobs = run
        at = seq.output_len
        reason, detail = self._advance(seq, tokens)
        return self._told(seq, at, logprobs, reason, detail)

    def _advance(self, seq: Sequence, tokens: Iterable[int]) -> tuple[EndReason | None, str]:
        """Take what was sampled, then what the grammar leaves no choice about, up to the next real one. Why that ends it,
        if it does."""
        at, reason = seq.output_len, None
        try:
            for token in tokens:
                reason = reason or seq.fill(token)
            if seq.guessed:
                self._checked(seq, seq.output_len - at - 1)
            while reason is None and (forced := seq.force()) is not None:
                reason = seq.fill(forced)
                seq.forced.append(forced)
                self.counters.forced += 1
        except GrammarError as error:
            return "grammar", str(error)
        return reason, ""

    def _told(
        self,
        seq: Sequence,
        at: int,
        logprobs: tuple[TokenLogprob, ...] | None,
        reason: EndReason | None,
        detail: str,
    ) -> TokenDelta:
        """The delta of all that has been said from output index `at` on; ends the sequence if there is a reason."""
        said = tuple(seq.tokens[seq.prompt_len + at : seq.known])
        self.accounts.said(seq, len(said))
        end = self._end(seq, reason, seq.end_token if reason == "stop" else None, detail) if reason else None
        return TokenDelta(
            seq.id, at, said, logprobs and logprobs[: len(said)], end, _tell_cached(seq), _tell_scores(seq)
        )

    def _checked(self, seq: Sequence, right: int) -> None:
        self.counters.drafted += seq.guessed
        self.counters.accepted += right
        seq.checked(right)

    def _finish(self, seq: Sequence, reason: EndReason, token: int | None = None, detail: str = "") -> None:
        """End a sequence between steps."""
        self._pending.append((seq.client, self._close(seq, reason, token, detail)))

    def _fail(self, seq: Sequence, why: str) -> None:
        self._finish(seq, "failed", detail=why)

    def _close(self, seq: Sequence, reason: EndReason, token: int | None = None, detail: str = "") -> TokenDelta:
        """The end of a sequence without a token."""
        at = seq.output_len
        end = self._end(seq, reason, token, detail)
        return TokenDelta(seq.id, at, end=end, cached=_tell_cached(seq), prompt_logprobs=_tell_scores(seq))

    def _end(self, seq: Sequence, reason: EndReason, token: int | None = None, detail: str = "") -> End:
        """The only place where a sequence ends: off the queue or out of its slot, its lease closed, forgotten."""
        live = self._live[seq.client]
        del live[seq.id]
        if not live:
            del self._live[seq.client]
        match seq.state:
            case "unbound":
                self.constrained.forget(seq)
            case "waiting":
                self.queue.remove(seq)
            case _:
                self.running.remove(seq)
                self.accounts.stopped(seq)
        self.patience.forget(seq)
        self.alone.free(seq)
        if seq.lease:
            seq.lease.close(seq.tokens, seq.certain)
        seq.leave("ended")
        self.counters.ended += 1
        return End(reason, seq.usage(), token, detail)

    def _refusal(self, seq: Sequence) -> str:
        wanted = seq.request.numerics
        if wanted and wanted != self.spec.numerics:
            return f"the request asks for numerics id {wanted}; this engine is {self.spec.numerics}"
        if seq.prompt_len > self.spec.context:
            return f"the prompt has {seq.prompt_len} tokens; the context holds {self.spec.context}"
        return "" if seq.prompt_len else "the prompt has no tokens"


def _guesser(options: ScheduleOptions) -> Guesser | None:
    if options.speculation == "off":
        return None
    return Guesser(options.draft_tokens, always=options.speculation == "ngram")


def _tell_cached(seq: Sequence) -> int | None:
    """What the first admission found, once."""
    if seq.cached_told or seq.cached is None:
        return None
    seq.cached_told = True
    return seq.cached


def _tell_scores(seq: Sequence) -> tuple[TokenLogprob, ...] | None:
    """The log-probabilities of the prompt, once they are all here; once."""
    if seq.scoring is None or not seq.scoring.done:
        return None
    scoring, seq.scoring = seq.scoring, None
    return tuple(scoring.entries)
