"""Scenes in which the engine is killed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from tests.chaos.kit import House, Live, scene
from tests.chaos.mix import CHAT, TEXT, Wish, chat, mixed, text

STREAMS = 64


@scene("a kill at every token index of a stream")
async def every_index(house: House) -> None:
    (wish,) = (each for each in mixed(15, seed=5, tokens=(150, 150)) if each.kind == "chat")
    (twin,) = await house.twins([wish])
    await house.settle()
    for index in range(1, 10 if house.quick else 65):
        deaths = len(house.deaths)

        def at_index(live: Live, index: int = index, deaths: int = deaths) -> None:
            if len(house.deaths) == deaths and live.fold.tokens >= index:
                house.kill("kill -9 at a token index")

        live = await house.run(wish, twin, at_index)
        await house.recovered()
        house.judge([live])


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


@scene("killed while a long prompt is in chunked prefill")
async def in_prefill(house: House) -> None:
    tokens = 2500 if house.tiny or house.quick else 6000
    wishes = [
        Wish("long prompt", TEXT, text(house.rng, 24, prompt=house.prompt(tokens), temperature=0.9))
        for _ in range(1 if house.quick else 4)
    ]
    twins = await house.twins(wishes)
    await house.settle()
    for wish, twin in zip(wishes, twins, strict=True):
        for share in (0.5,) if house.quick else (0.1, 0.4, 0.7, 0.95):
            await house.ask("POST", "/flush_cache")
            running = asyncio.create_task(house.run(wish, twin))
            await asyncio.sleep(share * twin.prompt_tokens / house.rate)
            house.kill("kill -9 in a long prefill")
            live = await running
            await house.recovered()
            house.judge([live])


@scene("killed while a grammar compiles")
async def in_grammar(house: House) -> None:
    for _ in range(2 if house.quick else 6):
        wish = Wish("new grammar", CHAT, {**chat(house.rng, 40, temperature=1.0), **big_schema(house.rng)})
        steady = mixed(4, house.rng.randrange(1 << 30), (80, 120))
        twins = await house.twins(steady)
        await house.settle()
        others = asyncio.gather(*(house.run(each, twin) for each, twin in zip(steady, twins, strict=True)))
        running = asyncio.create_task(house.run(wish))
        await asyncio.sleep(house.rng.uniform(0.02, 0.4))
        house.kill("kill -9 while a grammar compiles")
        live, lives = await running, await others
        await house.recovered()
        (live.twin,) = await house.twins([wish])  # taken after: a grammar is new but once
        house.judge([live, *lives])


@scene("killed while an earlier recovery is under way")
async def in_recovery(house: House) -> None:
    count = 4 if house.quick else 24
    wishes = mixed(count, seed=house.rng.randrange(1 << 30), tokens=(80, 160))
    twins = await house.twins(wishes)
    await house.settle()
    for when in ("loading", "just ready", "mid-resubmission") * (1 if house.quick else 4):
        running = asyncio.gather(*(house.run(wish, twin) for wish, twin in zip(wishes, twins, strict=True)))
        await house.until(lambda: sum(bool(live.fold.times) for live in house.live) >= count // 2, 120)
        first = house.kill("kill -9")
        assert first is not None
        old = progress(house)
        if when == "loading":
            await house.until(lambda: house.engine() is not None)
            await asyncio.sleep(house.rng.uniform(0.0, 0.5))
        else:
            await house.until(lambda death=first: house.took_over(death))
            if when == "mid-resubmission":
                await asyncio.sleep(house.rng.uniform(0.0, 0.3))
        house.kill(f"kill -9 in a recovery: {when}")
        await house.until(lambda old=old, running=running: progress(house) > old or running.done(), 120)
        lives = await running
        await house.recovered()
        house.judge(lives)


PATIENCE = 2.0  # seconds, of the stall watch in the scene below


@scene("SIGSTOP, shorter and longer than the stall timeout", "--stall-timeout", str(PATIENCE))
async def stopped(house: House) -> None:
    wishes = mixed(4 if house.quick else 12, seed=house.rng.randrange(1 << 30), tokens=(150, 200))
    twins = await house.twins(wishes)
    await house.settle()
    for seconds in (PATIENCE / 4, None) * (1 if house.quick else 4):
        before = house.engine()
        running = asyncio.gather(*(house.run(wish, twin) for wish, twin in zip(wishes, twins, strict=True)))
        await house.until(lambda: progress(house) > 20, 60)
        await house.stop(seconds)
        lives = await running
        await house.recovered()
        house.judge(lives)
        if (house.engine() == before) != (seconds is not None):
            house.figures.wrong.append(f"stopped for {seconds or 'ever'}: engine {before} → {house.engine()}")
    idle = house.engine()
    await house.stop(None, wait=False)  # one that is stopped while idle is found when it is needed
    live = await house.run(wishes[0], twins[0])
    await house.recovered()
    house.judge([live])
    if house.engine() == idle:
        house.figures.wrong.append("an engine that was stopped while idle was let be")


def big_schema(rng: random.Random) -> dict[str, Any]:
    """A schema that takes a while to build, and that nobody has sent."""
    names = [f"f{number}_{rng.getrandbits(32):x}" for number in range(60)]
    inner = {name: {"type": "string", "pattern": f"[a-z]{{1,{rng.randint(3, 40)}}}x?"} for name in names}
    schema = {"type": "object", "properties": inner, "required": names, "additionalProperties": False}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "b", "schema": schema, "strict": True}}}
