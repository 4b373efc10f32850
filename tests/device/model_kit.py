"""What the model tests share: a checkpoint made of arrays, and a driver that runs sequences in any cut and company."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from radixmill.core.plan import LAST_SAMPLED, Admit, Executor, PageTable, StepPlan
from radixmill.core.request import SamplingParams
from radixmill.device.kernels.contract import Forward, Ops, Stored
from radixmill.device.layers import Build
from radixmill.device.loader import DummyCheckpoint
from radixmill.device.loader.checkpoint import check_shape
from radixmill.device.models import Decoder, family, outline
from radixmill.device.runner import PagedKV, Runner, build_batch
from radixmill.device.sampling import Sampler

TEXT = """A river begins where water gathers faster than the ground can drink it. High in the hills a spring may feed a thin
stream, and many streams, each following the lowest path it can find, meet and widen into one. As the slope eases, the
river slows and drops what it carried: stones first, then gravel, sand, and at last the fine mud that makes valleys good
for farming. People have always settled near such places. They drank the water, caught the fish, and moved their goods by
boat long before there were roads. Mills stood on the banks because falling water could turn a wheel, and a wheel could
grind grain, saw wood, or hammer iron. Later the same idea, with turbines instead of wheels, lit whole cities. But a river
is not only a tool. It floods, and the flood that ruins a harvest also renews the soil. It wanders, cutting a new bed and
leaving the old one as a curved lake. Engineers build walls to hold it still, and then spend a century repairing them.
Those who study rivers say that the best plan is often to give the water room: to let it spread over meadows in a wet
spring, so that it does not spread through the streets downstream. In the end every river reaches the sea or a lake
without an outlet, or it simply dries up in the sand. The water itself goes on. It rises as vapour, drifts as cloud, and
falls again on the same hills where it began."""  # fmt: skip


@dataclass
class ArrayCheckpoint:
    """A loader's Checkpoint over a dictionary of float32 arrays."""

    config: dict[str, Any]
    arrays: Mapping[str, np.ndarray]
    norms_include_one: bool = False
    fingerprint: str = "arrays"
    eos_ids: tuple[int, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.arrays)

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        data = self.arrays[name]
        check_shape("arrays", name, data.shape, shape, 2)
        return Stored("F32", (data.shape[0], data.shape[1]), data)

    def vector(self, name: str, size: int | None = None) -> np.ndarray:
        check_shape("arrays", name, self.arrays[name].shape, None if size is None else (size,), 1)
        return self.arrays[name]

    def close(self) -> None: ...


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of every tensor of a model with this configuration."""
    kind = family(config)
    return outline(kind, kind.config.from_hf(config))


def dummy(config: Mapping[str, Any], seed: int = 0) -> DummyCheckpoint:
    return DummyCheckpoint(config, shapes(config), seed)


def build(checkpoint: Any, ops: Ops, positions: int = 64) -> Decoder:
    kind = family(checkpoint.config)
    config = kind.config.from_hf(checkpoint.config)
    return Decoder(Build(ops, checkpoint, positions), kind, config, checkpoint.names)


@dataclass
class Driver:
    """Runs token sequences through a model and collects the logits of every position."""

    model: Decoder
    page_size: int = 8
    pages: int = 64
    recorded: bool = False  # as a server runs it: captured; else one op after another
    kv: PagedKV = field(init=False)
    forward: Forward = field(init=False)

    def __post_init__(self) -> None:
        self.kv = PagedKV.allocate(self.model, [self.pages] * len(self.model.config.groups), self.page_size)
        runner = Runner(self.model, self.kv, Sampler(self.model.config.vocab, 1), captured=self.recorded)
        self.forward = runner.logits

    def run(self, sequences: Sequence[Sequence[int]], steps: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """`steps[i][r]`: how many tokens sequence r computes in step i (0: it sits out). Logits [n, V] of each sequence."""
        tables = self._tables(sequences)
        done, logits = [0] * len(sequences), [[] for _ in sequences]
        for counts in steps:
            live = [r for r, n in enumerate(counts) if n]
            plan = _plan(sequences, live, done, counts, tables, len(self.model.config.groups))
            batch = build_batch(plan, np.zeros(len(sequences), np.int64), self.page_size)
            wanted = np.arange(len(plan.tokens), dtype=np.int32)
            out = self.model.ops.numpy(self.forward(batch.ids, batch.positions, wanted, batch.ragged)).copy()
            at = 0
            for r in live:
                logits[r].append(out[at : at + counts[r]])
                at, done[r] = at + counts[r], done[r] + counts[r]
        assert done == [len(s) for s in sequences], "the steps don't cover the sequences"
        return [np.concatenate(parts) for parts in logits]

    def _tables(self, sequences: Sequence[Sequence[int]]) -> list[list[int]]:
        """Pages for each sequence, none shared, in a scattered order."""
        free = [(7 * i + 3) % self.pages for i in range(self.pages)]
        assert len(set(free)) == self.pages
        return [[free.pop() for _ in range(-(-len(s) // self.page_size))] for s in sequences]


def _plan(
    sequences: Any, live: list[int], done: list[int], counts: Sequence[int], tables: list[list[int]], groups: int
) -> StepPlan:
    ids = [tables[r] for r in live]
    return StepPlan(
        step=0,
        slots=np.array(live, np.int32),
        starts=np.array([done[r] for r in live], np.int32),
        counts=np.array([counts[r] for r in live], np.int32),
        tokens=np.concatenate([np.array(sequences[r][done[r] : done[r] + counts[r]], np.int64) for r in live]),
        samples=np.ones(len(live), np.bool_),
        pages=(page_table(ids),) * groups,
    )


def generate(
    executor: Executor, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, chunk: int = 1 << 20
) -> list[list[int]]:
    """All prompts together, each in its own slot, as the engine would: prompt chunks, then the device's own last tokens."""
    size = executor.spec.page_size
    longest = max(map(len, prompts)) + sampling.max_tokens
    per_row = -(-longest // size)
    outputs: list[list[int]] = [[] for _ in prompts]
    computed = [0] * len(prompts)
    admits = tuple(Admit(r, sampling, 1000 + r, tuple(p), (), frozenset()) for r, p in enumerate(prompts))
    step = 0
    while live := [r for r in range(len(prompts)) if len(outputs[r]) < sampling.max_tokens]:
        counts = [min(len(prompts[r]) + len(outputs[r]) - computed[r], chunk) for r in live]
        tokens = [t for r, n in zip(live, counts, strict=True) for t in _next(prompts[r], computed[r], n)]
        ends = [computed[r] + n for r, n in zip(live, counts, strict=True)]
        samples = [end >= len(prompts[r]) for r, end in zip(live, ends, strict=True)]
        ids = [range(r * per_row, r * per_row + -(-end // size)) for r, end in zip(live, ends, strict=True)]
        plan = StepPlan(
            step,
            np.array(live, np.int32),
            np.array([computed[r] for r in live], np.int32),
            np.array(counts, np.int32),
            np.array(tokens, np.int64),
            np.array(samples, np.bool_),
            (page_table(ids),) * len(executor.spec.kv_groups),
            admits=admits,
        )
        ticket = executor.launch(plan)
        ticket.sample(None)
        for r, n, drawn, token in zip(live, counts, samples, ticket.result().tokens.tolist(), strict=True):
            computed[r] += n
            outputs[r] += [token] * drawn
        step, admits = step + 1, ()
    return outputs


def perplexity(model: Decoder, ids: list[int]) -> float:
    (logits,) = Driver(model, page_size=64).run([ids], [[len(ids)]])
    wide = logits[:-1].astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    logprobs = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return float(np.exp(-logprobs[np.arange(len(ids) - 1), ids[1:]].mean()))


def _next(prompt: Sequence[int], at: int, count: int) -> list[int]:
    known = list(prompt[at : at + count])
    return known + [LAST_SAMPLED] * (count - len(known))


def page_table(ids: Sequence[Sequence[int]]) -> PageTable:
    """Each row's pages → the flat table."""
    flat = [page for row in ids for page in row]
    return PageTable(np.array(flat, np.int32), np.cumsum([0, *map(len, ids)], dtype=np.int32))
