"""What structured output costs: decode throughput of 16 live rows with and without a grammar, in turns, in one process.

Run by hand: python -m tests.e2e.bench_structured [--rows 16] [--steps 40] [--rounds 9] [MODEL]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator

from radixmill import store
from radixmill.core.config import Config, ScheduleOptions
from radixmill.core.messages import SeqStart, Submit
from radixmill.core.request import Constraint, GenerateRequest, SamplingParams
from radixmill.device.executor import open_executor
from radixmill.engine.grammar import Grammars
from radixmill.engine.schedule import Scheduler
from radixmill.launch import builders
from radixmill.store import ModelFiles

# One long string: in steady state each token is sampled under a mask of nearly the whole vocabulary.
SCHEMAS = {
    "a string": {"type": "object", "properties": {"story": {"type": "string"}}, "required": ["story"]},
    "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 500},
}


class Engine:
    """Scheduler and executor by hand: no sockets, no text."""

    def __init__(self, files: ModelFiles, rows: int) -> None:
        config = Config(schedule=ScheduleOptions(max_running_requests=rows, speculation="off"))
        self.executor = open_executor(config, files)
        spec = self.executor.spec
        self.grammars = Grammars(builders(config, files, spec))
        self.scheduler = Scheduler(spec, self.executor.config.schedule, grammars=self.grammars)
        self.ids = iter(range(10**9))

    def step(self) -> int:
        """One step; tokens that came of it."""
        plan = self.scheduler.schedule()
        if plan is None:
            self.grammars.poll()
            self.scheduler.bind_waiting()
            time.sleep(0.001)
            return 0
        ticket = self.executor.launch(plan)
        ticket.sample(self.scheduler.masks(plan))
        return sum(len(delta.tokens) for _, delta in self.scheduler.commit(plan, ticket.result()))

    def start(self, rows: int, constraint: Constraint | None, temperature: float) -> None:
        """Rows in steady state: their prompts done, their first tokens out."""
        for row in range(rows):
            sampling = SamplingParams(max_tokens=2000, min_tokens=2000, temperature=temperature, ignore_eos=True)
            seq = next(self.ids)
            prompt = tuple(range(100 + row, 140 + row))
            request = GenerateRequest(id=str(seq), prompt=prompt, sampling=sampling, constraint=constraint)
            self.scheduler.submit("bench", Submit(request, (SeqStart(seq, seq),)))
        while len(self.scheduler.running.rows) < rows or self.scheduler.running.decoding < rows:
            self.step()
        for _ in range(8):
            self.step()
        self.scheduler.pending()

    def rate(self, steps: int) -> float:
        """Tokens that were sampled, per second; those that a grammar forced are not counted."""
        forced = self.scheduler.counters.forced
        began = time.perf_counter()
        tokens = sum(self.step() for _ in range(steps))
        return (tokens - self.scheduler.counters.forced + forced) / (time.perf_counter() - began)

    def stop(self) -> None:
        self.scheduler.drop_client("bench")


def rounds(engine: Engine, rows: int, steps: int, count: int, constraint: Constraint, heat: float) -> Iterator[float]:
    """The ratio of the rates with and without the grammar, one for each round."""
    for _ in range(count):
        pair = []
        for each in (None, constraint):
            engine.start(rows, each, heat)
            pair.append(engine.rate(steps))
            engine.stop()
        free, bound = pair
        yield bound / free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    engine = Engine(store.find(args.model), args.rows)
    for name, schema in SCHEMAS.items():
        constraint = Constraint(kind="json_schema", text=json.dumps(schema))
        for heat in (0.0, 0.8):
            ratios = list(rounds(engine, args.rows, args.steps, args.rounds, constraint, heat))
            spread = f"{min(ratios):.3f}–{max(ratios):.3f}"
            print(f"{name}, temperature {heat}: {statistics.median(ratios):.3f} of the unconstrained rate ({spread})")
    engine.grammars.close()


if __name__ == "__main__":
    main()
