"""Requests from the server's own description (schemathesis), and broken bytes on raw sockets, over every route.

    python -m tests.chaos.fuzz [--minutes 10] [--model MODEL] [--seed N]

No answer may be a 5xx but a deliberate 503; no process may die; neither memory nor descriptors may grow.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis

from tests.chaos import hostile
from tests.chaos.clients import Steady
from tests.chaos.figures import Figures
from tests.chaos.kit import EMBEDDED, SMALL, House
from tests.e2e.kit import tiny_model

METHODS = ("GET", "POST", "DELETE", "PATCH")
CAPS = {"max_tokens": 4, "max_completion_tokens": 4, "max_output_tokens": 4, "n": 2, "best_of": 2}


def from_description(url: str, seconds: float, seed: int, tally: Counter[str]) -> list[str]:
    """Requests that schemathesis makes of /openapi.json, valid and not; what was wrong with the answers."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    print(f"requests of {len(operations)} operations for {seconds:.0f} s", file=sys.stderr, flush=True)
    until, faults, round = time.monotonic() + seconds, [], 0
    rng = random.Random(seed)
    while time.monotonic() < until:
        for operation in rng.sample(operations, len(operations)):
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
                faults += _cases(operation, mode, until, seed + round, tally)
        round += 1
    return faults


def _cases(operation: Any, mode: Any, until: float, seed: int, tally: Counter[str]) -> list[str]:
    faults: list[str] = []
    if time.monotonic() > until:  # making requests takes time too
        return faults

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=5,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        if time.monotonic() > until:
            return
        if isinstance(case.body, dict):  # long answers find nothing
            case.body = {
                **case.body,
                **{
                    name: cap
                    for name, cap in CAPS.items()
                    if isinstance(case.body.get(name), int) and case.body[name] > cap
                },
            }
            case.body = hostile.tame(operation.path, case.body)
        answer = case.call(timeout=60)
        tally[f"{operation.method.upper()} {operation.path}"] += 1
        if answer.status_code >= 500 and answer.status_code != 503:
            faults.append(f"{answer.status_code} to {case.as_curl_command()[:800]}")

    try:
        one()
    except hypothesis.errors.Unsatisfiable:
        pass  # there is no request of this kind: of a route without parameters none is invalid
    except Exception as error:
        faults.append(f"{operation.method} {operation.path}: {type(error).__name__}: {str(error)[:300]}")
    return faults


async def fuzz(house: House, seconds: float, tally: Counter[str]) -> None:
    """Half of the time each. Wrongs and leaks go to the house's figures."""
    await house.wait_ready()
    steady = Steady(house)  # with grammars: there is a builder before we look what is held
    routes = await hostile.routes_of(house)
    await asyncio.to_thread(from_description, house.server.url, min(10.0, seconds / 4), 1, Counter())  # warms up
    await hostile.storm(house, [hostile.hostile(house.rng, routes) for _ in range(200)], house.address)
    await steady.prepare()
    before = [house.engine(), *house.server.pids("front")]
    async with steady.going_on():
        house.figures.wrong += await asyncio.to_thread(
            from_description, house.server.url, seconds / 2, house.rng.randrange(1 << 30), tally
        )
        print(f"broken bytes for {seconds / 2:.0f} s", file=sys.stderr, flush=True)
        until = time.monotonic() + seconds / 2
        while time.monotonic() < until:
            ids = await kept(house)
            requests = [hostile.hostile(house.rng, routes, ids) for _ in range(100)]
            requests += [hostile.on_route(house.rng, routes, ids) for _ in range(100)]
            methods = [each.split(b" ", 1)[0].decode("latin-1") for each in requests]
            tally.update(f"raw {method if method in METHODS else '(broken)'}" for method in methods)
            await hostile.storm(house, requests, house.address)
    if (after := [house.engine(), *house.server.pids("front")]) != before:
        house.figures.wrong.append(f"something died: {before} → {after}")
    await house.check_leaks()


async def kept(house: House) -> list[str]:
    """Ids of a completion and of a response that the server keeps."""
    found = []
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "store": True}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 16, "store": True}),
    ):
        status, answer = await house.ask("POST", path, {"model": "default", **body})
        if status == 200:
            found.append(answer["id"])
        else:
            house.figures.wrong.append(f"{path} said {status}: {answer}")
    return found


async def run(model: str | Path, folder: Path, seconds: float, seed: int) -> tuple[Figures, Counter[str]]:
    """On a server of its own."""
    house, tally = House(model, folder, Figures(), random.Random(seed)), Counter[str]()
    with house.another(*SMALL):
        await fuzz(house, seconds, tally)
    return house.figures, tally


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=EMBEDDED, help="tiny: a small one of random weights")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        model = tiny_model(Path(name) / "tiny") if args.model == "tiny" else args.model
        figures, tally = asyncio.run(run(model, Path(name), 60 * args.minutes, args.seed))
    for route, count in sorted(tally.items()):
        print(f"{count:>8}  {route}")
    print(figures.line())
    print("\n".join(figures.complaints()[:50]))
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
