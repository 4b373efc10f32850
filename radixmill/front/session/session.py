"""One request's life: check, render, tokenise, submit; then its Generation decodes. Knows no HTTP.

Every user error is raised by `start`, before the first byte of an answer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple
from weakref import WeakSet

from radixmill.core.errors import BadRequest, GivenUp, NotReady, ServeError, UnknownModel
from radixmill.core.request import GenerateRequest, SamplingParams, ThinkingBudget, choice_seed
from radixmill.core.spec import ModelSpec
from radixmill.front.session.ask import Ask, ChatPrompt, TextPrompt
from radixmill.front.session.caller import ANYONE, Caller, namespace
from radixmill.front.session.choice import Choice, Shown, Trace
from radixmill.front.session.door import Bounds, Door, Place
from radixmill.front.session.echo import PromptText, prompt_text
from radixmill.front.session.generation import Facts, Generation
from radixmill.front.session.guest import Guests
from radixmill.front.session.prepare import Preparer, check_known, check_number
from radixmill.front.session.receipt import Notary, Wants, Witness
from radixmill.front.session.sampling import check_defaults, to_params
from radixmill.front.session.speech import Speech, speech_of
from radixmill.front.session.text import Spelling, Text
from radixmill.front.text import StopScanner, TextDecoder
from radixmill.link.client import EngineClient, Stream

log = logging.getLogger("radixmill.front")

ANY_MODEL = "default"  # accepted for whatever is served
SEED_BITS = 53  # a seed we draw survives a trip through a JavaScript number


class Name(NamedTuple):
    """Of a live request: ids are each owner's own."""

    owner: str
    id: str


class Entry(NamedTuple):
    """A request that has been taken, and what holds for it."""

    spec: ModelSpec
    model: str  # the name to answer with
    caller: Caller
    place: Place
    preparing: Preparing
    wait: float | None  # seconds until its first step
    seconds: float | None  # in all


class Preparing:
    """A request that the engine has not heard of: whoever prepares it can be stopped."""

    def __init__(self) -> None:
        self.stopped: ServeError | Literal["abort"] | None = None
        self._task = asyncio.current_task()
        self._cancels = self._task.cancelling() if self._task else 0

    def stop(self, why: ServeError | Literal["abort"]) -> None:
        if self.stopped is None:
            self.stopped = why
            if self._task:
                self._task.cancel()

    def mine(self) -> bool:
        """Whether a CancelledError just met is of our stop, and of nobody else's; then it is settled."""
        return self.stopped is not None and self._task is not None and self._task.uncancel() == self._cancels


class Policy(NamedTuple):
    """How owners are kept apart, and what is written of them."""

    shared_prefixes: bool = False  # all share their cached prefixes
    trust_priority: bool = False  # anybody's priority counts over other owners' requests
    log_prompts: bool = False  # what is asked and answered is logged


