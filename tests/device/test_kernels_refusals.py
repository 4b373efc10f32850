"""The compiled backend refuses what would leave its arrays, and lives on where memory ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from radixmill.device.kernels import isas
from radixmill.device.kernels.contract import AttentionParams, Heads, KVShape, Ragged
from tests.device.kernel_kit import Rows, normal, stored

pytestmark = pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
K = 32

STARVED = """
import resource
import numpy as np
from radixmill.device.kernels import open_backend
from radixmill.device.kernels.contract import AttentionParams, KVShape, Ragged

page = 1 << 16  # so long that what a thread needs beside it is 37 MB
row = np.array([0, 1, 2], np.int32)
ragged = Ragged(2 * row, np.array([5, 5], np.int32), row[:2], row, page)
q = np.random.default_rng(0).standard_normal((4, 8, 64), dtype=np.float32)

def backend():
    ops = open_backend("cpu", "fast", 2, "portable", "f16")
    return ops, ops.kv_alloc(2, page, KVShape(1, 64, 64))

(ops, kv), (other, other_kv) = backend(), backend()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (size + (4 << 20), hard))
failed = 0
for _ in range(3):
    try:
        ops.attention(q, kv, ragged, AttentionParams(1.0))
    except MemoryError:
        failed += 1
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert failed == 3
for _ in range(2):
    got, wanted = (o.attention(q, pages, ragged, AttentionParams(1.0)) for o, pages in ((ops, kv), (other, other_kv)))
    assert np.array_equal(got, wanted)
"""


@pytest.fixture
def ops() -> Any:
    from radixmill.device.kernels.cpu.ops import CpuOps

    return CpuOps("fast", 2, isas()[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_where_memory_ends_an_op_raises_and_the_next_one_is_right() -> None:
    """In a thread's task as in the caller's."""
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("starts", [[0, 2**30, 4], [0, -1, 4], [2, 1, 4], [0, 2, 5]])
def test_pages_of_a_row_that_are_not_there(ops: Any, starts: list[int]) -> None:
    kv = ops.kv_alloc(4, 16, KVShape(1, 16, 16))
    row = np.array([0, 1, 2], np.int32)
    ragged = Ragged(row, np.zeros(2, np.int32), np.zeros(4, np.int32), np.array([0, 2, 4], np.int32), 16)
    ops.attention(normal(2, 1, 16), kv, ragged, AttentionParams(1.0))
    with pytest.raises(ValueError, match="page_starts"):
        bad = replace(ragged, page_starts=np.array(starts, np.int32))
        ops.attention(normal(2, 1, 16), kv, bad, AttentionParams(1.0))


def test_matrices_that_are_none_or_of_another_width(ops: Any) -> None:
    (good, _), (wide, _) = (ops.pack(stored("F32", 8, k)).parts[0] for k in (K, 4096))
    x, y = normal(1, K), np.zeros((1, 16), np.float32)
    with pytest.raises(TypeError):
        ops._engine.linear(x, (good, None), (None, None), None, y)
    with pytest.raises(ValueError, match="sizes"):
        ops._engine.linear(x, (good, wide), (None, None), None, y)
    with pytest.raises(ValueError, match="matrices"):
        ops._engine.linear(x, (), (), None, y)


@pytest.mark.parametrize("latent", [False, True])
def test_no_query_heads(ops: Any, latent: bool) -> None:
    rows = replace(Rows.make([1], 16, 1, 1, 16), latent=latent)
    kv, ragged = rows.fresh(ops), rows.batch([(0, 0, 1)])
    with pytest.raises(ValueError, match="heads"):
        ops.attention(normal(1, 0, 16), kv, ragged, AttentionParams(1.0))
    if not latent:
        shape = Heads(0, 1, 16, normal(1, 8), normal(1, 8))
        with pytest.raises(ValueError, match="heads"):
            ops.qkv((normal(1, 32),), shape, np.zeros(1, np.int32), kv, ragged)


@pytest.mark.parametrize("shape", [KVShape(0, 16, 16), KVShape(1, 0, 16), KVShape(1, 16, 0)])
def test_pages_that_hold_nothing(ops: Any, shape: KVShape) -> None:
    with pytest.raises(ValueError, match="below one"):
        ops.kv_alloc(1, 16, shape)


def _recorded(ops: Any, then: Callable[[Any, Any], Any]) -> None:
    """Record a pass of what `then` makes of the program and a register of rows."""
    table = ops.pack(stored("F32", 8, K)).parts[0][0]

    def forward(*_: Any) -> Any:
        program = ops._calls.program
        return then(program, program.embed(table, 1.0))

    ops.capture(forward, 1)


def test_a_program_is_not_given_none(ops: Any) -> None:
    pages = ops.kv_alloc(1, 16, KVShape(1, K, K))
    tables = normal(4, 16)
    calls: list[Callable[[Any, int], Any]] = [
        lambda p, x: p.experts(x, x, None),
        lambda p, x: p.heads(x, None),
        lambda p, x: p.attention(x, None, 1, 0, 1.0, 0, 0.0, None),
        lambda p, x: p.product(x, (None,), (None,), None, "plain", None, 0.0, 0, -1),
        lambda p, x: p.latents(x, x, pages, None, tables, tables, 16, tables, 1e-6, 0),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            _recorded(ops, call)


def test_a_program_wants_heads(ops: Any) -> None:
    pages, tables = ops.kv_alloc(1, 16, KVShape(1, K, K)), normal(4, 16)
    calls: list[Callable[[Any, int], Any]] = [
        lambda p, x: p.attention(x, pages, 0, 0, 1.0, 0, 0.0, None),
        lambda p, x: p.rope(x, 0, tables, tables, 16),
        lambda p, x: p.qkv([x], pages, -1, tables, tables, 16, None, None, 1e-6, 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="program: "):
            _recorded(ops, call)


def test_heads_of_rows_that_were_gathered(ops: Any) -> None:
    """They are fewer than the tokens whose positions qkv would read."""
    table, kv = ops.pack(stored("F32", 8, 3 * 16)), ops.kv_alloc(1, 16, KVShape(1, 16, 16))
    shape = Heads(1, 1, 16, normal(4, 8), normal(4, 8))

    def forward(ids: Any, positions: Any, wanted: Any, ragged: Any) -> Any:
        q = ops.qkv((ops.gather(ops.embed(ids, table), wanted),), shape, positions, kv, ragged[0])
        return ops.gather(q.reshape(-1, 16), wanted)

    with pytest.raises(ValueError, match="q, k, v"):
        ops.capture(forward, 1)
