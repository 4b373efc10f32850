"""The models that a front has: the one that new requests go to, one that is being loaded, and those that live requests
finish on. Each has an engine's client and a session of its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from radixmill import store
from radixmill.core.config import LAST_WORDS, Config, with_model
from radixmill.core.errors import BadRequest, CannotStart, Conflict, EngineFailed, ModelChanged, NotReady, ServeError
from radixmill.core.spec import Identity, TextMark
from radixmill.front.session import (
    EngineView,
    Front,
    Mode,
    ModelText,
    Reloaded,
    Served,
    Session,
    open_session,
    open_text,
)
from radixmill.link.remote import RemoteEngine
from radixmill.observe.pulse import FrontPulse
from radixmill.store import ModelFiles
from radixmill.store.texts import check_texts, text_marks

log = logging.getLogger("radixmill.front")

SERVING = ("ready", "draining")  # states of an engine that has said Ready and has not died since
DEPLOYMENTS = 32  # bits of a sequence's number that are the count within its deployment
LOOK = 0.05  # seconds between looks whether live requests have finished


class Text(NamedTuple):
    text: ModelText
    seconds: float  # that it took to load
    marks: tuple[TextMark, ...]  # of its files, before


@dataclass(eq=False)
class Model:
    """One deployment, as a front has it."""

    number: int
    config: Config
    files: ModelFiles
    client: RemoteEngine
    view: EngineView
    text: asyncio.Future[Text]
    session: Session | None = None  # once text and engine are there
    retiring: bool = False  # another has taken over: it ends with its last request

    async def open(self) -> Session:
        """Wait for text and engine. Raises CannotStart (ModelChanged where they don't belong together) or EngineFailed."""
        text, _, before = await self.text
        spec = await self.client.ready()
        session = open_session(self.config, self.files, text, self.client)
        after = await asyncio.to_thread(text_marks, self.files, self.config.model)
        try:
            for marks in (before, after):  # what was read between was read of these
                check_texts(spec.text_marks, marks)
        except ModelChanged:
            session.close()
            raise
        self.session = session
        return session

    @property
    def idle(self) -> bool:
        return self.session is None or self.session.idle

    def served(self) -> Served:
        names = self.session.served if self.session else self.config.model.served_model_name or (self.files.name,)
        return Served(names=list(names), numerics=self.client.spec.numerics if self.client.spec else "")

    @property
    def failed(self) -> bool:
        """Its engine will not come back."""
        return self.client.health().state == "failed"


class Models:
    """Obeys the supervisor's words about deployments, and passes orders for others on to it."""

    def __init__(self, front: Front, say: Callable[..., None], pulse: FrontPulse, first: int) -> None:
        """`say` tells the supervisor. Sequences are numbered from `first` on, each model's from a number of its own."""
        self._front, self._say, self._pulse, self._first = front, say, pulse, first
        self._asked: dict[int, int] = {}  # of each model's engine: what it has not answered
        self._drain_timeout = front.config.server.drain_timeout
        self._all: dict[int, Model] = {}
        self._current: Model | None = None
        self._orders: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._texts: dict[str, asyncio.Future[Text]] = {}  # by order: what was loaded to see whether it is good
        self._tasks: set[asyncio.Task[None]] = set()
        self._hold: asyncio.Task[None] | None = None
        front.reload = self.reload

    # --- the first

    def begin(self, number: int, config: Config, files: ModelFiles, earlier: Identity | None = None) -> Model:
        """The one that a front comes up on. `earlier`: what its engine is known to have loaded."""
        known = earlier.text_marks if earlier else ()
        model = self._add(number, config, files, _loading(config, files, known))
        self._front.client, self._front.view = model.client, model.view
        return model

    async def open(self, first: Model) -> bool:
        """Serve it, as soon as it can be. Whether it is what serves now; another may have come first, or its files
        are no longer what the engine has: then it counts as failed. Raises CannotStart."""
        try:
            await first.open()
        except EngineFailed as error:
            if first.number in self._all:
                log.error("%s", error)
            return False
        except ModelChanged as error:
            log.error("this front does not take over: %s", error)
            first.client.give_up(str(error))
            return False
        if self._current is None:
            self._serve(first)
        return self._current is first

    # --- the supervisor's words

    async def engine(self, number: int, event: dict[str, Any]) -> None:
        """Another incarnation of its engine begins."""
        if model := self._all.get(number):
            model.view.point(event["pulse"])
            await model.client.connect(event["path"], event["incarnation"])

    def died(self, number: int, struck: list[int]) -> None:
        """Its engine died while it computed these sequences."""
        if model := self._all.get(number):
            model.client.lost()
            model.client.strike(struck)

    def ended(self, number: int) -> None:
        """Its engine was ended on purpose: what still waits for it is told so."""
        if model := self._all.get(number):
            model.client.lost()
            _interrupt([model], _replaced())

    def failed(self, number: int, detail: str) -> None:
        if model := self._all.get(number):
            model.client.give_up(detail)

    def prepare(self, event: dict[str, Any]) -> None:
        config = msgspec.convert(event["config"], Config)
        files = ModelFiles(event["name"], Path(event["root"]), event["sha256"])
        text = self._texts.pop(event["order"], None) or _loading(config, files)
        self._do(self._prepare(self._add(event["deployment"], config, files, text)))

    def switch(self, number: int) -> None:
        """New requests go to it from now on. It has been prepared, so nothing can fail."""
        if number not in self._all:
            log.error("told to serve deployment %d, which is not known here", number)
            return
        self._end_hold()
        self._serve(self._all[number])
        self._say(event="switched", deployment=number)

    def forget(self, number: int) -> None:
        """It will not come."""
        if model := self._all.get(number):
            self._drop(model)

    def hold(self, order: str) -> None:
        """Take nothing new, finish what runs, and say so of this order."""
        self._end_hold()
        self._front.holding = True
        self._hold = self._do(self._holding(order))

    def resume(self) -> None:
        """The old model serves on."""
        self._end_hold()
        for session in self._front.sessions:
            session.resume()

    def _end_hold(self) -> None:
        if self._hold:
            self._hold.cancel()
        self._front.holding = False

    def deployed(self, order: str, answer: dict[str, Any]) -> None:
        if (waiting := self._orders.get(order)) and not waiting.done():
            waiting.set_result(answer)

    # --- orders

    async def reload(self, name: str | None, mode: Mode) -> Reloaded:
        """Have another model served, or the current one read again (None). Raises ServeError where that can't be."""
        began, before = time.monotonic(), self._current or self._fallen()
        if before is None:
            self._front.ready_session()
            raise NotReady("The server is loading the model. Try again later.", retry_after=1.0)
        if self._orders:
            raise _busy()
        previous, order = before.served(), uuid.uuid4().hex
        config = with_model(before.config, before.config.model.model if name is None else name)
        answer = self._orders[order] = asyncio.get_running_loop().create_future()
        try:
            files = await _find(config)
            await self._check_text(order, config, files)
            self._say(event="deploy", order=_order(order, config, files, mode))
            _raise_fault(await answer)
        finally:
            del self._orders[order]
            self._texts.pop(order, None)
        assert self._current
        return Reloaded(
            model=config.model.model,
            served=self._current.served(),
            previous=previous,
            seconds=round(time.monotonic() - began, 3),
        )

    def _fallen(self) -> Model | None:
        """What a front came up on after its engine had failed for good: another model is the remedy."""
        return next((model for model in self._all.values() if model.failed), None)

    async def _check_text(self, order: str, config: Config, files: ModelFiles) -> None:
        """Load a model's text, for use if the order is taken."""
        text = self._texts[order] = _loading(config, files)
        try:
            await asyncio.shield(text)
        except CannotStart as error:
            raise _unfit(error) from None

    # --- the end

    def drain(self) -> None:
        for model in self._all.values():
            model.client.drain()

    @property
    def idle(self) -> bool:
        """Nothing runs on any of them."""
        return all(model.idle for model in self._all.values())

    def interrupt(self, error: ServeError) -> None:
        _interrupt(self._all.values(), error)

    # ---

    def _add(self, number: int, config: Config, files: ModelFiles, text: asyncio.Future[Text]) -> Model:
        first = self._first + ((number % 256) << DEPLOYMENTS) + 1
        condemned = partial(self._say, event="condemned", deployment=number)
        client = RemoteEngine(first, partial(self._on_asked, number), condemned)
        view = EngineView(config.server.stall_timeout, lambda: client.health().state in SERVING)
        self._all[number] = Model(number, config, files, client, view, text)
        return self._all[number]

    def _drop(self, model: Model) -> None:
        del self._all[model.number]
        model.client.close()
        model.view.close()
        if model.session:
            model.session.close()
        self._on_asked(model.number, 0)

    def _on_asked(self, number: int, count: int) -> None:
        if model := self._all.get(number):
            model.view.asked(count)
        if count:
            self._asked[number] = count
        else:
            self._asked.pop(number, None)
        self._pulse.asked = sum(self._asked.values())

    async def _prepare(self, model: Model) -> None:
        try:
            await model.open()
        except Exception as error:
            if not isinstance(error, (CannotStart, EngineFailed)):
                log.exception("a model's text can't be loaded")
            if model.number in self._all:
                self._say(event="unprepared", deployment=model.number, message=str(error))
            return
        self._say(event="prepared", deployment=model.number)

    def _serve(self, model: Model) -> None:
        front = self._front
        if front.session:
            front.retiring.append(front.session)
        front.session, front.client, front.view = model.session, model.client, model.view
        front.config = model.config  # what holds, holds on: a model may come up only to be replaced
        if self._current is None:
            self._say(event="up")
        self._current = model
        for each in [each for each in self._all.values() if each.number < model.number and not each.retiring]:
            each.retiring = True
            self._do(self._let_go(each))

    async def _let_go(self, model: Model) -> None:
        """Once its last request is over, say that nobody here needs it any more."""
        while not model.idle:
            await asyncio.sleep(LOOK)
        if model.session in self._front.retiring:
            self._front.retiring.remove(model.session)
        self._drop(model)
        self._say(event="released", deployment=model.number)
        del model
        _collect()

    async def _holding(self, order: str) -> None:
        current, until = self._current, time.monotonic() + self._drain_timeout
        models = [each for each in self._all.values() if each.session]
        if not await _idle(models, until):
            _interrupt(models, _replaced())
            await _idle(models, time.monotonic() + LAST_WORDS)
        for number in [current.number] if current else list(self._all):
            self._say(event="released", deployment=number, order=order)

    def _do(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _loading(config: Config, files: ModelFiles, known: tuple[TextMark, ...] = ()) -> asyncio.Future[Text]:
    """`known`: the files that are to be read; others may be broken, and are not even tried."""

    def load() -> Text:
        began, marks = time.monotonic(), text_marks(files, config.model)
        check_texts(known, marks)
        return Text(open_text(config, files), time.monotonic() - began, marks)

    return asyncio.ensure_future(asyncio.to_thread(load))


async def _idle(models: Iterable[Model], until: float) -> bool:
    """Wait for all to be idle; whether they are."""
    models = list(models)
    while not all(model.idle for model in models):
        if time.monotonic() >= until:
            return False
        await asyncio.sleep(LOOK)
    return True


def _interrupt(models: Iterable[Model], error: ServeError) -> None:
    for model in models:
        if model.session:
            model.session.interrupt(error)


async def _find(config: Config) -> ModelFiles:
    options = config.model
    try:
        return await asyncio.to_thread(store.find, options.model, revision=options.revision, progress=False)
    except CannotStart as error:
        raise _unfit(error) from None


def _order(id: str, config: Config, files: ModelFiles, mode: Mode) -> dict[str, Any]:
    return {
        "id": id,
        "model": config.model.model,
        "name": files.name,
        "root": str(files.root),
        "sha256": files.sha256,
        "mode": mode,
    }


def _busy() -> Conflict:
    return Conflict("Another model is being loaded already. Try again when that is done.", code="reload_in_progress")


def _replaced() -> NotReady:
    message = "This answer ends early: the model is being replaced."
    return NotReady(message, code="model_replaced", retry_after=1.0)


def _unfit(error: Exception) -> BadRequest:
    return BadRequest(f"The model can't be loaded: {error}.", param="model")


def _raise_fault(answer: dict[str, Any]) -> None:
    """What an order came to. Raises ServeError unless it was carried out."""
    message = str(answer["message"])
    match answer["fault"]:
        case "busy":
            raise _busy()
        case "stopping":
            raise NotReady("The server is shutting down.", code="shutting_down", retry_after=5.0)
        case "room":
            raise Conflict(f"The model does not fit: {message}.", code="does_not_fit", param="model")
        case "engine":
            raise Conflict(f"The model was not loaded: {message}.", code="engine_failed", param="model")
        case "model":
            raise _unfit(CannotStart(message))


def _collect() -> None:
    """What start-up froze may be garbage by now."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
