"""What a layer is given at construction time: the backend, the tensors, and what only start-up knows.

Build owns everything that happens between a tensor of a checkpoint and a weight of a backend: asking for it by name and
shape, stacking several into one, widening what the backend can't keep packed. Layers say what they want; none reads a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Array, Ops, Stored, Weight
from radixmill.device.quant import likeness, stack, widen


class Tensors(Protocol):
    """The tensors of a checkpoint, by their Hugging Face names. Raises BadModel where a shape is not the one wanted."""

    norms_include_one: bool  # norm weights are stored as 1 + w where the family's formula is (1 + w) · x

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored: ...

    def vector(self, name: str, size: int | None = None) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Part:
    """The tensors of one layer: names without `.weight` and `.bias`, stacked by rows in this order."""

    stems: tuple[str, ...]
    bias: bool = False
    bare: bool = False  # stems are whole names: nothing is added

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, without biases."""
        return self.stems if self.bare else tuple(f"{stem}.weight" for stem in self.stems)


class Parts(Protocol):
    """Role in a block → its tensors."""

    def __call__(self, role: str) -> Part: ...

    def has(self, role: str) -> bool:
        """Whether this layer has the role."""


Order = NDArray[np.intp]
FLOATS = ("F32", "F16", "BF16")


class Build:
    """One model under construction."""

    def __init__(self, ops: Ops, tensors: Tensors, positions: int, bits: int | None = None) -> None:
        """`positions`: how many positions a sequence may have, for tables that are computed once.

        `bits`: 8 or 4, what matrices of floats are quantised to; the embedding and the head to 8. None: not at all.
        """
        self.ops, self.tensors, self.positions, self.bits = ops, tensors, positions, bits
        self.quantised_to: int | None = None  # `bits`, once that changed a matrix
        self.nbytes = self.values = 0  # of all packed weights
        self.idle_bytes = self.idle_values = 0.0  # of those that a step of one token leaves alone
        self._widened: Counter[str] = Counter()
        self._done: Counter[str] = Counter()  # notes of tensors
        self._notes: list[str] = []
        self._shared: dict[Any, Any] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was done to the weights, for the log."""
        widened = (
            f"{count} {kind} tensors widened to F32: {self.ops.name} has no packed format for them"
            for kind, count in sorted(self._widened.items())
        )
        done = (
            f"{count} {'matrix' if count == 1 else 'matrices'} {note}" for note, count in sorted(self._done.items())
        )
        return (*self._notes, *done, *widened)

    def note(self, sentence: str) -> None:
        self._notes.append(sentence)

    def weight(
        self,
        part: Part,
        rows: Sequence[int],
        columns: int,
        *,
        end: bool = False,
        order: Order | None = None,
        kept: bool = False,
    ) -> Weight:
        """One packed matrix [sum(rows), columns] from the part's stems, which must have `rows` rows each. `end`: it is
        the embedding or the head. `order`: row i of what is packed is row order[i] of the (only) tensor. `kept`: it stays
        as the file has it, whatever `bits` says.

        Neighbours of one kind and order of columns are stacked; others keep their own, joined into one product.
        """
        assert order is None or len(rows) == 1
        tensors = [
            _ordered(self.tensors.stored(name, (n, columns)), order) for name, n in zip(part.names, rows, strict=True)
        ]
        if not kept:
            tensors = [self._quantised(tensor, end) for tensor in tensors]
        self._done.update(tensor.note for tensor in tensors if tensor.note)
        runs = [self._pack(stack(list(run))) for _, run in groupby(tensors, key=likeness)]
        return runs[0] if len(runs) == 1 else self.ops.join(runs)

    def bias(self, part: Part, rows: Sequence[int], order: Order | None = None) -> Array | None:
        """The part's biases end to end, [sum(rows)], or None where the layer has none. `order`: as for `weight`."""
        if not part.bias:
            return None
        biases = [self.tensors.vector(f"{stem}.bias", n) for stem, n in zip(part.stems, rows, strict=True)]
        whole = np.concatenate(biases)
        return self.ops.array(whole if order is None else whole[order])

    def vector(self, part: Part, size: int) -> Array:
        """The part's only tensor, [size]."""
        return self.ops.array(self.tensors.vector(part.names[0], size))

    def matrix(self, part: Part, shape: tuple[int, int]) -> NDArray[np.float32]:
        """The part's only tensor as float32, for a layer that makes something else of it."""
        return widen(self.tensors.stored(part.names[0], shape)).data

    def stored(self, part: Part, shape: tuple[int, int]) -> Stored:
        """The part's only tensor as its file has it, for a layer that packs pieces of it."""
        tensor = self.tensors.stored(part.names[0], shape)
        self._done.update([tensor.note] if tensor.note else [])
        return tensor

    def pack(self, tensor: Stored) -> Weight:
        """A packed matrix of what a layer has made of `stored`, [N, K]."""
        return self._pack(self._quantised(tensor, end=False))

    @contextmanager
    def seldom(self, share: float) -> Iterator[None]:
        """Of what is packed meanwhile a step of one token reads that share alone."""
        nbytes, values = self.nbytes, self.values
        yield
        self.idle_bytes += (self.nbytes - nbytes) * (1 - share)
        self.idle_values += (self.values - values) * (1 - share)

    def adds_nothing(self, name: str) -> bool:
        """Whether a tensor is a bias of zeros: older GPTQ files have one for every layer."""
        return name.endswith(".bias") and not self.tensors.vector(name).any()

    def shared(self, key: Any, make: Any) -> Any:
        """What `make()` gives, made once per key: tables that many layers use."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def _quantised(self, tensor: Stored, end: bool) -> Stored:
        """In as many bits as were asked for, if it is of floats."""
        if self.bits is None:
            return tensor
        if tensor.kind not in FLOATS:
            self._done[f"of kind {tensor.kind} left as the file has them, quantised already"] += 1
            return tensor
        if tensor.shape[1] % 32:
            self._done["not quantised: their rows are no multiple of 32 values"] += 1
            return tensor
        bits, self.quantised_to = 8 if end else self.bits, self.bits
        self._done[f"quantised to {bits} bits at load"] += 1
        return self.ops.blocks(tensor, "Q8_0" if bits == 8 else "Q4_1")

    def _pack(self, tensor: Stored) -> Weight:
        if self.ops.packs(tensor.kind) is None:
            tensor = self._widen(tensor)
        weight = self.ops.pack(tensor)
        self.nbytes += weight.nbytes
        self.values += weight.shape[0] * weight.shape[1]
        return weight

    def _widen(self, tensor: Stored) -> Stored:
        if tensor.kind == "F32":
            return tensor
        self._widened[tensor.kind] += 1
        return widen(tensor)


def _ordered(tensor: Stored, order: Order | None) -> Stored:
    """Whole rows move, so packed blocks stay as they are."""
    return tensor if order is None else replace(tensor, data=tensor.data[order])
