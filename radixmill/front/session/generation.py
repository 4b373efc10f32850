"""The answer to one Ask while it is being made: the deltas of all its sequences → events, usage, one clean end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Literal, TypeVar

from msgspec import Struct

from radixmill.core.errors import BadRequest, EngineFailed, GivenUp, NotReady, ServeError
from radixmill.core.messages import End as EngineEnd
from radixmill.core.messages import TokenDelta, TokenLogprob
from radixmill.core.request import GenerateRequest
from radixmill.front.session.choice import Choice
from radixmill.front.session.door import Place
from radixmill.front.session.echo import PromptText
from radixmill.front.session.events import End, Event, Usage
from radixmill.front.session.receipt import Proof, Witness
from radixmill.link.client import Stream

log = logging.getLogger("radixmill.front")
T = TypeVar("T")

FAULTS = ("failed", "condemned", "lost")  # ends that are the server's fault


class Facts(Struct, frozen=True, kw_only=True):
    """What is known of an answer before its first token."""

    id: str
    model: str  # the name the client asked for
    created: int  # seconds since the epoch
    seed: int
    fingerprint: str
    prompts: tuple[tuple[int, ...], ...]
    width: int  # choices per prompt
    requests: tuple[GenerateRequest, ...] = ()  # one for each prompt, as the engine gets it
    constraint_field: str = "response_format"  # what an error of the constraint names
    texts: tuple[PromptText, ...] = ()  # the prompts', if the Ask wants them echoed
    template: str | None = None  # the request's own chat template


class Generation:
    """Iterate for tuples of events, one tuple per delta that has any; then, in any case, `close`.

    `choices[p * width + c]` is choice c of prompt p. Closing early cancels whatever still runs.

    `scores[p]`: log-probabilities of prompt p's tokens, from the first that the Ask wants on (never of the one at 0),
    there before any event of the prompt's choices. None if it was stopped before they were.

    `proofs`: the record and the receipt, if there is a witness, by the choice whose End they come with: the last one's, or
    each one's own.
    """

    def __init__(
        self,
        facts: Facts,
        streams: Sequence[Stream],
        choices: Sequence[Choice],
        on_close: Callable[[], None],
        place: Place,
        *,
        scored: bool = False,
        witness: Witness | None = None,
        nothing: Literal["length", "abort"] = "length",
    ) -> None:
        """`place`: told when prompts begin to be answered. `scored`: the engine was asked for the prompts' log-probabilities.
        `nothing`: how choices end where there are no streams."""
        self.facts, self.streams, self.choices = facts, tuple(streams), tuple(choices)
        self._by_seq = dict(zip((seq for stream in streams for seq in stream.seqs), choices, strict=bool(streams)))
        self._stream_of = {seq: stream for stream in streams for seq in stream.seqs}
        self._left = len(self.choices)
        self.proofs: dict[int, Proof] = {}
        self._witness, self._nothing = witness, nothing
        self._telling: asyncio.Future[Proof] | None = None
        self._given_up = False  # the telling, because of an abort
        self.tape: dict[int, list[int]] | None = None  # what each choice has said, where that is to be logged
        self.scores: dict[int, tuple[TokenLogprob, ...] | None] = {}
        # What choices have said before their prompt's scores were known, by prompt.
        self._held: dict[int, list[TokenDelta]] = {p: [] for p in range(len(facts.prompts))} if scored else {}
        self._on_close: Callable[[], None] | None = on_close
        self._interruption: ServeError | None = None
        self.place = place
        self.deadline: float | None = None  # of the loop's clock
        self._timer: asyncio.TimerHandle | None = None

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def proof(self) -> Proof | None:
        """The one of the whole answer, once it is over."""
        return next(iter(self.proofs.values()), None)

    def __aiter__(self) -> AsyncGenerator[tuple[Event, ...]]:
        return self._events() if self.streams else self._nothing_to_do()

    async def _events(self) -> AsyncGenerator[tuple[Event, ...], None]:
        async with aclosing(merged(self.streams)) as deltas:
            async for delta in deltas:
                if events := self._push(delta):
                    yield await self._attested(events)
                if not self._left:
                    return
        raise EngineFailed("The engine stopped before the answer was complete.")

    async def _nothing_to_do(self) -> AsyncGenerator[tuple[Event, ...], None]:
        for choice in self.choices:
            self._left -= 1
            yield await self._attested((End(choice.index, self._nothing),))

    async def _attested(self, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """With the record and the receipt made before the last End is told, or before each."""
        if self._witness is None or not self._witness.wants.any:
            return events
        return tuple([await self._attest(self._witness, each) if isinstance(each, End) else each for each in events])

    async def _attest(self, witness: Witness, end: End) -> End:
        """The end as it is told: an abort while its proof is made is why it has none."""
        if not witness.wants.apart and self._left:
            return end
        proof = await self._told(witness, [self.choices[end.choice]] if witness.wants.apart else self.choices)
        if proof is None:
            return End(end.choice, "abort")
        self.proofs[end.choice] = proof
        return end

    async def _told(self, witness: Witness, choices: Sequence[Choice]) -> Proof | None:
        """It may wait long, for the weights' hash: an interruption ends that, and so does an abort, with nothing."""
        self._telling = asyncio.ensure_future(witness.tell(choices, self.scores))
        try:
            return await self._telling
        except asyncio.CancelledError:
            if self._interruption:
                raise self._interruption from None
            task = asyncio.current_task()
            if self._given_up and not (task and task.cancelling()):
                return None
            raise
        finally:
            self._telling, self._given_up = None, False

    def _push(self, delta: TokenDelta) -> tuple[Event, ...]:
        if self._interruption and delta.end and delta.end.reason == "cancelled":
            raise self._interruption
        prompt, nth = divmod(self._by_seq[delta.seq].index, self.facts.width)
        self.place.begun(self.facts.id, prompt)
        held = self._held.get(prompt)
        if held is None:
            return self._fold(delta)
        held.append(delta)
        # The first choice is the one that tells the scores; if it ends without them, they will never come.
        if delta.prompt_logprobs is None and (delta.end is None or nth):
            return ()
        del self._held[prompt]
        self.scores[prompt] = delta.prompt_logprobs
        return tuple(event for each in held for event in self._fold(each))

    def _fold(self, delta: TokenDelta) -> tuple[Event, ...]:
        choice = self._by_seq[delta.seq]
        if choice.ended:
            return ()
        if delta.end is not None:
            if delta.end.reason in FAULTS:
                self._testify_failure(choice, delta.end)
            self._check(delta.seq, delta.end)
        if self.tape is not None:
            self.tape.setdefault(choice.index, []).extend(delta.tokens)
        events = choice.push(delta)
        if choice.ended:
            self._left -= 1
            if delta.end is None:  # a stop string: the engine does not know
                self._stream_of[delta.seq].cancel(delta.seq)
        return events

    def _testify_failure(self, choice: Choice, end: EngineEnd) -> None:
        if self._witness is not None and choice.trace is not None:
            choice.trace.end = end
            self._witness.failed(self.choices, self.scores)

    def _check(self, seq: int, end: EngineEnd) -> None:
        """Raises the error that an end is, if it is one."""
        match end.reason:
            case "failed":
                log.error("request %s: sequence %d failed: %s", self.id, seq, end.detail)
                raise EngineFailed(f"The engine failed while it was generating the answer to request {self.id}.")
            case "condemned":
                raise GivenUp(f"Request {self.id}")
            case "lost":
                raise NotReady(f"The server has no engine any more: {end.detail}.")
            case "expired":
                raise self.place.expired()
            case "grammar":
                field = self.facts.constraint_field
                raise BadRequest(f"{field} can't be followed any further: {end.detail}.", param=field)

    def usage(self) -> Usage:
        """Tokens so far; final once the last End is out."""
        width = self.facts.width
        cached = 0
        for p in range(len(self.facts.prompts)):
            known = [c.cached for c in self.choices[p * width : (p + 1) * width] if c.cached is not None]
            cached += min(known, default=0)
        return Usage(
            prompt=sum(map(len, self.facts.prompts)),
            completion=sum(choice.counted for choice in self.choices),
            cached=cached,
            reasoning=sum(choice.reasoning for choice in self.choices),
        )

    def abort(self) -> None:
        """Ask the engine to stop; the ends come as events, with reason "abort"."""
        for stream in self.streams:
            stream.cancel()
        if self._telling is not None:
            self._given_up = True
            self._telling.cancel()

    def interrupt(self, error: ServeError) -> None:
        """End what still runs by raising `error` to whoever iterates. What has been said until now comes first."""
        self._interruption = error
        self.abort()

    def limit(self, deadline: float, seconds: float) -> None:
        """Stop and fail if it is not done by `deadline`, of the loop's clock: after `seconds` in all."""
        self.deadline = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._time_out, seconds)

    def _time_out(self, seconds: float) -> None:
        if self._left or self._telling is not None:
            self.interrupt(self.place.overdue(seconds))

    def close(self) -> None:
        """Stop whatever still runs and give the place in the queue back. Idempotent."""
        if self._timer:
            self._timer.cancel()
        if self._on_close is None:
            return
        on_close, self._on_close = self._on_close, None
        if self._left:
            self.abort()
        on_close()


async def merged(sources: Sequence[AsyncIterable[T]]) -> AsyncGenerator[T, None]:
    """Items of several sources as they come; the first error ends it."""
    if len(sources) == 1:
        async with _closing(sources[0]) as items:
            async for item in items:
                yield item
        return
    queue: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(source, queue)) for source in sources]
    try:
        running = len(pumps)
        while running:
            got = await queue.get()
            if isinstance(got, BaseException):
                raise got
            if got is None:
                running -= 1
            else:
                yield got[0]
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: AsyncIterable[T], queue: asyncio.Queue[tuple[T] | BaseException | None]) -> None:
    try:
        async with _closing(source) as items:
            async for item in items:
                queue.put_nowait((item,))
        queue.put_nowait(None)
    except Exception as error:
        queue.put_nowait(error)


@asynccontextmanager
async def _closing(source: AsyncIterable[T]) -> AsyncGenerator[AsyncIterable[T], None]:
    """A source that is closed afterwards if it is a generator: then what it holds is let go of now, not by the collector."""
    try:
        yield source
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
