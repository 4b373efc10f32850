"""Scenes in which the engine is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from tests.chaos import footprint
from tests.chaos.fold import Fold
from tests.chaos.kit import NOTICE, SMALL, Death, House, Live, scene
from tests.chaos.mix import CHAT, TEXT, Wish, chat, mixed, text

STREAMS = 64
TRIES = (
    20  # until a stream has come to its client token by token, or a moment of milliseconds did not pass while we slept
)
IN_FLIGHT = 0.2  # seconds that what a dead engine said may take to its client


# Without guesses: of those that come true several tokens are said at once, and no client ever had those between.
@scene("a kill at every token index of a stream", *SMALL, "--speculation", "off")
async def every_index(house: House) -> None:
    length = 6 if house.quick else 64
    (wish,) = (each for each in mixed(15, seed=5, tokens=(length, length)) if each.kind == "chat")
    if house.tiny:  # whose tokens are bytes: parts of a character come together, so let there be none
        wish.body["logit_bias"] = {str(token): -100 for token in range(94, 300)}
    (twin,) = await house.twins([wish])
    assert twin.tokens == length
    await house.settle()
    for index in range(1, length + 1):
        for _ in range(TRIES):
            if await killed_at(house, wish, twin, index):
                break
        else:
            house.figures.wrong.append(f"no chunk ended with token {index}")


async def killed_at(house: House, wish: Wish, twin: Fold, index: int) -> bool:
    """Kill as soon as the client has so many tokens; whether it ever had just so many, for a chunk may bring several."""
    deaths = len(house.deaths)

    def at_index(live: Live) -> None:
        if len(house.deaths) == deaths and live.fold.tokens == index:
            house.kill("kill -9 at a token index")

    live = await house.run(wish, twin, at_index)
    await house.recovered()
    house.judge([live])
    return len(house.deaths) > deaths


@scene("kills at random under 64 mixed streams")
async def random_kills(house: House) -> None:
    wishes = mixed(STREAMS // 4 if house.quick else STREAMS, seed=house.rng.randrange(1 << 30), tokens=(60, 200))
    twins = await house.twins(wishes)
    await house.settle()
    wanted = 4 if house.quick else 50
    while sum(house.figures.faults.values()) < wanted:
        running = asyncio.gather(*(house.run(wish, twin) for wish, twin in zip(wishes, twins, strict=True)))
        while not running.done():
            before = progress(house)
            await asyncio.sleep(house.rng.uniform(0.02, 0.8))
            await house.until(lambda before=before, running=running: running.done() or progress(house) > before, 120)
            if running.done() or sum(house.figures.faults.values()) >= wanted:
                break
            house.kill("kill -9 under load")
        lives = await running
        await house.recovered()
        house.judge(lives)


def progress(house: House) -> int:
    """Goes up whenever a stream says something."""
    return sum(len(live.fold.times) for live in house.live)


@scene("killed while a long prompt is in chunked prefill", *SMALL)
async def in_prefill(house: House) -> None:
    tokens = 2500 if house.tiny or house.quick else 6000
    await house.measure_rate(tokens)  # attention grows with the length: shorter prompts go faster by the token
    wishes = [
        Wish("long prompt", TEXT, text(house.rng, 24, prompt=house.prompt(tokens), temperature=0.9))
        for _ in range(1 if house.quick else 4)
    ]
    twins = await house.twins(wishes)
    await house.settle()
    for wish, twin in zip(wishes, twins, strict=True):
        for share in (0.4,) if house.quick else (0.1, 0.4, 0.7, 0.9):
            while not await prefill_killed(house, wish, twin, share):
                share *= 0.7  # it was too late


async def prefill_killed(house: House, wish: Wish, twin: Fold, share: float) -> bool:
    """Kill once so much of the prefill should have been done; whether it was under way: a chunk done, others not."""
    await house.ask("POST", "/flush_cache")
    with house.pulse() as page:
        before = page.steps
        running = asyncio.create_task(house.run(wish, twin))
        await house.until(lambda: page.steps > before)
        await asyncio.sleep(share * twin.prompt_tokens / house.rate)
        (live,) = house.live or (None,)
        caught = live is not None and not live.fold.times and page.running == 1 and bool(page.flying())
    if caught:
        assert house.kill("kill -9 in a long prefill")
    live = await running
    await house.recovered()
    house.judge([live])
    return caught


@scene("killed while a grammar compiles", *SMALL)
async def in_grammar(house: House) -> None:
    for _ in range(1 if house.quick else 6):
        wish = new_grammar(house)
        steady = mixed(4, house.rng.randrange(1 << 30), (80, 120))  # one has a grammar: there is a builder
        twins = await house.twins(steady)
        if house.before is None:
            await house.settle()
        stop_builders(house)  # what is asked for is not built before the kill
        others = asyncio.gather(*(house.run(each, twin) for each, twin in zip(steady, twins, strict=True)))
        running = asyncio.create_task(house.run(wish))
        if not await house.until(lambda: footprint.look(house.server).state.get("building"), pause=0.05):
            house.figures.wrong.append("no grammar was being built")
        await asyncio.sleep(house.rng.uniform(0.02, 0.4))
        assert house.kill("kill -9 while a grammar compiles")
        live, lives = await running, await others
        await house.recovered()
        (live.twin,) = await house.twins([wish])  # taken after: a grammar is new but once
        house.judge([live, *lives])
    for _ in range(1 if house.quick else 2):
        await hung_builder(house)


HANGS = 60.0  # seconds within which a builder that hangs must have been replaced, and its grammar built


async def hung_builder(house: House) -> None:
    """Nobody is killed, but whoever tries grammars stands still for ever."""
    wish = new_grammar(house)
    stopped = stop_builders(house)
    house.figures.faults["SIGSTOP of a builder of grammars"] += 1
    running = asyncio.create_task(house.run(wish))
    if not await house.until(running.done, HANGS, pause=0.05):
        house.figures.wrong.append(f"a builder of grammars that hangs was not replaced within {HANGS:g} s")
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    live = await running
    (live.twin,) = await house.twins([wish])
    house.judge([live])


def new_grammar(house: House) -> Wish:
    """A wish whose grammar takes a while to build, and that nobody has sent."""
    return Wish("new grammar", CHAT, {**chat(house.rng, 40, temperature=1.0), **big_schema(house.rng)})


def stop_builders(house: House) -> list[int]:
    """SIGSTOP to whoever tries grammars."""
    builders = [each.pid for each in footprint.look(house.server).processes if each.role == "grammar"]
    assert builders, "nobody builds grammars"
    for pid in builders:
        os.kill(pid, signal.SIGSTOP)
    return builders


MOMENTS = ("dead", "loading", "just ready", "mid-resubmission", "going on")  # of a recovery, in their order


@scene("killed while an earlier recovery is under way", *SMALL)
async def in_recovery(house: House) -> None:
    count = 4 if house.quick else 24
    wishes = mixed(count, seed=house.rng.randrange(1 << 30), tokens=(80, 160))
    twins = await house.twins(wishes)
    await house.settle()
    for when in MOMENTS[1:4] * (1 if house.quick else 4):
        met = []
        while when not in met and len(met) < TRIES:
            met.append(await kill_twice(house, wishes, twins, when))
        if when not in met:
            house.figures.wrong.append(f"no second kill came when the engine was {when}, but: {met}")


async def kill_twice(house: House, wishes: Sequence[Wish], twins: Sequence[Fold], when: str) -> str:
    """Kill an engine, and the one after it at that moment of the recovery, or as soon as it has passed. Which it was."""
    running = asyncio.gather(*(house.run(wish, twin) for wish, twin in zip(wishes, twins, strict=True)))
    half = len(wishes) // 2
    await house.until(lambda: running.done() or sum(bool(live.fold.times) for live in house.live) >= half, 120)
    first = house.kill("kill -9")
    assert first is not None
    await house.until(lambda: moment(house, first) != "dead")
    with held_back(house) if when == "just ready" else contextlib.nullcontext():
        if when == "just ready":
            await greeted(house)
        else:
            await house.until(lambda: MOMENTS.index(moment(house, first)) >= MOMENTS.index(when), pause=0)
        found, old = "just ready" if when == "just ready" else moment(house, first), progress(house)
        second = house.kill(f"kill -9 in a recovery: {found}")
    if second is None or second.pid == first.pid:
        house.figures.wrong.append(f"there was no second engine to kill, {found}")
    await house.until(lambda: progress(house) > old or running.done(), 120)
    house.judge(await running)
    await house.recovered()
    return found


def moment(house: House, death: Death) -> str:
    """Where the recovery from a death stands."""
    if house.engine() in (None, death.pid):
        return "dead"
    if not house.took_over(death):
        return "loading"
    if any(live.fold.times and live.fold.times[-1] > death.at + IN_FLIGHT for live in house.live):
        return "going on"
    return "mid-resubmission"


@contextlib.contextmanager
def held_back(house: House) -> Iterator[None]:
    """The front stands still meanwhile: it resubmits nothing."""
    (front,) = house.server.pids("front")
    os.kill(front, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(front, signal.SIGCONT)


async def greeted(house: House) -> None:
    """Wait until the newest engine greets whoever has joined it, which it does first of all when it has come up."""
    engines = footprint.folder_of(house.server).glob("engine-*.sock")
    reader, writer = await asyncio.open_unix_connection(str(max(engines, key=lambda path: path.stat().st_ctime_ns)))
    async with asyncio.timeout(60):
        assert await reader.read(1), "the engine has not greeted us"
    writer.transport.abort()


PATIENCE = 2.0  # seconds, of the stall watch in the scene below


@scene("SIGSTOP, shorter and longer than the stall timeout", "--stall-timeout", str(PATIENCE), *SMALL)
async def stopped(house: House) -> None:
    wishes = mixed(4 if house.quick else 12, seed=house.rng.randrange(1 << 30), tokens=(150, 200))
    twins = await house.twins(wishes)
    await house.settle()
    for short in (True, False) * (1 if house.quick else 4):
        before = house.engine()
        running = asyncio.gather(*(house.run(wish, twin) for wish, twin in zip(wishes, twins, strict=True)))
        await house.until(lambda: progress(house) > 20, 60)
        if short:
            await house.pause(PATIENCE / 4)
        else:
            death = house.stop(PATIENCE)
        house.judge(await running)
        await house.recovered()
        if short and house.engine() != before:
            house.figures.wrong.append(f"an engine that was stopped for {PATIENCE / 4:g} s was replaced")
        elif not short:
            noticed(house, death)
    death = house.stop(PATIENCE)  # one that is stopped while idle is found when it is needed
    house.judge([await house.run(wishes[0], twins[0])])
    await house.recovered()
    noticed(house, death)


def noticed(house: House, death: Death) -> None:
    """/ready must have said in time that the engine stood still, or that it was being replaced, whichever was seen first."""
    if death.ready is None:
        house.figures.wrong.append("a stopped engine was not replaced")
        os.kill(death.pid, signal.SIGCONT)
    state, after = min(death.said.items(), key=lambda said: (said[0] == "ready", said[1]), default=("nothing", 0.0))
    house.figures.notes.append(f"/ready said {state!r} {after:.2f} s after a stop")
    if state not in ("stalled", "restarting") or after > PATIENCE + NOTICE:
        house.figures.wrong.append(f"/ready said {state!r} only {after:.2f} s after a stop")


def big_schema(rng: random.Random) -> dict[str, Any]:
    """A schema that takes a while to build, and that nobody has sent."""
    names = [f"f{number}_{rng.getrandbits(32):x}" for number in range(60)]
    inner = {name: {"type": "string", "pattern": f"[a-z]{{1,{rng.randint(3, 40)}}}x?"} for name in names}
    schema = {"type": "object", "properties": inner, "required": names, "additionalProperties": False}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "b", "schema": schema, "strict": True}}}
