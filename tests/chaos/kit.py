"""What scenes share: a server under attack, requests with their undisturbed twins, and deaths that are kept account of."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radixmill.observe.pulse import EnginePulse
from tests.chaos import footprint, wire
from tests.chaos.figures import SPARE, Figures, Gap
from tests.chaos.fold import Fold
from tests.chaos.mix import TEMPLATE, TEXT, Wish, prompt_of
from tests.e2e.kit import Server, serving

EMBEDDED = "smollm2-135m-instruct"
LOGGED = 0.1  # seconds that what happened may take to stand in the log
NOTICE = 0.5  # seconds after a death by which a front must know of it
TAKEN_OVER = re.compile(r"engine \d+ took over")


@dataclass(eq=False)
class Live:
    """A request on its way."""

    wish: Wish
    fold: Fold = field(default_factory=Fold)
    twin: Fold | None = None
    asked: float = 0.0  # when it was sent, by the monotonic clock
    accepted: bool = False
    port: int = 0  # of its connection, on our side
    broke: str = ""  # how its connection ended, if not as it should

    @property
    def context(self) -> int:
        """Tokens that a new engine has to compute again for it."""
        return 0 if self.fold.done else self.prompt + self.fold.tokens

    @property
    def prompt(self) -> int:
        return self.twin.prompt_tokens if self.twin else self.fold.prompt

    @property
    def over(self) -> bool:
        return self.fold.done or bool(self.broke)


@dataclass(eq=False)
class Death:
    """An engine that was killed, or stopped. `ready`: when another served, if that was before the next death."""

    pid: int
    at: float
    recompute: int  # tokens of all live requests: they share the engine, and none goes on much before the others
    log: int  # bytes that the log had
    stood: float = 0.0  # seconds that one which was stopped may stand still before it is killed
    gone: float = 0.0  # when it had died
    ready: float | None = None
    said: dict[str, float] = field(default_factory=dict)  # by /ready: each state, and after how many seconds first


@dataclass(eq=False)
class House:
    """A server under attack."""

    model: str | Path
    folder: Path
    figures: Figures
    rng: random.Random
    quick: bool = False
    small: bool = False  # the pool of the server
    filled: bool = False  # every page of it has been used
    server: Server = field(init=False)
    rate: float = 1000.0  # tokens per second of prefill
    live: list[Live] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    before: footprint.Footprint | None = None
    _watches: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def tiny(self) -> bool:
        return str(self.model) != EMBEDDED

    @contextlib.contextmanager
    def another(self, *flags: str, **more: Any) -> Iterator[None]:
        """A server to be attacked, while the context lasts."""
        folder, model = more.pop("folder", self.folder), more.pop("model", self.model)
        self.small, self.filled = set(SMALL) <= set(flags), False
        with start(model, folder, *flags, **more) as self.server:
            yield
        text = self.server.log.read_text(errors="replace")
        if "Traceback" in text:
            self.figures.wrong.append("a traceback in the log: " + text[text.index("Traceback") :][-2000:])

    @property
    def address(self) -> wire.Address:
        return wire.Address.of(self.server.url)

    # --- requests

    def prompt(self, tokens: int) -> str:
        """A text of about so many tokens that nobody has sent."""
        return prompt_of(tokens, self.rng, 7.0 if self.tiny else 1.0)  # the tiny model's are bytes

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        return await asyncio.wait_for(wire.ask(self.address, method, path, body, headers), 120)

    async def run(self, wish: Wish, twin: Fold | None = None, on_chunk: Callable[[Live], None] | None = None) -> Live:
        """One request to its end. What goes wrong on its way is noted in it, not raised."""
        live = Live(wish, twin=twin)
        self.live.append(live)
        try:
            await asyncio.wait_for(self._exchange(live, on_chunk), 600)
        except (OSError, asyncio.IncompleteReadError, ValueError, TimeoutError) as error:
            live.broke = f"{type(error).__name__}: {error}"
        finally:
            self.live.remove(live)
        return live

    async def _exchange(self, live: Live, on_chunk: Callable[[Live], None] | None) -> None:
        wish, fold = live.wish, live.fold
        reader, writer = await asyncio.open_connection(*self.address, limit=wire.LINE)
        try:
            live.port = writer.get_extra_info("sockname")[1]
            writer.write(wire.message("POST", wish.route, wish.body))
            live.asked = time.monotonic()
            live.accepted = True  # held; a refusal takes it back
            answer = await wire.read_head(reader, writer)
            fold.status = answer.status
            live.accepted = answer.status == 200
            if answer.status != 200:
                fold.error = (await answer.body()).decode(errors="replace")
            elif wish.streamed:
                async for event in answer.events():
                    fold.add(event)
                    if on_chunk:
                        on_chunk(live)
            else:
                fold.whole(wire.json.loads(await answer.body()))
        finally:
            writer.transport.abort()

    async def twins(self, wishes: Sequence[Wish], at_once: int = 8) -> list[Fold]:
        """The undisturbed answers. Raises AssertionError where one has no proper end."""
        gate = asyncio.Semaphore(at_once)

        async def one(wish: Wish) -> Fold:
            async with gate:
                live = await self.run(wish)
            fault = live.broke or live.fold.error or ("" if live.fold.done else "it has no end")
            assert not fault, f"undisturbed, {wish.kind}: {fault}"
            return live.fold

        return list(await asyncio.gather(*map(one, wishes)))

    def judge(self, lives: Iterable[Live]) -> None:
        """Count what was lost, doubled or changed."""
        for live in lives:
            assert live.twin is not None
            self.figures.accepted += live.accepted
            name = f"{live.wish.kind}, seed {live.wish.body.get('seed')}"
            if not live.accepted:
                self.figures.wrong.append(f"{name}: refused: {live.fold.status} {live.fold.error or live.broke}")
            elif live.broke or not live.fold.done or live.fold.error:
                self.figures.lost.append(f"{name}: {live.broke or live.fold.error or 'no end'}")
            else:
                self.figures.doubled += live.fold.doubled(live.twin)
                if difference := live.fold.differs(live.twin):
                    self.figures.different.append(f"{name}: {difference}")
            self.figures.gaps += self._gaps(live)

    def _gaps(self, live: Live) -> list[Gap]:
        """The pauses of a stream in which engines died."""
        return pauses(live, self.deaths, self.rate) if live.wish.streamed else []

    async def wait_ready(self, patience: float = 60.0) -> None:
        """Until /ready has said 200 often enough that every front must have said it."""
        deadline, row = time.monotonic() + patience, 0
        while row < 12 and time.monotonic() < deadline:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                status, _ = await self.ask("GET", "/ready")
                row = row + 1 if status == 200 else 0
            await asyncio.sleep(0.02)

    async def fill(self) -> bool:
        """Use every page of the pool once: memory that is taken when it is first written must not look like a leak.
        Whether that has come to pass."""
        state = footprint.look(self.server).state
        tokens = min(state["pages_total"] * 64 // 4, 3000)
        for _ in range(50):
            bodies = [{"model": "default", "prompt": self.prompt(tokens), "max_tokens": 1} for _ in range(2)]
            await asyncio.gather(*(self.ask("POST", TEXT, body) for body in bodies))
            state = footprint.look(self.server).state
            if all(pages["pages_free"] * 16 < pages["pages_total"] for pages in footprint.groups(state)):
                self.filled = True
                return True
        self.figures.notes.append("the pool was not filled")
        return False

    async def measure_rate(self, tokens: int = 1000) -> None:
        """Tokens per second of prefill, by prompts that nobody has sent."""
        best = 0.0
        for _ in range(3):
            body = {"model": "default", "prompt": self.prompt(tokens), "max_tokens": 1}
            began = time.monotonic()
            status, answer = await self.ask("POST", TEXT, body)
            assert status == 200, answer
            best = max(best, answer["usage"]["prompt_tokens"] / (time.monotonic() - began))
        self.rate = best

    # --- deaths

    @contextlib.contextmanager
    def pulse(self) -> Iterator[EnginePulse]:
        """The newest engine's page."""
        paths = footprint.folder_of(self.server).glob("engine-*.pulse")
        page = EnginePulse(max(paths, key=lambda path: int(path.name.split(".")[1])), read_only=True)
        try:
            yield page
        finally:
            page.close()

    def engine(self) -> int | None:
        """The engine's process id, if it lives."""
        return next((pid for pid in self.server.pids("engine") if footprint.process(pid)), None)

    def kill(self, name: str = "kill -9", *, watch: bool = True) -> Death | None:
        """SIGKILL to the engine; None: there was none. `watch`: how long it takes until another serves."""
        if (pid := self.engine()) is None:
            return None
        death = self._death(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        death.gone = death.at
        self.figures.faults[name] += 1
        self.deaths.append(death)
        if watch:  # by the log, which some servers have none of
            self._watches.append(asyncio.create_task(self.revived(death)))
        return death

    def _death(self, pid: int) -> Death:
        work = sum(live.context for live in self.live if live.accepted)
        return Death(pid, time.monotonic(), work, self.server.log.stat().st_size)

    async def pause(self, seconds: float) -> None:
        """SIGSTOP to the engine for so long, which is too short for anybody to mind."""
        pid = self.engine()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        self.figures.faults["SIGSTOP, short"] += 1
        await asyncio.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def stop(self, stood: float) -> Death:
        """SIGSTOP to the engine for ever: it has to be replaced once it has stood still for `stood` seconds with work."""
        pid = self.engine()
        assert pid is not None
        death = self._death(pid)
        death.stood = stood
        os.kill(pid, signal.SIGSTOP)
        self.figures.faults["SIGSTOP"] += 1
        self.deaths.append(death)
        self._watches.append(asyncio.create_task(self.revived(death)))
        return death

    def took_over(self, death: Death) -> bool:
        """Whether another engine serves, as the log tells."""
        return self._says(death.log, TAKEN_OVER)

    async def recovered(self) -> None:
        """Wait until the last death has been got over."""
        await asyncio.gather(*self._watches)
        self._watches.clear()

    async def revived(self, death: Death, patience: float = 60.0) -> None:
        """Wait until /ready says 200 of another engine, or until that one is killed too. Notes when, and what /ready said falsely."""
        while time.monotonic() - death.at < patience and self.deaths[-1] is death:
            asked_at = time.monotonic()
            if not death.gone and not footprint.process(death.pid):
                death.gone = asked_at
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                status, body = await self.ask("GET", "/ready")
                now = time.monotonic()
                served = self.took_over(death)
                if status == 200 and not served:  # the front's log is written beside its loop, a moment later
                    served = await self.until(lambda: self.took_over(death), LOGGED)
                if status == 200 and served:
                    death.ready = now
                    self.figures.respawns.append(now - (death.gone or death.at))
                    return
                death.said.setdefault(body["state"], now - death.at)
                if status == 200 and not served and asked_at - death.at > death.stood + NOTICE:
                    self._complain_once("/ready said 200 while no engine served")
            await asyncio.sleep(0.02)
        if self.deaths[-1] is death:
            self.figures.wrong.append(f"no engine within {patience:g} s of a death")

    def _complain_once(self, complaint: str) -> None:
        if complaint not in self.figures.wrong:
            self.figures.wrong.append(complaint)

    def _says(self, start: int, what: re.Pattern[str]) -> bool:
        """Whether a line of the log behind `start` says so."""
        with self.server.log.open("rb") as file:
            file.seek(start)
            return what.search(file.read().decode(errors="replace")) is not None

    async def until(self, condition: Callable[[], Any], patience: float = 30.0, pause: float = 0.005) -> bool:
        """Wait for something; whether it came."""
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(pause)
        return True

    async def seen_idle(self, patience: float) -> None:
        """Whoever went away must have been noticed by then."""
        now = await asyncio.to_thread(footprint.settled, self.server, patience)
        if not now.idle:
            self.figures.wrong.append(f"{patience:g} s after the last client: {now.asked} asked, {now.state}")

    # --- leaks

    async def settle(self) -> None:
        """Remember what the server holds now: it must hold no more in the end. Of a small pool each page has been used."""
        if self.small and not self.quick and not self.filled:
            await self.fill()
        self.before = await asyncio.to_thread(footprint.settled, self.server)

    async def check_leaks(self) -> None:
        assert self.before is not None, "a scene must settle before it begins"
        if self.filled:  # an engine may be another one than before
            await self.fill()
        found: list[str] = []
        for _ in range(20):  # connections that were closed a moment ago are noticed soon
            found = footprint.leaks(
                self.before, await asyncio.to_thread(footprint.settled, self.server), filled=self.filled
            )
            if not found:
                return
            await asyncio.sleep(0.5)
        self.figures.leaks += found


def pauses(live: Live, deaths: Sequence[Death], rate: float) -> list[Gap]:
    """The pauses of a stream in which engines died: from the last thing said before a death, or where nothing had been said
    from the death (or the request, if that came later), to the next thing said after it. What was on its way to us when the
    engine died, and what came before we knew that another serves, would make two pauses of one: the longest is taken."""
    by_pause: dict[tuple[float, float], list[Death]] = {}
    times = live.fold.times
    between = [(live.asked, time) for time in times[:1]] + list(itertools.pairwise(times))
    for death, after in itertools.zip_longest(deaths, deaths[1:]):
        until = death.ready or (after.at if after else death.at + SPARE)
        if touched := [pair for pair in between if pair[0] < until and pair[1] > death.at]:
            by_pause.setdefault(max(touched, key=lambda pair: pair[1] - pair[0]), []).append(death)
    found = []
    for (start, end), within in by_pause.items():
        since = max(start, within[0].at) if start == live.asked else start
        own = sum(live.prompt for death in within if death.at < live.asked)
        work = (sum(death.recompute for death in within) + own) / rate
        found.append(Gap(end - since, work, len(within), live.wish.kind, sum(death.stood for death in within)))
    return found


# A small pool, all of which may keep prefixes: it is soon used to its last page.
SMALL = ("--max-total-tokens", "16384", "--prefix-cache-bytes", "16g")
Play = Callable[[House], Awaitable[None]]


@dataclass(frozen=True)
class Scene:
    """One way to break things. `flags` are those of its server."""

    name: str
    play: Play
    flags: tuple[str, ...] = ()
    own_server: bool = False  # it starts what it needs itself, and is given no server


SCENES: dict[str, Scene] = {}


def scene(name: str, *flags: str, own_server: bool = False) -> Callable[[Play], Play]:
    def add(play: Play) -> Play:
        SCENES[name] = Scene(name, play, flags, own_server)
        return play

    return add


def start(model: str | Path, folder: Path, *flags: str, **more: Any) -> contextlib.AbstractContextManager[Server]:
    """A server with what all scenes want."""
    (folder / "template.jinja").write_text(TEMPLATE)
    common = ("--chat-template", str(folder / "template.jinja"), "--reasoning-parser", "qwen3")
    size = () if "--max-total-tokens" in flags else ("--max-total-tokens", "65536")
    dummy = ("--load-format", "dummy") if Path(model).is_dir() else ()
    return serving(model, *common, *size, *dummy, *flags, folder=folder, **more)


async def perform(scene: Scene, model: str | Path, folder: Path, *, seed: int = 0, quick: bool = False) -> Figures:
    """One scene, on a server of its own. Its log is looked at in the end."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    house = House(model, folder, Figures(), random.Random(seed), quick)
    if scene.own_server:
        await scene.play(house)
    else:
        with house.another(*scene.flags):
            await house.wait_ready()
            await house.measure_rate()
            await scene.play(house)
            await house.check_leaks()
    house.figures.seconds = time.monotonic() - began
    return house.figures
