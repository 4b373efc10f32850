"""What masks, penalties and bias cost in the sampler: `python -m tests.device.bench_masks [repeats]`.

Times of Sampler.sample for 16 rows, taken in turns so that a noisy machine is noisy for all; medians in milliseconds.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.core.plan import Admit, Masks
from radixmill.core.request import SamplingParams
from radixmill.device.kernels.cpu.ops import CpuOps, isas
from radixmill.device.sampling import Sampler

ROWS, PROMPT = 16, 900
RULES: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0.0}, "0.8/0.95": {"temperature": 0.8, "top_p": 0.95}}
# Name → share of tokens allowed (None: no mask), further parameters. Penalties look at a prompt of 900 tokens.
CASES: dict[str, tuple[float | None, dict[str, Any]]] = {
    "plain": (None, {}),
    "mask of 3 tokens": (0.0, {}),
    "mask 1 %": (0.01, {}),
    "mask 3 %": (0.03, {}),
    "mask 6 %": (0.06, {}),
    "mask 11 %": (0.11, {}),
    "mask 50 %": (0.5, {}),
    "mask 97 %": (0.97, {}),
    "mask 100 %": (1.0, {}),
    "repetition": (None, {"repetition_penalty": 1.1}),
    "all penalties": (None, {"repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.2}),
    "bias": (None, {"logit_bias": ((5, 2.0), (900, -100.0))}),
    "repetition, mask 97 %": (0.97, {"repetition_penalty": 1.1}),
}


def mask(vocab: int, share: float, seed: int) -> NDArray[np.uint32]:
    allowed = np.random.default_rng(seed).random(-(-vocab // 32) * 32) < share
    allowed[[3, 70, 1000]] = True
    return np.packbits(allowed, bitorder="little").view("<u4")


def sampler(vocab: int, ops: CpuOps, fields: dict[str, Any]) -> Sampler:
    made = Sampler(vocab, ROWS, ops.sampling)
    prompt = tuple(np.random.default_rng(1).integers(0, vocab, PROMPT).tolist())
    for slot in range(ROWS):
        made.admit(Admit(slot, SamplingParams(max_tokens=9, **fields), slot, prompt, (), frozenset()))
    return made


def measure(vocab: int, ops: CpuOps, repeats: int) -> dict[tuple[str, str], float]:
    """Median milliseconds by case and rule."""
    logits = (np.random.default_rng(2).standard_normal((ROWS, vocab)) * 3).astype(np.float32)
    slots, positions = np.arange(ROWS, dtype=np.int32), np.full(ROWS, PROMPT)
    runs = {
        (case, rule): (
            sampler(vocab, ops, more | extra),
            None if share is None else Masks({row: mask(vocab, share, row) for row in range(ROWS)}),
        )
        for case, (share, extra) in CASES.items()
        for rule, more in RULES.items()
    }
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for _ in range(repeats):
        for key, (made, masks) in runs.items():
            start = time.perf_counter()
            made.sample(logits, slots, positions, masks)
            seconds[key].append(time.perf_counter() - start)
    return {key: 1e3 * float(np.median(values)) for key, values in seconds.items()}


def main() -> None:
    ops = CpuOps("fast", 2, isas()[0])
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for vocab in (49_152, 152_064):
        times = measure(vocab, ops, repeats)
        print(f"{ROWS} rows, V = {vocab}, {ops.isa}, {ops.threads} threads: ms", *RULES, sep="\t")
        for case in CASES:
            print(f"  {case:24}", *(f"{times[case, rule]:.2f}" for rule in RULES), sep="\t")


if __name__ == "__main__":
    main()
