"""Engines that die at exactly every step, in this process: the fold of each stream is that of an undisturbed run."""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config, ModelOptions, ScheduleOptions
from radixmill.core.plan import StepPlan, Ticket
from radixmill.core.request import GenerateRequest, SamplingParams, choice_seed
from radixmill.device.executor import LocalExecutor, open_executor
from radixmill.engine.loop import Engine
from radixmill.engine.schedule import Scheduler
from radixmill.link.remote import RemoteEngine
from radixmill.link.socket import EngineSocket
from radixmill.store import ModelFiles

REQUESTS = [
    GenerateRequest(
        id=f"r{i}",
        prompt=tuple((7 * i + k * k) % 250 for k in range(5 + 40 * i)),
        sampling=SamplingParams(
            max_tokens=9,
            min_tokens=9,
            temperature=0.9,
            top_p=0.95,
            frequency_penalty=0.4,
            repetition_penalty=1.1,
            logprobs=2,
        ),
    )
    for i in range(3)
] + [
    GenerateRequest(  # says little else than two tokens, so that guesses are found, right and wrong ones
        id="r3",
        prompt=tuple(range(20)),
        sampling=SamplingParams(max_tokens=9, min_tokens=9, logit_bias=((3, 50.0), (11, 50.0)), logprobs=2),
    )
]


class Fatal(Exception):
    """The engine's death."""


class Dying:
    """An executor that dies when a step is launched, or when its result is asked for."""

    guesses = 0  # checked by all of them

    def __init__(self, inner: LocalExecutor, steps: int, *, after: bool) -> None:
        self.inner, self.steps, self.after = inner, steps, after
        self.spec = inner.spec

    def launch(self, plan: StepPlan) -> Ticket:
        self.steps -= 1
        Dying.guesses += 0 if plan.guesses is None else int(plan.guesses.sum())
        if self.steps < 0 and not self.after:
            raise Fatal
        ticket = self.inner.launch(plan)
        if self.steps < 0:
            raise Fatal  # computed, sampled perhaps, but never sent
        return ticket

    def stats(self) -> dict[str, Any]:
        return self.inner.stats()

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(scope="module")
def executor(tiny: Path) -> LocalExecutor:
    config = Config(
        model=ModelOptions(load_format="dummy"),
        compute=ComputeOptions(threads=1),
        cache=CacheOptions(page_size=16, max_total_tokens=1024),
        schedule=ScheduleOptions(step_tokens=48),
    )
    return open_executor(config, ModelFiles("tiny", tiny))


def incarnation(executor: Any, path: Path, number: int, overlap: bool, speculation: str) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    link = EngineSocket(listener)
    engine = Engine(
        Scheduler(executor.spec, ScheduleOptions(step_tokens=48, speculation=speculation), True),
        executor,
        link,
        incarnation=number,
        overlap=overlap,
    )

    def live() -> None:
        try:
            engine.run()
        except Fatal:
            link.close()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    return thread


async def folded(
    executor: LocalExecutor, deaths: list[int], *, after: bool, overlap: bool, speculation: str = "ngram"
) -> list[Any]:
    """All streams of REQUESTS over engines that live for so many steps each, then one that lives on."""
    client = RemoteEngine()
    with tempfile.TemporaryDirectory() as folder:
        lives = iter([*(Dying(executor, steps, after=after) for steps in deaths), Dying(executor, 10_000, after=False)])
        threads = []

        async def keep_alive() -> None:
            for number in itertools.count(1):
                path = Path(folder) / str(number)
                threads.append(incarnation(next(lives), path, number, overlap, speculation))
                await client.connect(str(path), number)
                while threads[-1].is_alive():
                    await asyncio.sleep(0.0005)

        nurse = asyncio.create_task(keep_alive())
        await client.ready()
        streams = [client.submit(request, [choice_seed(5, 0), choice_seed(5, 1)]) for request in REQUESTS]
        result = list(await asyncio.gather(*map(fold, streams)))
        nurse.cancel()
        client.close()
    return result


async def fold(stream: Any) -> Any:
    said: dict[int, list[Any]] = {seq: [] for seq in stream.seqs}
    ends = []
    async for delta in stream:
        said[delta.seq] += zip(delta.tokens, delta.logprobs or [None] * len(delta.tokens), strict=True)
        if delta.end:
            ends.append(
                (stream.seqs.index(delta.seq), delta.end.reason, delta.end.usage.prompt, delta.end.usage.completion)
            )
    return list(said.values()), sorted(ends)


@pytest.mark.parametrize("after", [False, True], ids=["before the step", "after the step"])
@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
def test_death_at_every_step(executor: LocalExecutor, after: bool, overlap: bool) -> None:
    undisturbed = asyncio.run(folded(executor, [], after=False, overlap=False, speculation="off"))
    assert all(len(tokens) == 9 for choices, _ in undisturbed for tokens in choices)
    for steps in range(16):
        assert asyncio.run(folded(executor, [steps], after=after, overlap=overlap)) == undisturbed, (
            f"died at step {steps}"
        )


def test_a_chain_of_deaths(executor: LocalExecutor) -> None:
    undisturbed = asyncio.run(folded(executor, [], after=False, overlap=False, speculation="off"))
    before = Dying.guesses
    assert asyncio.run(folded(executor, [3, 0, 5, 1, 4], after=True, overlap=False)) == undisturbed
    assert Dying.guesses > before
