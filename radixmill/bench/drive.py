"""Send the requests of a workload, so many at a time, and time the whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from radixmill.bench.client import Answer, Server
from radixmill.bench.work import Work, work_done
from radixmill.bench.workloads import Count, Job, Workload, jobs

OnAnswer = Callable[[Answer], None]

UNFINISHED = "not finished in time"


@dataclass(frozen=True)
class Run:
    """One workload, once, on one server."""

    server: str  # the target's name
    workload: str
    repeat: int
    seconds: float  # from the first request sent to the last answer ended
    answers: tuple[Answer, ...]
    work: Work | None = None  # what the server's device did meanwhile, if it tells


@dataclass(frozen=True)
class Target:
    """A server under test, and how texts are sized for it."""

    name: str
    server: Server
    count: Count
    sizing: str  # in words


@dataclass(frozen=True)
class Rounds:
    """What is to be measured: every workload, `repeats` times, on every target."""

    targets: Sequence[Target]
    workloads: Sequence[Workload]
    repeats: int
    seed: int
    timeout: float  # seconds, for one workload once

    async def measure(self, begins: Callable[[Target, Workload], None], done: OnAnswer) -> AsyncIterator[Run]:
        """The targets take turns, and take turns at going first. All get the same requests, sized for the first."""
        for repeat in range(self.repeats):
            for number, workload in enumerate(self.workloads):
                batch = await jobs(workload, self.targets[0].count, seed=self.seed, repeat=repeat)
                turn = (repeat + number) % len(self.targets)
                for target in (*self.targets[turn:], *self.targets[:turn]):
                    begins(target, workload)
                    before = await work_done(target.server)
                    seconds, answers = await drive(target.server, batch, workload.at_once, self.timeout, done)
                    after = await work_done(target.server)
                    work = after - before if before and after else None
                    yield Run(target.name, workload.name, repeat, seconds, tuple(answers), work)


async def drive(
    server: Server, batch: Sequence[Job], at_once: int, timeout: float, done: OnAnswer
) -> tuple[float, list[Answer]]:
    """Wall-clock seconds and one answer per job; those not finished within `timeout` seconds are errors."""
    answers = [Answer(error=UNFINISHED) for _ in batch]
    waiting = iter(enumerate(batch))

    async def worker() -> None:
        for at, job in waiting:
            answers[at] = await server.complete(job.prompt, job.max_tokens)
            done(answers[at])

    start = time.perf_counter()
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(batch))):
                group.create_task(worker())
    except TimeoutError:
        for answer in answers:
            if answer.error == UNFINISHED:
                done(answer)
    return time.perf_counter() - start, answers
