"""A forward pass, recorded: ops called on names instead of arrays become a native program that runs without Python.

Norms, gated activations and products are put off until it is known who reads them: the first two join the product that
does, and a product that is added to something adds it while it is at it. Bits do not change, the same loops run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Array, AttentionParams, Forward, Heads, LatentHeads, Ragged, Weight

ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "clamped": 3}
NEW = -1  # a product into a register of its own


@dataclass(frozen=True)
class Group:
    """Stands for a step's Ragged of one KV group."""

    number: int


class Source(NamedTuple):
    """What becomes of a register's rows: nothing, a norm, or a gated activation."""

    register: int
    kind: str = "plain"
    weight: Array | None = None
    eps: float = 0.0
    activation: int = 0


class Late(NamedTuple):
    """What is put off: a source, and the product that reads it if there is one."""

    source: Source
    product: tuple[Weight, Array | None] | None = None


@dataclass(eq=False)
class Value:
    """A register, or what would fill one."""

    width: int
    register: int | None = None
    late: Late | None = None
    dim: int = 0  # of each head, where these are heads

    def reshape(self, *_: int) -> Value:
        """Rows stay rows; a register knows the width alone."""
        return self


class Recorder:
    """The ops of a forward pass on Values, see contract.Ops. Makes one program."""

    def __init__(self, program: Any) -> None:
        """`program`: an empty _native.Program."""
        self.program = program
        self._waiting: WeakSet[Value] = WeakSet()

    def embed(self, ids: Any, weight: Weight, scale: float = 1.0) -> Value:
        ((matrix, order),) = weight.parts
        if order is not None:
            raise ValueError("an embedding whose columns lie in another order cannot be recorded")
        return Value(weight.shape[1], self.program.embed(matrix, scale))

    def linear(self, x: Value, weight: Weight, bias: Array | None = None) -> Value:
        joins = x.late is not None and x.late.product is None
        source = x.late.source if joins and x.late else Source(self._register(x))
        return self._put_off(weight.shape[0], Late(source, (weight, bias)))

    def rms_norm(self, x: Value, weight: Array, eps: float) -> Value:
        register = self._register(x)
        if len(weight) != x.width:  # of heads
            return Value(x.width, self.program.rms_norm(register, weight, eps))
        return self._put_off(x.width, Late(Source(register, "norm", weight, eps)))

    def gated(self, gate_up: Value, activation: str) -> Value:
        source = Source(self._register(gate_up), "gated", activation=ACTIVATIONS[activation])
        return self._put_off(gate_up.width // 2, Late(source))

    def layer_norm(self, x: Value, weight: Array, eps: float) -> Value:
        return Value(x.width, self.program.layer_norm(self._register(x), weight, len(weight), eps))

    def add(self, x: Value, y: Value) -> Value:
        """In place."""
        into = self._register(x)
        joins = y.late is not None and y.late.product is not None and _may_write(y.late, into)
        self._before_writing(into, y if joins else None)
        if joins and y.late:
            self._record(y.late, into)
            self._waiting.discard(y)
            y.late = None  # it is nowhere by itself: who asks for it later fails
        else:
            self.program.add(into, self._register(y))
        return x

    def dimmed(self, x: Value, gate: Value) -> Value:
        """In place."""
        into, by = self._register(x), self._register(gate)
        self._before_writing(into)
        self.program.dimmed(into, by)
        return x

    def scale(self, x: Value, by: float) -> Value:
        return Value(x.width, self.program.scale(self._register(x), by))

    def softcap(self, x: Value, cap: float) -> Value:
        return Value(x.width, self.program.softcap(self._register(x), cap))

    def route(self, logits: Value, routing: Any, top: int, bias: Array | None) -> Value:
        return Value(2 * top, self.program.route(self._register(logits), routing, bias))

    def experts(self, x: Value, routes: Value, mixture: Any) -> Value:
        return Value(mixture.width, self.program.experts(self._register(x), self._register(routes), mixture))

    def linear_heads(self, x: Value, heads: Any) -> Value:
        return Value(heads.width, self.program.heads(self._register(x), heads))

    def qkv(self, parts: tuple[Value, ...], heads: Heads, positions: Any, kv: Array, ragged: Group) -> Value:
        q_norm, k_norm, eps = heads.norms or (None, None, 0.0)
        registers = [self._register(part) for part in parts]
        turn = (heads.cos, heads.sin, heads.cos.shape[1])
        register = self.program.qkv(registers, kv, heads.heads, *turn, q_norm, k_norm, eps, ragged.number)
        return Value(heads.heads * heads.dim, register, dim=heads.dim)

    def rope(self, x: Value, positions: Any, cos: Array, sin: Array) -> Value:
        """In place, of heads."""
        into = self._register(x)
        self._before_writing(into)
        self.program.rope(into, x.width // x.dim, cos, sin, cos.shape[1])
        return x

    def latents(self, q: Value, latent: Value, heads: LatentHeads, positions: Any, kv: Array, ragged: Group) -> Value:
        norm, eps = heads.norm
        turn = (heads.cos, heads.sin, heads.cos.shape[1])
        registers = self._register(q), self._register(latent)
        return Value(
            heads.heads * (heads.rank + heads.rope),
            self.program.latents(*registers, kv, heads.up, *turn, norm, eps, ragged.number),
        )

    def attention(self, q: Value, kv: Array, ragged: Group, params: AttentionParams) -> Value:
        heads = q.width // kv.dim
        numbers = (params.scale, params.window or 0, params.softcap or 0.0, params.sinks)
        register = self.program.attention(self._register(q), kv, heads, ragged.number, *numbers)
        return Value(heads * kv.value_dim, register)

    def gather(self, x: Value, rows: Any) -> Value:
        return Value(x.width, self.program.gather(self._register(x)))

    def finish(self, out: Value) -> None:
        self.program.finish(self._register(out))

    def _before_writing(self, register: int, besides: Value | None = None) -> None:
        """Whoever was put off and reads it must read it now."""
        for value in list(self._waiting):
            if value.late and value.late.source.register == register and value is not besides:
                self._register(value)

    def _put_off(self, width: int, late: Late) -> Value:
        value = Value(width, late=late)
        self._waiting.add(value)
        return value

    def _register(self, value: Value) -> int:
        """Record what is put off."""
        if value.late is not None:
            value.register, value.late = self._record(value.late), None
            self._waiting.discard(value)
        assert value.register is not None
        return value.register

    def _record(self, late: Late, into: int = NEW) -> int:
        register, kind, weight, eps, activation = late.source
        if late.product is not None:
            product, bias = late.product
            matrices, orders = zip(*product.parts, strict=True)
            args = (register, matrices, orders, bias, kind, weight, eps, activation, into)
            return int(self.program.product(*args))
        if kind == "norm":
            return int(self.program.rms_norm(register, weight, eps))
        return int(self.program.gated(register, activation))


class Captured:
    """contract.Forward by a finished program."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self._out = np.empty((0, program.width), np.float32)

    def __call__(
        self,
        ids: NDArray[np.int64],
        positions: NDArray[np.int32],
        wanted: NDArray[np.int32],
        ragged: tuple[Ragged, ...],
    ) -> Array:
        """[S, N]; overwritten by the next call."""
        if len(self._out) < len(wanted):
            self._out = np.empty((len(wanted), self.program.width), np.float32)
        out = self._out[: len(wanted)]
        arrays = [(group.query_starts, group.starts, group.page_ids, group.page_starts) for group in ragged]
        self.program.run(ids, positions, wanted, arrays, out)
        return out


def capture(program: Any, recorder: Recorder, forward: Forward, groups: int) -> Captured:
    """Call `forward` on names, while its ops go to `recorder`."""
    names: Any = (None, None, None, tuple(Group(i) for i in range(groups)))
    recorder.finish(forward(*names))
    return Captured(program)


def _may_write(late: Late, into: int) -> bool:
    """Whether a product may add to `into` while it reads its source: rows that pass through something are copied first,
    once, unless its matrices want several orders of columns."""
    assert late.product is not None
    orders = {id(order) for _, order in late.product[0].parts}
    return late.source.register != into or (late.source.kind != "plain" and len(orders) == 1)
