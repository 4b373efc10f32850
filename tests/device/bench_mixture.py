"""Decoding with a mixture of experts, beside a dense model that has as many bytes as a token of the mixture goes through.

Random weights: about a billion parameters, 150 million of them for one token. A step of T tokens, each of a sequence of
its own, should take as long as the bytes of the distinct experts that they go through, not as T times one token's.

Run by hand: python -m tests.device.bench_mixture [--bits 4] [--threads 2] [--layers 16] [--rounds 40]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.kernels.contract import Array, Ops, Routing
from radixmill.device.layers import Build, ForwardBatch
from radixmill.device.models import Decoder, family
from radixmill.device.runner import PagedKV, Runner, build_batch
from radixmill.device.sampling import Sampler
from tests.device.model_kit import dummy
from tests.device.test_runner import plan

HIDDEN, INNER, EXPERTS, TOP, CONTEXT, PAGE = 1024, 192, 96, 8, 64, 64
COMMON = {
    "hidden_size": HIDDEN, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32_768,
    "tie_word_embeddings": True, "max_position_embeddings": 4096, "dtype": "bfloat16",
}  # fmt: skip
DENSE = COMMON | {"architectures": ["Qwen3ForCausalLM"], "intermediate_size": TOP * INNER}
MIXTURE = COMMON | {
    "architectures": ["Qwen3MoeForCausalLM"], "intermediate_size": TOP * INNER, "moe_intermediate_size": INNER,
    "num_experts": EXPERTS, "num_experts_per_tok": TOP, "norm_topk_prob": True,
}  # fmt: skip
BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Stand:
    """A model, and one token for each of up to 16 sequences that have CONTEXT tokens behind them."""

    ops: Ops
    build: Build
    model: Decoder
    runner: Runner

    @staticmethod
    def of(config: dict[str, Any], ops: Ops, bits: int) -> Stand:
        checkpoint = dummy(config)
        kind, build = family(config), Build(ops, checkpoint, 4096, bits)
        model = Decoder(build, kind, kind.config.from_hf(config), checkpoint.names)
        rows = max(BATCHES)
        kv = PagedKV.allocate(model, [2 * rows] * len(model.config.groups), PAGE)
        return Stand(ops, build, model, Runner(model, kv, Sampler(model.config.vocab, 1)))

    def step(self, rows: int, tokens: int = 1, done: int = CONTEXT) -> Any:
        ids = np.random.default_rng(1).integers(0, COMMON["vocab_size"], (rows, done + tokens)).tolist()
        which = [(row, done, ids[row][done:], True) for row in range(rows)]
        return build_batch(plan(which, [[2 * row, 2 * row + 1] for row in range(rows)]), np.zeros(rows, np.int64), PAGE)

    def run(self, batch: Any) -> Array:
        return self.runner.logits(batch.ids, batch.positions, batch.wanted, batch.ragged)

    def active(self) -> float:
        """Bytes that a step of one token reads; the embedding is the head."""
        return self.build.nbytes - self.build.idle_bytes

    def distinct(self, batch: Any) -> list[int]:
        """How many experts of each layer the step goes through."""
        route, seen = self.ops.route, []

        def noted(logits: Array, routing: Routing, bias: Array | None = None) -> Array:
            ways = route(logits, routing, bias)
            seen.append(len(np.unique(self.ops.numpy(ways)[:, : routing.top])))
            return ways

        self.ops.route = noted  # type: ignore[method-assign]
        try:
            self.model.forward(
                ForwardBatch(batch.ids, batch.positions, batch.wanted, batch.ragged, self.runner.kv.layers)
            )
        finally:
            self.ops.route = route  # type: ignore[method-assign]
        return seen


def in_turns(stands: Sequence[Stand], rows: int, rounds: int) -> list[float]:
    """Milliseconds of a step of each, medians. Of one thread: its own time, whoever else is on the machine."""
    clock = time.thread_time if stands[0].ops.threads == 1 else time.perf_counter
    batches, taken = [stand.step(rows) for stand in stands], [[] for _ in stands]  # type: ignore[var-annotated]
    for turn in range(rounds + 2):
        for stand, batch, times in zip(stands, batches, taken, strict=True):
            began = clock()
            stand.run(batch)
            if turn >= 2:
                times.append(clock() - began)
    return [statistics.median(times) * 1000 for times in taken]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("bits", 8), ("threads", 2), ("layers", 16), ("rounds", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--isa", default=native_isa())
    options = parser.parse_args()
    layers = {"num_hidden_layers": options.layers}
    # Each has a backend of its own, so that neither finds the other's rows in its buffers.
    dense, mixture = (
        Stand.of(config | layers, open_backend("cpu", "fast", options.threads, options.isa), options.bits)
        for config in (DENSE, MIXTURE)
    )
    for stand in (dense, mixture):
        stand.run(stand.step(max(BATCHES), CONTEXT, 0))
        print(f"{stand.build.values / 1e6:.0f} M values, {stand.active() / 1e6:.1f} MB for one token")
    expert = mixture.build.idle_bytes / options.layers / (EXPERTS - TOP)
    print("tokens  dense ms  mixture ms  ratio   experts a layer   MB read  of one token's  time of one token's")
    first = (0.0, 0.0)
    for rows in BATCHES:
        ms, mixed = in_turns((dense, mixture), rows, options.rounds)
        experts = mixture.distinct(mixture.step(rows))
        read = mixture.active() + (sum(experts) - TOP * options.layers) * expert
        first = first if rows > 1 else (read, mixed)
        print(
            f"{rows:6}  {ms:8.2f}  {mixed:10.2f}  {mixed / ms:5.2f}   {statistics.mean(experts):15.1f}  {read / 1e6:8.1f}"
            f"  {read / first[0]:14.2f}  {mixed / first[1]:19.2f}"
        )


if __name__ == "__main__":
    main()
