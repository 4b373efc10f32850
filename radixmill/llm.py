"""Offline use: `LLM(model).generate(prompts)`, through the same waist as the server: an engine process, its journal, a session.

with LLM("smollm2") as llm:
    for answer in llm.generate(["Hello", "Once upon a time"], Params(max_tokens=32, seed=1)):
        print(answer.choices[0].text)
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

from tqdm import tqdm

from radixmill import store
from radixmill.cli import build
from radixmill.core.config import Config
from radixmill.core.errors import CannotStart, EngineFailed
from radixmill.core.spec import ModelSpec
from radixmill.front.session import (
    UNLIMITED,
    Ask,
    ChatPrompt,
    Content,
    End,
    Front,
    Generation,
    Prompt,
    Reasoning,
    Sampling,
    Session,
    TextPrompt,
    TokenPrompt,
    open_session,
    open_text,
)
from radixmill.front.session.native.items import constraint_of
from radixmill.link.remote import RemoteEngine
from radixmill.supervise import Supervisor

T = TypeVar("T")

_AT_ONCE = 256  # prompts handed to the engine at a time; it runs as many as it has slots


@dataclass(frozen=True)
class Params:
    """How to continue a prompt. What is None comes from the model's generation_config.json."""

    max_tokens: int | None = 128  # None: to the end of the context
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    seed: int | None = None
    logprobs: int | None = None  # None: none; k: the chosen token's, and the k most likely
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    # What the text must match: at most one of these. A JSON Schema as text or dict, a regular expression of the whole
    # text, a grammar in GBNF with the start `root`, a structural tag as JSON text or dict.
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | dict[str, Any] | None = None


Logprob = tuple[float, tuple[tuple[int, float], ...]]  # the token's, and (id, logprob) of the most likely


@dataclass
class Choice:
    """One continuation. `reasoning`: the thoughts of a chat, which are not in `text`; tokens are of both."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob] | None = None
    finish_reason: str = ""
    reasoning: str = ""


@dataclass(frozen=True)
class Answer:
    """What came of one prompt."""

    prompt_token_ids: tuple[int, ...]
    choices: tuple[Choice, ...]
    cached_tokens: int
    seed: int
    prompt_logprobs: list[Logprob | None] | None = None  # nothing is known of the first token


@dataclass(frozen=True)
class Piece:
    """More of one continuation. `finish_reason`: set on its last piece."""

    choice: int
    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None


class Offline:
    """A model in an engine process of its own, and a session with it on a thread of ours. Ends with `close`."""

    def __init__(self, config: Config) -> None:
        """Raises CannotStart where the model can't be found or loaded."""
        self.config = config
        self.files = store.find(config.model.model, revision=config.model.revision)
        self._text = open_text(config, self.files)
        self._loop = asyncio.new_event_loop()
        self._threads = [threading.Thread(target=self._turn, name="radixmill-link", daemon=True)]
        self._supervisor = Supervisor(
            config, self.files, started=time.monotonic(), front=False, on_event=self._on_event
        )
        self._client = RemoteEngine(on_asked=self._on_asked, on_condemned=self._on_condemned)
        self._threads.append(threading.Thread(target=self._supervise, name="radixmill-supervisor", daemon=True))
        for thread in self._threads:
            thread.start()
        try:
            self.spec: ModelSpec = self.call(self._client.ready())
        except EngineFailed as error:
            self.close()
            raise CannotStart(error.message) from None
        self.session: Session = open_session(config, self.files, self._text, self._client, UNLIMITED)
        self.front = Front(config, self._client, self.session)

    @property
    def engine_pid(self) -> int | None:
        """The engine's process id; another one after a crash, None in between."""
        return self._supervisor.engine_pid

    def stats(self) -> dict[str, Any]:
        """The engine's counters."""
        return self.call(self._client.control("stats"))

    def close(self) -> None:
        """End the engine. Idempotent."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._client.close)
        self._supervisor.stop()
        self._threads[1].join(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads[0].join(10)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self.close()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on our loop and wait for it; ^C in the caller cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """An async generator that lives on our loop, from outside. Leaving early closes it."""
        try:
            while (item := self.call(anext_of(items))) is not None:
                yield item
        finally:
            self.call(items.aclose())

    def _turn(self) -> None:
        """The loop's thread: when the loop is stopped, what still waits in it is cancelled."""
        self._loop.run_forever()
        if rest := asyncio.all_tasks(self._loop):
            for task in rest:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))

    def _supervise(self) -> None:
        """The supervisor's thread: whatever ends it, nobody waits for an engine in vain."""
        try:
            self._supervisor.run()
        finally:
            self._on_event({"event": "failed", "detail": "the engine's supervisor has ended"})

    def _on_asked(self, count: int) -> None:
        with suppress(ValueError):  # the supervisor has ended
            self._supervisor.local.asked = count

    def _on_condemned(self) -> None:
        self._supervisor.condemned()

    def _on_event(self, event: dict[str, Any]) -> None:
        """From the supervisor's thread."""
        with suppress(RuntimeError):  # the loop has been closed: nobody is left to tell
            match event["event"]:
                case "engine":
                    asyncio.run_coroutine_threadsafe(
                        self._client.connect(event["path"], event["incarnation"]), self._loop
                    )
                case "died":
                    self._loop.call_soon_threadsafe(self._client.lost)
                    self._loop.call_soon_threadsafe(self._client.strike, event["struck"])
                case "failed":
                    self._loop.call_soon_threadsafe(self._client.give_up, event["detail"])


async def anext_of(items: AsyncGenerator[T, None]) -> T | None:
    """The next item; None when there are no more."""
    return await anext(items, None)


