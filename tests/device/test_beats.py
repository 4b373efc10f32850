"""The word that shows others how a forward pass gets on: it moves within one step, and within one long op, on every
backend, recorded or not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config, Hardware, ModelOptions, ScheduleOptions
from radixmill.core.plan import StepPlan
from radixmill.device.executor import LocalExecutor, open_executor
from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.kernels.contract import AttentionParams, Experts, Ops
from radixmill.device.runner import Runner
from radixmill.observe.pulse import EnginePulse
from radixmill.observe.watch import Watch
from radixmill.store import ModelFiles
from tests.device.kernel_kit import PRESENT, Rows, backend, normal, stored
from tests.device.test_runner import TINY, admit, plan

LAYERS = 12
BACKENDS = ["reference", *(["cpu"] if native_isa() else [])]


def opened(folder: Path, backend: str, beats: memoryview | None, hidden: int = 16) -> LocalExecutor:
    numbers = {"num_hidden_layers": LAYERS, "hidden_size": hidden, "intermediate_size": 2 * hidden}
    (folder / "config.json").write_text(json.dumps(TINY | numbers | {"max_position_embeddings": 4096}))
    config = Config(
        model=ModelOptions(load_format="dummy"),
        compute=ComputeOptions(compute="exact", backend=backend, threads=1),  # type: ignore[arg-type]
        cache=CacheOptions(page_size=16, max_total_tokens=4096),
        schedule=ScheduleOptions(max_running_requests=4),
    )
    return open_executor(config, ModelFiles("tiny", folder), Hardware(2, 1 << 30, native_isa()), beats=beats)


def prefill(tokens: int) -> StepPlan:
    prompt = [i % 40 for i in range(tokens)]
    return plan([(0, 0, prompt, True)], [list(range(-(-tokens // 16)))], admits=(admit(0, prompt),))


@pytest.fixture
def pulse() -> EnginePulse:
    return EnginePulse.private()


def seen_while(pulse: EnginePulse, work: Callable[[], Any], few: int) -> set[int]:
    """The counts that one sees who looks all the time while the work is done. Once more if they are few: whoever looks may
    have been kept from it."""
    for _ in range(5):
        seen, begun, done = set[int](), threading.Event(), threading.Event()

        def look(seen: set[int] = seen, begun: threading.Event = begun, done: threading.Event = done) -> None:
            begun.set()
            while not done.is_set():
                seen.add(pulse.beats)

        watcher = threading.Thread(target=look)
        watcher.start()
        begun.wait()
        try:
            work()
        finally:
            done.set()
            watcher.join()
        if len(seen) > few:
            break
    return seen


@pytest.mark.parametrize("captured", [True, False], ids=["recorded", "op by op"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_layer_is_counted(tmp_path: Path, pulse: EnginePulse, backend: str, captured: bool) -> None:
    executor = opened(tmp_path, backend, pulse.word)
    assert pulse.beats >= 4 * LAYERS  # each matrix that was packed
    runner = Runner(executor.runner.model, executor.runner.kv, executor.runner.sampler, captured=captured)
    before = pulse.beats
    counted = runner.forward(prefill(5)).copy()
    assert pulse.beats - before >= LAYERS
    unwatched = opened(tmp_path, backend, None)
    assert np.array_equal(unwatched.runner.forward(prefill(5)), counted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_longer_than_the_patience_is_no_stall(tmp_path: Path, pulse: EnginePulse, backend: str) -> None:
    """Looked at from outside while one step runs, a hundred times as impatient as the step is long; without the beats of
    its layers it would be called a stall."""
    executor = opened(tmp_path, backend, pulse.word, hidden=128 if backend == "cpu" else 32)
    step = prefill(3000 if backend == "cpu" else 500)
    seen = seen_while(pulse, lambda: executor.launch(step), int(LAYERS / 2) + 2)
    assert len(seen) > LAYERS / 2 + 2  # it moved while the step ran, not only at its ends

    watch, blind = Watch(LAYERS / 2), Watch(LAYERS / 2)  # of a step whose layers take a second each
    for second, beats in enumerate(sorted(seen)):
        assert not watch.look(beats, True, float(second))
    looks = [blind.look(0, True, second / 4) for second in range(4 * len(seen))]
    assert looks[-1]


LONG_OPS = ["product", "product of codes", "attention", "attention of one query", "experts", "heads"]


def long_op(ops: Ops, which: str) -> Callable[[], Any]:
    """A single op that takes seconds on a slow machine, were the sizes those of a big model."""
    large = ops.name == "cpu"
    if which.startswith("attention"):
        length = (1 << 15 if large else 1 << 9) if "one" in which else (1 << 10 if large else 1 << 7)
        first = length - 1 if "one" in which else 0
        rows, params = Rows.make([length], 16, 8, 1, 64), AttentionParams(64**-0.5)
        kv, ragged, q = rows.fresh(ops), rows.batch([(0, first, length)]), rows.q[0][first:]
        return lambda: ops.attention(q, kv, ragged, params)
    if which == "experts":
        up, down = (tuple(ops.pack(stored("Q8_0", n, 256, seed)) for seed in range(3)) for n in (512, 256))
        mixture = ops.mixture(Experts(up, down, "silu"))
        routes = np.tile(np.float32([0, 2, 0.5, 0.5]), (512, 1))
        return lambda: ops.experts(normal(512, 256), routes, mixture)
    if which == "heads":
        heads = ops.per_head([ops.pack(stored("Q8_0", 256, 128, seed)) for seed in range(4)])
        return lambda: ops.linear_heads(normal(512, 4, 128), heads)
    x, matrix = normal(1024, 512), ops.pack(stored("Q8_0" if "codes" in which else "F32", 512, 512))
    return lambda: ops.linear(x, matrix)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("which", LONG_OPS)
@pytest.mark.parametrize("name", PRESENT)
def test_an_op_longer_than_the_patience_is_no_stall(pulse: EnginePulse, name: str, which: str, threads: int) -> None:
    """It is counted many times on its way; by those counts, of an op that takes ten times as long as the patience."""
    ops = backend(name, "fast", threads, "f32")
    compute = long_op(ops, which)
    quiet = np.array(compute())
    ops.beats = np.frombuffer(pulse.word, np.uint64)
    before = pulse.beats
    assert np.array_equal(compute(), quiet, equal_nan=True)
    counted = pulse.beats - before
    watch = Watch(5.0)
    looks = np.arange(0, 10 * watch.patience, watch.interval)
    assert not any(watch.look(int(counted * at / looks[-1]), True, at) for at in looks), counted
    ops.beats = None
    before = pulse.beats
    compute()
    assert pulse.beats == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_op_is_counted_while_it_runs(pulse: EnginePulse, backend: str) -> None:
    """Seen from outside, not only once it is over."""
    ops = open_backend(backend, "exact", 1, native_isa() if backend == "cpu" else "")
    weight, x = ops.pack(stored("F32", 2048, 1024)), normal(2048 if backend == "cpu" else 512, 1024)
    ops.beats = np.frombuffer(pulse.word, np.uint64)
    assert len(seen_while(pulse, lambda: ops.linear(x, weight), 8)) > 8


class Slow:
    """A backend's ops, each of which takes so long: a step of a big model on a slow machine. `times`: gets when each was."""

    def __init__(self, ops: Any, seconds: float, times: list[float]) -> None:
        self._ops, self._seconds, self._times = ops, seconds, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def attention(self, *args: Any) -> Any:
        threading.Event().wait(self._seconds)
        self._times.append(time.monotonic())
        return self._ops.attention(*args)


