"""One request's life: check, render, tokenise, submit; then its Generation decodes. Knows no HTTP.

Every user error is raised by `start`, before the first byte of an answer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import WeakSet

from radixmill.core.errors import BadRequest, NotReady, PromptTooLong, ServeError, UnknownModel
from radixmill.core.request import Constraint, GenerateRequest, SamplingParams, ThinkingBudget, choice_seed
from radixmill.core.spec import ModelSpec
from radixmill.front.session.ask import Ask, ChatPrompt, Prompt, TextPrompt, TokenPrompt
from radixmill.front.session.caller import ANYONE, Caller, namespace
from radixmill.front.session.choice import Choice, Shown, Trace
from radixmill.front.session.door import Door, Limits, Place
from radixmill.front.session.echo import PromptText, prompt_text
from radixmill.front.session.generation import Facts, Generation
from radixmill.front.session.limits import CHARS_PER_TOKEN, SIZES, THREAD_CHARS
from radixmill.front.session.receipt import Notary, Wants, Witness
from radixmill.front.session.sampling import check_defaults, to_params
from radixmill.front.session.speech import Speech, speech_of
from radixmill.front.session.text import Spelling, Text
from radixmill.front.text import StopScanner, TextDecoder
from radixmill.front.text.template import strings
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
    wait: float | None  # seconds until its first step
    seconds: float | None  # in all


class Session:
    """The front's side of one model."""

    def __init__(
        self,
        text: Text,
        client: EngineClient,
        served: Sequence[str],
        *,
        defaults: Mapping[str, float] | None = None,
        limits: Limits = Limits(),
        shared_prefixes: bool = False,
        log_prompts: bool = False,
        notary: Notary | None = None,
    ) -> None:
        """`served`: names of the model, the shown one first. `defaults`: sampling defaults of its generation_config.
        `shared_prefixes`: all owners share their cached prefixes. `log_prompts`: what is asked and answered is logged.
        `notary`: who makes records and receipts; None: nobody."""
        self.text, self.client, self.served = text, client, tuple(served)
        self.defaults = check_defaults(defaults or {})
        self.door, self.shared_prefixes, self.log_prompts = Door(limits), shared_prefixes, log_prompts
        self.notary = notary
        self._spellings: dict[frozenset[str], Spelling] = {}  # by tags: a dialect's with calls, or without
        self._live: dict[Name, Generation | None] = {}  # None: still being prepared
        self._aborted: set[Name] = set()  # while they were being prepared
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
        for generation in [each for each in self._live.values() if each]:
            generation.interrupt(error)

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
        deadline = None if entry.seconds is None else asyncio.get_running_loop().time() + entry.seconds
        try:
            async with asyncio.timeout_at(deadline) as timer:
                self._check_proofs(ask)
                prompts = await self._tokenise_within(
                    ask, min(entry.spec.context, self.door.limits.prompt or entry.spec.context)
                )
                entry.place.weigh(ask.id, [len(ids) for ids in prompts])
                speech = speech_of(self.text, ask, prompts)
                await self._check(speech)
            generation = self._submit(speech, entry, prompts)
        except BaseException as error:
            self._leave(name, entry.place)
            if isinstance(error, TimeoutError) and timer.expired():
                raise entry.place.overdue(entry.seconds or 0.0) from None
            raise
        self._live[name] = generation
        if deadline is not None:
            generation.limit(deadline, entry.seconds or 0.0)
        if self._interruption:
            generation.interrupt(self._interruption)
        elif name in self._aborted:
            generation.abort()
        return generation

    async def _tokenise_within(self, ask: Ask, most: int) -> tuple[tuple[int, ...], ...]:
        """Tokenise prompts of no more than `most` tokens each. Raises BadRequest; of the context's own limit, what checks
        the sampling parameters tells more."""
        for prompt in ask.prompts:
            if (least := _chars(prompt) // CHARS_PER_TOKEN) > most:
                raise PromptTooLong(least, most, param=ask.prompt_field, least=True)
        found = await self.tokenise(ask.prompts, ask.prompt_field)
        limit = self.door.limits.prompt
        if limit is not None and (longest := max(map(len, found))) > limit:
            raise PromptTooLong(longest, limit, param=ask.prompt_field)
        return found

    def _check_proofs(self, ask: Ask) -> None:
        """Raises BadRequest for a record or receipt that can't be had."""
        if self.notary is None and (ask.record or ask.receipt):
            name = "receipt" if ask.receipt else "record"
            raise BadRequest(f"{name} is not available on this server.", param=name)
        if self.notary is not None and ask.receipt:
            self.notary.prepare()

    async def tokenise(self, prompts: Sequence[Prompt], field: str) -> tuple[tuple[int, ...], ...]:
        """Token ids of each prompt; long texts off the event loop. Raises BadRequest naming `field`."""
        if sum(map(_chars, prompts)) <= THREAD_CHARS:
            return self._encode_all(prompts, field)
        return await asyncio.to_thread(self._encode_all, prompts, field)

    def abort(self, rid: str, caller: Caller = ANYONE, *, everything: bool = False) -> int:
        """Stop the caller's live requests whose id begins with `rid`, or all of them. Returns how many.

        An admin's reach is everyone's requests.
        """
        mine = [name for name in self._live if caller.admin or name.owner == caller.owner]
        hit = [name for name in mine if everything or name.id.startswith(rid)]
        for name in hit:
            if (generation := self._live[name]) is not None:
                generation.abort()
            else:
                self._aborted.add(name)
        return len(hit)

    def _enter(self, ask: Ask, caller: Caller, beside: Generation | None) -> Entry:
        spec, model, limits = self.spec(), self.check_model(ask.model), self.door.limits
        if (name := Name(caller.owner, ask.id)) in self._live:
            raise BadRequest(f"A request with the id {ask.id!r} is running already.", param="rid")
        place = self.door.enter(caller.owner) if beside is None else beside.place
        self._live[name] = None
        given = [seconds for seconds in (ask.timeout, limits.seconds) if seconds is not None]
        return Entry(spec, model, caller, place, limits.wait if beside is None else None, min(given, default=None))

    def _encode_all(self, prompts: Sequence[Prompt], field: str) -> tuple[tuple[int, ...], ...]:
        many = len(prompts) > 1
        return tuple(self._encode(prompt, f"{field}[{i}]" if many else field) for i, prompt in enumerate(prompts))

    def _encode(self, prompt: Prompt, field: str) -> tuple[int, ...]:
        match prompt:
            case TokenPrompt(ids):
                self._check_ids(ids, field)
            case TextPrompt() | ChatPrompt():
                ids = self._encode_text(prompt, field)
        if not ids:
            raise BadRequest(f"{field} must not be empty: it has no tokens.", param=field)
        return ids

    def _encode_text(self, prompt: TextPrompt | ChatPrompt, field: str) -> tuple[int, ...]:
        try:
            if isinstance(prompt, ChatPrompt):
                return tuple(self.text.encode_chat(prompt))
            if prompt.suffix:
                return tuple(self._encode_fill(prompt))
            return tuple(
                self.text.encode(prompt.text, parse_special=prompt.parse_special, add_special=prompt.add_special)
            )
        except ValueError as error:
            raise BadRequest(f"{field}: {error}.", param=field) from None

    def _encode_fill(self, prompt: TextPrompt) -> Sequence[int]:
        if self.text.fill_ends is None:
            raise BadRequest(
                "suffix needs a model that fills gaps: this one's tokenizer has no tokens for that.", param="suffix"
            )
        return self.text.encode_fill(prompt.text, prompt.suffix, parse_special=prompt.parse_special)

    def decode(self, ids: Sequence[int], *, skip_special: bool, field: str) -> str:
        """Text of token ids. Raises BadRequest naming `field`."""
        self._check_ids(ids, field)
        return self.text.decode(ids, skip_special=skip_special)

    def _check_ids(self, ids: Sequence[int], field: str) -> None:
        vocab_size = self.spec().vocab_size
        for i, token in enumerate(ids):
            if not 0 <= token < vocab_size:
                raise BadRequest(
                    f"{field} must hold token ids from 0 to {vocab_size - 1}; {token} is none.", param=f"{field}[{i}]"
                )

    async def _check(self, speech: Speech) -> None:
        """Raise BadRequest where the engine can't have the grammar, naming the field whose part it is."""
        if speech.constraint is None or not (fault := await self._refusal(speech.constraint)):
            return
        field = speech.ask.constraint_field if speech.ask.constraint is not None else "tools"
        for part_field, part in speech.sources():
            if part_fault := await self._refusal(part):
                field, fault = part_field, part_fault
                break
        raise BadRequest(f"{field} can't be enforced: {fault}", param=field)

    async def _refusal(self, constraint: Constraint) -> str:
        """Why the engine refuses a constraint; "" if it does not."""
        if len(constraint.text) > (most := int(SIZES["constraint"].high or 0)):
            return f"it has {len(constraint.text)} characters, more than {most}"
        reply = await self.client.control("grammar", kind=constraint.kind, text=constraint.text)
        reason, place = str(reply.get("reason", "")), str(reply.get("place", ""))
        return f"{reason} (at {place})" if reason and place else reason

    def _submit(self, speech: Speech, entry: Entry, prompts: tuple[tuple[int, ...], ...]) -> Generation:
        ask, spec = speech.ask, entry.spec
        if len(prompts) * ask.width > (most := int(SIZES["sequences"].high or 0)):
            raise BadRequest(
                f"{len(prompts)} prompts with {ask.width} choices each are more than {most} sequences.", param="n"
            )
        _check_known(prompts, spec.vocab_size, ask.prompt_field)
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
        if self.log_prompts:
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
        self._aborted.discard(name)

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
        tenant = namespace("" if self.shared_prefixes else caller.owner, ask.salts)
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


def _check_known(prompts: Sequence[Sequence[int]], vocab_size: int, field: str) -> None:
    """Raise BadRequest where the tokenizer made a token that the model has no row for: some know more than their model."""
    for i, ids in enumerate(prompts):
        if (highest := max(ids)) >= vocab_size:
            name = f"{field}[{i}]" if len(prompts) > 1 else field
            raise BadRequest(
                f"{name} has a token, {highest}, that the tokenizer knows but the model does not:"
                f" it has {vocab_size} tokens.",
                param=name,
            )


def _check_budget(budget: ThinkingBudget | None, vocab_size: int) -> None:
    if budget is not None and not (budget.close and max(budget.close) < vocab_size):
        raise BadRequest(
            "max_thinking_tokens can't be kept: this model has no tokens for the tag that closes thoughts.",
            param="max_thinking_tokens",
        )


def _bound_by(speech: Speech) -> str:
    """The field at fault where the engine can't go on as it is bound."""
    if speech.ask.constraint is not None:
        return speech.ask.constraint_field
    return "max_thinking_tokens" if speech.constraint is None else "tools"


def _chars(prompt: Prompt) -> int:
    match prompt:
        case TextPrompt(text):
            return len(text)
        case ChatPrompt(messages=messages, tools=tools):
            return sum(map(len, strings((messages, tools))))
        case TokenPrompt():
            return 0
