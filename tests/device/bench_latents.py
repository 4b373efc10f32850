"""Decode over latents against decode over the keys and values they stand for, one layer, one token, in turns.

    python -m tests.device.bench_latents [context] [rounds] [threads] [isa]

Latents: what makes queries of the token's projections and stores its latent, then attention. Expanded: the token's keys
and values are stored, then attention; the product that makes them is left out, as is the one that makes values of what
attention over latents gives, which is as large. Medians of milliseconds, and of each round's ratio; one thread's are of its
own time, whatever else the machine does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter, thread_time

import numpy as np

from radixmill.device.kernels import isas, open_backend
from radixmill.device.kernels.contract import Array, AttentionParams, KVShape, LatentHeads, Ops, Ragged
from tests.device.kernel_kit import normal, stored

PAGE = 64
NOPE, ROPE, VALUE, RANK = 128, 64, 128, 512
SHAPES = {"DeepSeek-V2-Lite, 16 heads": 16, "DeepSeek-V3, 128 heads": 128}
Step = Callable[[], object]


@dataclass(frozen=True)
class Cache:
    """One row's pages, all positions but the last filled."""

    ops: Ops
    context: int

    @property
    def ragged(self) -> Ragged:
        pages = -(-self.context // PAGE)
        ids = np.random.default_rng(0).permutation(pages).astype(np.int32)
        ends = np.array([0, 1], np.int32)
        return Ragged(ends, np.array([self.context - 1], np.int32), ids, np.array([0, pages], np.int32), PAGE)

    def filled(self, shape: KVShape) -> Array:
        kv = self.ops.kv_alloc(-(-self.context // PAGE), PAGE, shape)
        for array in (kv.keys, kv.values):
            for page in () if array is None else array:
                page[...] = normal(*page.shape)
        return kv


def latent_step(cache: Cache, heads: int) -> Step:
    ops, ragged, kv = cache.ops, cache.ragged, cache.filled(KVShape(1, RANK + ROPE, RANK, latent=True))
    up = ops.per_head([ops.pack(stored("F16", RANK, NOPE, seed=head)) for head in range(heads)])
    angles = normal(cache.context, ROPE // 2)
    shape = LatentHeads(heads, NOPE, ROPE, RANK, up, np.cos(angles), np.sin(angles), (normal(RANK), 1e-6))
    q, latent, params = normal(1, heads * (NOPE + ROPE)), normal(1, RANK + ROPE), AttentionParams((NOPE + ROPE) ** -0.5)
    return lambda: ops.attention(ops.latents(q, latent, shape, ragged.starts, kv, ragged), kv, ragged, params)


def expanded_step(cache: Cache, heads: int) -> Step:
    ops, ragged, kv = cache.ops, cache.ragged, cache.filled(KVShape(heads, NOPE + ROPE, VALUE))
    q, k, v = normal(1, heads, NOPE + ROPE), normal(1, heads, NOPE + ROPE), normal(1, heads, VALUE)

    def step() -> object:
        ops.kv_store(kv, k, v, ragged)
        return ops.attention(q, kv, ragged, AttentionParams((NOPE + ROPE) ** -0.5))

    return step


def measure(steps: list[Step], rounds: int, clock: Callable[[], float]) -> list[list[float]]:
    """Seconds of each step in each round, the first of which does not count."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds + 1):
        for step, mine in zip(steps, times, strict=True):
            begin = clock()
            step()
            mine.append(clock() - begin)
    return [mine[1:] for mine in times]


def main(context: str = "8192", rounds: str = "25", threads: str = "2", isa: str = "") -> None:
    cache = Cache(open_backend("cpu", "fast", int(threads), isa or isas()[0]), int(context))
    clock = thread_time if threads == "1" else perf_counter
    for name, heads in SHAPES.items():
        latent, expanded = measure([latent_step(cache, heads), expanded_step(cache, heads)], int(rounds), clock)
        ratio = median(e / x for x, e in zip(latent, expanded, strict=True))
        print(
            f"{name}, {context} positions, {cache.ops.isa}: "
            f"latents {median(latent) * 1e3:.2f} ms (best {min(latent) * 1e3:.2f}), "
            f"expanded {median(expanded) * 1e3:.2f} ms (best {min(expanded) * 1e3:.2f}), {ratio:.1f}×"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