def test_the_watch_lets_a_slow_step_run(tmp_path: Path, pulse: EnginePulse) -> None:
    """By the clock: a step of 12 layers at 0.1 s under a patience of 0.6 s."""
    executor = opened(tmp_path, "reference", pulse.word)
    model, times = executor.runner.model, list[float]()
    for block in model.blocks:
        block.attention.ops = Slow(model.ops, 0.1, times)  # type: ignore[attr-defined]
    runner = Runner(model, executor.runner.kv, executor.runner.sampler, captured=False)
    for _ in range(4):  # the machine may keep the step from its work, though not whoever looks
        watch, stalls, done = Watch(0.6), list[bool](), threading.Event()

        def look(watch: Watch = watch, stalls: list[bool] = stalls, done: threading.Event = done) -> None:
            while not done.wait(watch.interval):
                stalls.append(watch.look(pulse.beats, True, time.monotonic()))

        watcher = threading.Thread(target=look)
        times[:] = [time.monotonic()]
        watcher.start()
        try:
            took = runner.step(prefill(5)).seconds
        finally:
            done.set()
            watcher.join()
        times.append(time.monotonic())
        assert took > 2 * watch.patience
        kept = max(later - sooner for sooner, later in pairwise(times)) > watch.patience / 2
        if len(stalls) > 10 and not (kept and any(stalls)):  # what is called a stall though nothing kept it is wrong
            break
    assert len(stalls) > 10 and not any(stalls)
