"""Can a key tell by the time to first token what another key has asked?

    python -m tests.chaos.timing [--pairs 200] [--tokens 1000]

Alternating requests of one key: half of them with a prefix that another key has just sent, half with one that nobody
has. The area under the curve of the best threshold classifier must lie between 0.45 and 0.55: a classifier may call either
side of its threshold the known one, so that the area is 0.5 or more, and 0.55 the bound. Of 200 and 200 times that have
nothing to tell it strays from 0.5 by 0.029, of 15 and 15 by 0.107: few pairs prove nothing. With --shared-prefix-cache it is
near 1, which shows that the test can see what there is to see.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import wire
from tests.chaos.figures import Area, Figures, percentile
from tests.chaos.kit import EMBEDDED, House
from tests.chaos.mix import TEXT
from tests.e2e.kit import tiny_model

KEYS = ("of-the-victim", "of-the-spy")
MOST, LEAST = 0.55, 0.9  # of the area: keys apart, and one cache for all
FLAGS = ("--api-key", *KEYS, "--max-total-tokens", "32768")


async def first_token(house: House, prompt: str, key: str) -> float:
    """Seconds from the request to the answer's first token."""
    body = {"model": "default", "prompt": prompt, "max_tokens": 1, "stream": True, "temperature": 0}
    began = time.perf_counter()
    answer = await wire.send(house.address, wire.message("POST", TEXT, body, {"Authorization": f"Bearer {key}"}))
    try:
        assert answer.status == 200, await answer.body()
        async for _ in answer.events():
            break
        return time.perf_counter() - began
    finally:
        answer.close()


async def measure(house: House, pairs: int, tokens: int) -> Area:
    """In each pair, the one that the victim has sent comes first as often as second. The victim sends something
    before either, so that what the cache holds and what the server did last are alike."""
    await house.wait_ready()
    known: list[float] = []
    unknown: list[float] = []
    for number in range(pairs + 3):
        if number and number % 20 == 0:
            print(f"{number} of {pairs + 3} pairs", file=sys.stderr, flush=True)
        order = [True, False] if house.rng.random() < 0.5 else [False, True]
        for sent in order:
            prompt, other = house.prompt(tokens), house.prompt(tokens)
            await first_token(house, prompt if sent else other, KEYS[0])
            await asyncio.sleep(0.02)  # what is done behind an answer is done
            took = await first_token(house, prompt, KEYS[1])
            if number >= 3:  # the first ones warm up
                (known if sent else unknown).append(took)
    shown = [f"{1000 * percentile(each, 0.5):.1f} ms" for each in (known, unknown)]
    print(f"time to first token, median: {shown[0]} of prefixes that another key sent, {shown[1]} of others")
    return Area.between(unknown, known)


async def run(model: str | Path, folder: Path, *flags: str, pairs: int, tokens: int, seed: int = 0) -> Area:
    house = House(model, folder, Figures(), random.Random(seed))
    with house.another(*FLAGS, *flags):
        return await measure(house, pairs, tokens)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200, help="requests of either kind")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--model", default=EMBEDDED, help="tiny: a small one of random weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared", type=int, default=20, metavar="PAIRS", help="pairs with --shared-prefix-cache")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        model = tiny_model(Path(name) / "tiny") if args.model == "tiny" else args.model
        apart = asyncio.run(run(model, Path(name), pairs=args.pairs, tokens=args.tokens, seed=args.seed))
        print(f"keys apart: AUC {apart} (at most {MOST})", flush=True)
        shared = asyncio.run(run(model, Path(name), "--shared-prefix-cache", pairs=args.shared, tokens=args.tokens))
        print(f"one cache:  AUC {shared} (at least {LEAST})")
    return 0 if apart.value <= MOST and shared.value >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
