"""Scenes in which the engine is killed."""

from __future__ import annotations

import asyncio

from tests.chaos.kit import House, Live, scene
from tests.chaos.mix import CHAT, Wish, mixed

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
            await house.until(lambda before=before: running.done() or progress(house) > before, 120)
            if running.done() or sum(house.figures.faults.values()) >= wanted:
                break
            house.kill("kill -9 under load")
        lives = await running
        await house.recovered()
        house.judge(lives)


def progress(house: House) -> int:
    """Goes up whenever a stream says something."""
    return sum(len(live.fold.times) for live in house.live)
