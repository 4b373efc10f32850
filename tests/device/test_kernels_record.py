"""Recorded programs: any sequence of ops gives the bits that the ops give on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from radixmill.device.kernels import isas
from radixmill.device.kernels.contract import Array, Mode, Ops
from tests.device.kernel_kit import backend, normal, same_bits, stored

pytestmark = pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
K, V = 64, 50
Pass = Callable[[Ops, dict[str, Any], Any, Any], Array]


@pytest.fixture(params=[(f"cpu/{isa}", mode) for isa in isas() for mode in ("fast", "exact")], ids="/".join)
def ops(request: pytest.FixtureRequest) -> Ops:
    which, mode = request.param
    mode_: Mode = mode
    return backend(which, mode_)


def weights(ops: Ops, kind: str) -> dict[str, Any]:
    return {
        "table": ops.pack(stored("Q8_0", V, K)),
        "square": ops.pack(stored(kind, K, K, seed=1)),
        "wide": ops.pack(stored(kind, 2 * K, K, seed=2)),
        "mixed": ops.join([ops.pack(stored("F32", 24, K, seed=3)), ops.pack(stored("Q5_0", 40, K, seed=4))]),
        "norm": ops.array(normal(K, seed=5)),
        "heads": ops.array(normal(16, seed=6)),
        "bias": ops.array(normal(K, seed=7)),
    }


def block(ops: Ops, w: dict[str, Any], x: Array) -> Array:
    """As a layer does it: norm, product, add; norm, product, gated, product, add."""
    x = ops.add(x, ops.linear(ops.rms_norm(x, w["norm"], 1e-5), w["square"], w["bias"]))
    inner = ops.gated(ops.linear(ops.rms_norm(x, w["norm"], 1e-5), w["wide"]), "silu")
    return ops.add(x, ops.linear(inner, w["square"]))


def parallel(ops: Ops, w: dict[str, Any], x: Array) -> Array:
    """One norm that two products read, the second after x has changed."""
    normed = ops.rms_norm(x, w["norm"], 1e-5)
    x = ops.add(x, ops.linear(normed, w["square"]))
    return ops.add(x, ops.linear(normed, w["mixed"], w["bias"]))


def into_itself(ops: Ops, w: dict[str, Any], x: Array) -> Array:
    """x += x · W: what is read must not be written meanwhile."""
    return ops.add(x, ops.linear(x, w["square"]))


def product_kept(ops: Ops, w: dict[str, Any], x: Array) -> Array:
    """A product of the old x, added after x has changed."""
    late = ops.linear(x, w["square"])
    x = ops.add(x, ops.linear(ops.rms_norm(x, w["norm"], 1e-5), w["mixed"]))
    return ops.add(x, late)


def alone(ops: Ops, w: dict[str, Any], x: Array) -> Array:
    """Every op by itself: a norm of heads, a norm that is added, scaled and capped."""
    x = ops.rms_norm(x.reshape(-1, 4, 16), w["heads"], 1e-6).reshape(-1, K)
    x = ops.add(ops.scale(x, 0.7), ops.rms_norm(x, w["norm"], 1e-5))
    return ops.softcap(ops.add(x, ops.gated(ops.linear(x, w["wide"]), "gelu")), 5.0)


PASSES = (block, parallel, into_itself, product_kept, alone)


@pytest.mark.parametrize("kind", ("Q4_1", "Q8_0", "BF16"))
@pytest.mark.parametrize("layer", PASSES, ids=lambda f: f.__name__)
def test_a_program_is_its_ops(ops: Ops, layer: Any, kind: str) -> None:
    w = weights(ops, kind)

    def forward(ids: Any, positions: Any, wanted: Any, ragged: Any) -> Array:
        x = ops.embed(ids, w["table"], 1.5)
        for _ in range(3):
            x = layer(ops, w, x)
        return ops.linear(ops.rms_norm(ops.gather(x, wanted), w["norm"], 1e-5), w["table"])

    program = ops.capture(forward, 0)
    for tokens, wanted in ((1, [0]), (7, [6]), (33, [0, 5, 32]), (5, []), (200, list(range(200)))):
        ids = np.random.default_rng(tokens).integers(0, V, tokens)
        args = ids, np.arange(tokens, dtype=np.int32), np.array(wanted, np.int32), ()
        assert same_bits(program(*args), forward(*args)), tokens


def test_registers_that_do_not_fit_are_refused(ops: Ops) -> None:
    w = weights(ops, "Q8_0")
    wide = ops.pack(stored("F32", 2 * K, 2 * K))

    def embedded(then: Any) -> Any:
        return lambda ids, *_: then(ops.embed(ids, w["table"]))

    for then in (
        lambda x: ops.linear(x, wide),
        lambda x: ops.add(x, ops.linear(x, w["wide"])),
        lambda x: ops.linear(ops.gated(x, "silu"), w["square"]),
        lambda x: ops.rms_norm(x, ops.array(normal(K + 1)), 1e-5),
    ):
        with pytest.raises(ValueError, match="width"):
            ops.capture(embedded(lambda x, then=then: ops.gather(then(x), None)), 0)


def test_a_product_that_was_added_is_not_there_to_be_read_again(ops: Ops) -> None:
    w = weights(ops, "Q8_0")

    def forward(ids: Any, *_: Any) -> Array:
        x = ops.embed(ids, w["table"])
        y = ops.linear(ops.rms_norm(x, w["norm"], 1e-5), w["square"])
        ops.add(x, y)
        return ops.gather(ops.softcap(y, 3.0), None)

    with pytest.raises(AssertionError):
        ops.capture(forward, 0)


def test_arrays_that_do_not_fit_are_refused(ops: Ops) -> None:
    table = ops.pack(stored("Q8_0", V, K))
    program = ops.capture(
        lambda ids, positions, wanted, ragged: ops.linear(ops.gather(ops.embed(ids, table), wanted), table), 0
    )
    ids, positions, wanted = np.zeros(3, np.int64), np.zeros(3, np.int32), np.zeros(1, np.int32)
    for bad in ((ids, positions[:2], wanted), (ids, positions, wanted + 3), (ids + V, positions, wanted)):
        with pytest.raises((ValueError, IndexError)):
            program(*bad, ())
    assert program(ids, positions, wanted, ()).shape == (1, V)


def test_ops_run_at_once_again_after_a_pass_that_fails(ops: Ops) -> None:
    def broken(*_: Any) -> Array:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        ops.capture(broken, 0)
    assert ops.scale(normal(2, 3), 2.0).shape == (2, 3)