class Session:
    """The front's side of one model."""

    def __init__(
        self,
        text: Text,
        client: EngineClient,
        served: Sequence[str],
        *,
        defaults: Mapping[str, float] | None = None,
        limits: Bounds = Bounds(),
        policy: Policy = Policy(),
        notary: Notary | None = None,
        guests: Guests | None = None,
    ) -> None:
        """`served`: names of the model, the shown one first. `defaults`: sampling defaults of its generation_config.
        `notary`: who makes records and receipts; `guests`: who renders templates of requests; None: nobody."""
        self.text, self.client, self.served = text, client, tuple(served)
        self.defaults = check_defaults(defaults or {})
        self.door, self.policy, self.notary = Door(limits), policy, notary
        self.preparer = Preparer(text, client, limits.prompt, guests)
        self.tokenise, self.decode = self.preparer.tokenise, self.preparer.decode
        self._spellings: dict[frozenset[str], Spelling] = {}  # by tags: a dialect's with calls, or without
        self._live: dict[Name, Generation | Preparing] = {}
        self._users: WeakSet[asyncio.Task[Any]] = WeakSet()  # tasks that have been given this session
        self._interruption: ServeError | None = None  # why all that runs must end

    @property
    def live(self) -> int:
        """Requests taken and not yet over."""
        return len(self._live)

    @property
    def idle(self) -> bool:
        """Nothing runs, and nobody who was given the session may yet start something."""
        return not self._live and all(task.done() for task in self._users)

    def use(self) -> None:
        """The current task may start requests, until it is done."""
        with suppress(RuntimeError):  # no loop runs: there is no task
            if task := asyncio.current_task():
                self._users.add(task)

    def interrupt(self, error: ServeError) -> None:
        """End everything that runs, and whatever starts from now on, by `error`."""
        self._interruption = error
        for each in list(self._live.values()):
            if isinstance(each, Preparing):
                each.stop(error)
            else:
                each.interrupt(error)

    def close(self) -> None:
        """Nothing starts any more."""
        if self.preparer.guests:
            self.preparer.guests.close()

    def resume(self) -> None:
        """What starts from now on may run to its end again."""
        self._interruption = None

    def spec(self) -> ModelSpec:
        """The model, if requests can be served now; else raises NotReady."""
        health, spec = self.client.health(), self.client.spec
        if spec is None or health.state not in ("ready", "restarting"):
            reason = f"The server is {health.state}" + (f": {health.detail}" if health.detail else "")
            hopeless = health.state == "failed"
            raise NotReady(
                f"{reason}." + ("" if hopeless else " Try again later."), retry_after=None if hopeless else 1.0
            )
        return spec

    def check_model(self, name: str) -> str:
        """The name to answer with. Raises UnknownModel."""
        if name in self.served:
            return name
        if name == ANY_MODEL:
            return self.served[0]
        raise UnknownModel(name, self.served)

    async def start(self, ask: Ask, caller: Caller = ANYONE, *, beside: Generation | None = None) -> Generation:
        """Take a request. Whoever gets the Generation must close it. `beside`: of the same batch; they are one request."""
        name = Name(caller.owner, ask.id)
        entry = self._enter(ask, caller, beside)
        deadline = self._deadline(entry, beside)
        try:
            async with asyncio.timeout_at(deadline) as timer:
                generation = await self._prepared(ask, entry, beside)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and entry.preparing.mine():
                return self._stopped(ask, entry)
            self._leave(name, entry.place)
            if isinstance(error, TimeoutError) and timer.expired():
                raise entry.place.overdue(entry.seconds or 0.0) from None
            raise
        self._live[name] = generation
        if deadline is not None:
            generation.limit(deadline, entry.seconds or 0.0)
        return generation

    def stopped(self, ask: Ask, caller: Caller = ANYONE) -> Generation:
        """Take a request that was stopped before it could be started: an answer that was aborted at once."""
        entry = self._enter(ask, caller, None)
        entry.preparing.stopped = "abort"
        return self._stopped(ask, entry)

    def _deadline(self, entry: Entry, beside: Generation | None) -> float | None:
        """Of the loop's clock. A batch is one request, and has one."""
        if beside is not None:
            return beside.deadline
        return None if entry.seconds is None else asyncio.get_running_loop().time() + entry.seconds

    async def _prepared(self, ask: Ask, entry: Entry, beside: Generation | None) -> Generation:
        if beside is not None:
            await asyncio.sleep(0)  # a batch may be long: others have their turn between its prompts
        self._check_proofs(ask)
        check_number(ask)
        entry.place.count(ask.id, len(ask.prompts) * ask.width)
        prompts = await self.preparer.within(ask, entry.spec.context, entry.caller.owner)
        entry.place.weigh(ask.id, [len(ids) for ids in prompts])
        speech = speech_of(self.text, ask, prompts)
        try:
            await self.preparer.check(speech)
        except GivenUp:
            raise GivenUp(f"Request {ask.id}") from None
        return self._submit(speech, entry, prompts)

    def _stopped(self, ask: Ask, entry: Entry) -> Generation:
        """What becomes of a request that was stopped before the engine had heard of it: an answer that was aborted at once.
        Raises what interrupted it."""
        why, name = entry.preparing.stopped, Name(entry.caller.owner, ask.id)
        if isinstance(why, ServeError):
            self._leave(name, entry.place)
            raise why
        facts = Facts(
            id=ask.id,
            model=entry.model,
            created=int(time.time()),
            seed=ask.seed or 0,
            fingerprint=entry.spec.numerics,
            prompts=((),) * len(ask.prompts),
            width=ask.width,
        )
        speech = speech_of(self.text, ask, facts.prompts)
        choices = self._choices(speech, len(facts.prompts))
        over: Callable[[], None] = lambda: self._over(ask.id, generation, entry.caller)  # noqa: E731
        generation = Generation(facts, (), choices, over, entry.place, nothing="abort")
        self._live[name] = generation
        return generation

    def _check_proofs(self, ask: Ask) -> None:
        """Raises BadRequest for a record or receipt that can't be had."""
        if self.notary is None and (ask.record or ask.receipt):
            name = "receipt" if ask.receipt else "record"
            raise BadRequest(f"{name} is not available on this server.", param=name)
        if self.notary is not None and ask.receipt:
            self.notary.prepare()

    def abort(self, rid: str, caller: Caller = ANYONE, *, everything: bool = False) -> int:
        """Stop the caller's live requests whose id begins with `rid`, or all of them. Returns how many.

        An admin's reach is everyone's requests.
        """
        mine = [name for name in self._live if caller.admin or name.owner == caller.owner]
        hit = [name for name in mine if everything or name.id.startswith(rid)]
        for name in hit:
            self._abort(name)
        return len(hit)

    def abort_one(self, id: str, caller: Caller = ANYONE) -> None:
        """Stop the caller's own live request of this very id, if there is one."""
        if (name := Name(caller.owner, id)) in self._live:
            self._abort(name)

    def _abort(self, name: Name) -> None:
        each = self._live[name]
        if isinstance(each, Preparing):
            each.stop("abort")
        else:
            each.abort()

    def _enter(self, ask: Ask, caller: Caller, beside: Generation | None) -> Entry:
        spec, model, limits = self.spec(), self.check_model(ask.model), self.door.limits
        if self._interruption:
            raise self._interruption
        if (name := Name(caller.owner, ask.id)) in self._live:
            raise BadRequest(f"A request with the id {ask.id!r} is running already.", param="rid")
        place = self.door.enter(caller.owner) if beside is None else beside.place
        self._live[name] = preparing = Preparing()
        given = [seconds for seconds in (ask.timeout, None if ask.detached else limits.seconds) if seconds is not None]
        wait = None if ask.detached or beside else limits.wait
        return Entry(spec, model, caller, place, preparing, wait, min(given, default=None))

    def _submit(self, speech: Speech, entry: Entry, prompts: tuple[tuple[int, ...], ...]) -> Generation:
        ask, spec = speech.ask, entry.spec
        check_known(prompts, spec.vocab_size, ask.prompt_field)
        stops = self._fill_ends(ask)
        params = [to_params(ask, len(ids), spec.context, spec.vocab_size, self.defaults, stops) for ids in prompts]
        seed = secrets.randbits(SEED_BITS) if ask.seed is None else ask.seed
        scored = ask.sampling.prompt_logprobs is not None
        budget = speech.budget(self.text)
        _check_budget(budget, spec.vocab_size)
        requests = self._requests(speech, entry, prompts, params, budget)
        nothing = ask.max_tokens == 0 and not scored
        streams = [] if nothing else self._streams(requests, seed, ask.width)
        facts = Facts(
            id=ask.id,
            model=entry.model,
            created=int(time.time()),
            seed=seed,
            fingerprint=spec.numerics,
            prompts=prompts,
            requests=requests,
            width=ask.width,
            constraint_field=_bound_by(speech),
            texts=self._texts(ask, prompts),
            template=_own_template(ask),
        )
        choices = self._choices(speech, len(prompts))
        generation = Generation(
            facts,
            streams,
            choices,
            lambda: self._over(ask.id, generation, entry.caller),
            entry.place,
            scored=scored,
            witness=self._witness(ask, facts),
        )
        if self.policy.log_prompts:
            self._tell(ask.id, "asks", enumerate(prompts))
            generation.tape = {}
        return generation

    def _witness(self, ask: Ask, facts: Facts) -> Witness | None:
        if self.notary is None or not self._traces(ask):
            return None
        return Witness(self.notary, facts, facts.model, Wants(ask.record, ask.receipt, ask.proofs_apart))

    def _traces(self, ask: Ask) -> bool:
        """Whether its choices keep what a record needs."""
        return ask.record or ask.receipt or (self.notary is not None and self.notary.folder is not None)

    def _tell(self, id: str, verb: str, texts: Iterable[tuple[int, Sequence[int]]]) -> None:
        for i, ids in texts:
            log.info("request %s %s [%d]: %s", id, verb, i, self.text.decode(ids, skip_special=False))

    def _fill_ends(self, ask: Ask) -> tuple[int, ...]:
        fills = any(isinstance(prompt, TextPrompt) and prompt.suffix for prompt in ask.prompts)
        return (self.text.fill_ends or ()) if fills else ()

    def _texts(self, ask: Ask, prompts: tuple[tuple[int, ...], ...]) -> tuple[PromptText, ...]:
        if not ask.echo:
            return ()
        return tuple(
            prompt_text(self.text, prompt, ids, skip_special=ask.skip_special_tokens)
            for prompt, ids in zip(ask.prompts, prompts, strict=True)
        )

    def _over(self, id: str, generation: Generation, caller: Caller) -> None:
        self._leave(Name(caller.owner, id), generation.place)
        if generation.tape is not None:
            self._tell(id, "hears", generation.tape.items())
        if caller.meter:
            usage = generation.usage()
            caller.meter.prompt += usage.prompt
            caller.meter.completion += usage.completion

    def _leave(self, name: Name, place: Place) -> None:
        place.leave(name.id)
        self._live.pop(name, None)

    def _requests(
        self,
        speech: Speech,
        entry: Entry,
        prompts: tuple[tuple[int, ...], ...],
        params: list[SamplingParams],
        budget: ThinkingBudget | None,
    ) -> tuple[GenerateRequest, ...]:
        """One for each prompt. When the first has begun, the request has: only that one waits no longer than it may."""
        ask, caller, now = speech.ask, entry.caller, time.time()
        tenant = namespace("" if self.policy.shared_prefixes else caller.owner, ask.salts)
        return tuple(
            GenerateRequest(
                id=ask.id if len(prompts) == 1 else f"{ask.id}/{p}",
                prompt=ids,
                sampling=sampling,
                constraint=speech.constraint,
                thinking=budget,
                tenant=tenant,
                account=caller.owner,
                priority=ask.priority,
                trusted=self.policy.trust_priority or caller.admin or not caller.owner,
                wait=None if p else entry.wait,
                arrived=now,
            )
            for p, (ids, sampling) in enumerate(zip(prompts, params, strict=True))
        )

    def _streams(self, requests: Sequence[GenerateRequest], seed: int, width: int) -> list[Stream]:
        streams: list[Stream] = []
        try:
            for p, request in enumerate(requests):
                seeds = [choice_seed(seed, p * width + c) for c in range(width)]
                streams.append(self.client.submit(request, seeds))
        except BaseException:
            for stream in streams:
                stream.cancel()
            raise
        return streams

    def _choices(self, speech: Speech, prompts: int) -> list[Choice]:
        spells = self._spelling(speech.tags) if speech.splits else self.text
        return [self._choice(speech, spells, index) for index in range(prompts * speech.ask.width)]

    def _spelling(self, tags: frozenset[str]) -> Spelling:
        if tags not in self._spellings:
            self._spellings[tags] = Spelling(self.text, tags)
        return self._spellings[tags]

    def _choice(self, speech: Speech, spells: Text | Spelling, index: int) -> Choice:
        ask, marks = speech.ask, spells.marks if isinstance(spells, Spelling) else {}
        return Choice(
            index,
            TextDecoder(spells, skip_special=ask.skip_special_tokens),
            StopScanner(ask.stop, keep=ask.keep_stop) if ask.stop else None,
            speech.splitter(marks.values()),
            Shown(
                request=ask.id,
                scan_after=ask.sampling.min_tokens,
                keep_stop=ask.keep_stop,
                keep_tokens=ask.keep_tokens,
            ),
            tags=marks,
            trace=Trace() if self._traces(ask) else None,
        )


def _check_budget(budget: ThinkingBudget | None, vocab_size: int) -> None:
    if budget is not None and not (budget.close and max(budget.close) < vocab_size):
        raise BadRequest(
            "max_thinking_tokens can't be kept: this model has no tokens for the tag that closes thoughts.",
            param="max_thinking_tokens",
        )


def _own_template(ask: Ask) -> str | None:
    return next((prompt.template for prompt in ask.prompts if isinstance(prompt, ChatPrompt)), None)


def _bound_by(speech: Speech) -> str:
    """The field at fault where the engine can't go on as it is bound."""
    if speech.ask.constraint is not None:
        return speech.ask.constraint_field
    return "max_thinking_tokens" if speech.constraint is None else "tools"