class LLM(Offline):
    """A model in an engine process of its own. Use as a context manager, or call `close`."""

    def __init__(self, model: str = "smollm2-135m-instruct", **settings: Any) -> None:
        """`settings`: fields of core.config by name, such as compute="exact" or max_total_tokens=4096.

        Raises CannotStart where the model can't be found or loaded.
        """
        self._ids = itertools.count(1)
        super().__init__(_config(model, settings))

    def generate(
        self,
        prompts: str | Sequence[str | Sequence[int]],
        params: Params | Sequence[Params] | None = None,
        *,
        progress: bool = True,
    ) -> list[Answer]:
        """Continue each prompt (text or token ids); the answers in the order of the prompts.

        Raises BadRequest for what can't be asked, before anything runs for that prompt.
        """
        texts: list[str | Sequence[int]] = [prompts] if isinstance(prompts, str) else list(prompts)
        return self._run(
            [TextPrompt(p) if isinstance(p, str) else TokenPrompt(tuple(p)) for p in texts], params, progress
        )

    def stream(self, prompt: str | Sequence[int], params: Params | None = None) -> Iterator[Piece]:
        """Continue one prompt, piece by piece as they come. Leaving the iteration stops it. Raises as `generate`."""
        asked = TextPrompt(prompt) if isinstance(prompt, str) else TokenPrompt(tuple(prompt))
        return self.iterate(self._pieces(self._ask(asked, params or Params())))

    async def _pieces(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        generation = await self.session.start(ask)
        try:
            async for events in generation:
                for event in events:
                    match event:
                        case Content(choice, text, tokens):
                            yield Piece(choice, text, tuple(token.id for token in tokens))
                        case End(choice, reason):
                            yield Piece(choice, "", finish_reason=reason)
        finally:
            generation.close()

    def chat(
        self, conversations: Sequence[Any], params: Params | Sequence[Params] | None = None, *, progress: bool = True
    ) -> list[Answer]:
        """Answer one conversation (a list of message dicts), or several."""
        many = [conversations] if conversations and isinstance(conversations[0], dict) else list(conversations)
        return self._run([ChatPrompt(messages=tuple(messages)) for messages in many], params, progress)

    def _run(self, prompts: list[Prompt], params: Params | Sequence[Params] | None, progress: bool) -> list[Answer]:
        each = [params or Params()] * len(prompts) if params is None or isinstance(params, Params) else list(params)
        if len(each) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(each)} params")
        with tqdm(
            total=len(prompts), desc="Generating", unit="prompt", disable=not progress, dynamic_ncols=True
        ) as bar:
            return self.call(self._gather(prompts, each, bar))

    async def _gather(self, prompts: list[Prompt], params: list[Params], bar: Any) -> list[Answer]:
        room = asyncio.Semaphore(_AT_ONCE)
        said = 0

        async def one(prompt: Prompt, wish: Params) -> Answer:
            nonlocal said
            async with room:
                answer = await self._answer(prompt, wish)
            said += sum(len(choice.token_ids) for choice in answer.choices)
            bar.set_postfix(tokens=said)
            bar.update()
            return answer

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(*pair)) for pair in zip(prompts, params, strict=True)]
        return [task.result() for task in running]

    async def _answer(self, prompt: Prompt, params: Params) -> Answer:
        generation = await self.session.start(self._ask(prompt, params))
        try:
            return await _fold(generation, params)
        finally:
            generation.close()

    def _ask(self, prompt: Prompt, params: Params) -> Ask:
        names = Sampling.__struct_fields__
        sampling = Sampling(**{name: getattr(params, name) for name in names if hasattr(params, name)})
        constraint, field_name = constraint_of(params)
        return Ask(
            id=f"llm-{next(self._ids)}",
            model="default",
            prompts=(prompt,),
            n=params.n,
            width=params.n,
            max_tokens=params.max_tokens,
            sampling=sampling,
            stop=params.stop,
            seed=params.seed,
            keep_tokens=True,
            constraint=constraint,
            constraint_field=field_name,
        )


async def _fold(generation: Generation, params: Params) -> Answer:
    choices = tuple(Choice(logprobs=None if params.logprobs is None else []) for _ in generation.choices)
    async for events in generation:
        for event in events:
            choice = choices[event.choice]
            match event:
                case Content() | Reasoning():
                    choice.text += event.text if isinstance(event, Content) else ""
                    choice.reasoning += event.text if isinstance(event, Reasoning) else ""
                    choice.token_ids += [token.id for token in event.tokens]
                    if choice.logprobs is not None:
                        choice.logprobs += [(t.logprob.logprob, t.logprob.top) for t in event.tokens if t.logprob]
                case End():
                    choice.finish_reason = event.reason
    facts, scores = generation.facts, generation.scores.get(0)
    told = None if scores is None else [None, *((score.logprob, score.top) for score in scores)]
    return Answer(facts.prompts[0], choices, generation.usage().cached, facts.seed, told)


def _config(model: str, settings: dict[str, Any]) -> Config:
    """Settings by their own name: each is unique in the tree."""
    empty = Config()
    tree: dict[str, dict[str, Any]] = {"model": {"model": model}}
    for name, value in settings.items():
        section = next(
            (s for s in ("model", "compute", "cache", "schedule", "server") if hasattr(getattr(empty, s), name)), None
        )
        if section is None:
            raise TypeError(f"LLM() got an unexpected setting {name!r}; see docs/flags.md")
        tree.setdefault(section, {})[name] = value
    config = build(tree)
    return replace(config, server=replace(config.server, log_level=settings.get("log_level", "warning")))
