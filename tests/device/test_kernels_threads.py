"""The compiled backend as a guest in its process: several at once, idle when idle, gone when dropped, optional."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from radixmill.device.kernels import open_backend
from radixmill.device.kernels.contract import Ops
from tests.device.kernel_kit import backend, normal, same_bits, stored


@pytest.fixture
def ops() -> Ops:
    return backend("cpu/portable", "fast", 3)


def test_backends_run_side_by_side_and_callers_take_turns(ops: Ops) -> None:
    other = backend("cpu/portable", "fast", 2)
    matrix, x = stored("Q4_1", 256, 128), normal(5, 128)
    weights = {o: o.pack(matrix) for o in (ops, other)}
    wanted = ops.linear(x, weights[ops])
    failures: list[Ops] = []

    def work(mine: Ops) -> None:
        failures.extend(mine for _ in range(200) if not same_bits(mine.linear(x, weights[mine]), wanted))

    threads = [threading.Thread(target=work, args=(o,)) for o in (ops, other, ops)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_idle_threads_sleep(ops: Ops) -> None:
    weight = ops.pack(stored("Q8_0", 512, 128))
    spent = []
    for _ in range(5):  # on a busy machine they may come late to their rest
        ops.linear(normal(8, 128), weight)  # each time: who rests only long after the work rests too late
        time.sleep(0.01)
        before = time.process_time()
        time.sleep(0.25)
        spent.append(time.process_time() - before)
        if spent[-1] < 0.05:
            break
    assert min(spent) < 0.05, spent
    ops.linear(normal(8, 128), weight)  # and wake again


def test_threads_end_with_their_backend() -> None:
    def threads() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    if not sys.platform.startswith("linux"):
        pytest.skip("finds threads through /proc")
    before = threads()
    many = backend("cpu/portable", "fast", 5)
    # By their ids: threads that others have joined may be there until the system puts them away.
    mine = threads() - before
    assert len(mine) == 4
    del many
    until = time.monotonic() + 20
    while mine & threads():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no backend"):
        open_backend("tpu", "fast", 1, "")
    with pytest.raises(ValueError):
        open_backend("cpu", "fast", 1, "avx99")


def test_without_the_compiled_module_the_reference_serves() -> None:
    code = """
import sys
sys.modules["radixmill.device.kernels.cpu._native"] = None
from radixmill.device.kernels import native_isa, open_backend
assert native_isa() == ""
assert open_backend("reference", "fast", 1, "numpy").name == "reference"
try:
    open_backend("cpu", "fast", 1, "avx2")
except ValueError as error:
    assert "not installed" in str(error)
else:
    raise SystemExit("opened what is not there")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_compiled_backend_needs_no_gguf() -> None:
    code = "import sys, radixmill.device.kernels; sys.exit('gguf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_results_outlive_the_next_call(ops: Ops) -> None:
    weight, x = ops.pack(stored("F32", 40, 16)), normal(3, 16)
    first = ops.linear(x, weight)
    kept = first.copy()
    ops.linear(normal(3, 16, seed=5), weight)
    assert np.array_equal(first, kept)
