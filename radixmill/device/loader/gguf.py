"""A GGUF file, its tensors under their Hugging Face names and in Hugging Face's order of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Stored
from radixmill.device.loader.checkpoint import Lying, check_shape, missing
from radixmill.device.loader.fingerprint import fingerprint
from radixmill.device.loader.gguf_config import gguf_config, gguf_family
from radixmill.device.loader.gguf_places import half_order, places
from radixmill.device.quant import widen
from radixmill.store import GGUFFile, ModelFiles, eos_ids

__all__ = ["GGUFCheckpoint", "gguf_config"]

_HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


class GGUFCheckpoint:
    """See Checkpoint. Matrices stay packed as they are in the file."""

    def __init__(self, files: ModelFiles) -> None:
        self.path = files.root
        self._file = GGUFFile(files.root)
        family = gguf_family(self._file)
        self.config = gguf_config(self._file)
        self.norms_include_one = family.norms_include_one
        self._places = places(self._file, family.names, self.config)
        self.names = frozenset(self._places)
        self._interleaved = _HEADS if family.interleaved else {}
        self.eos_ids = eos_ids(files, self._file)
        self.fingerprint = files.sha256 or fingerprint(self._file.heads())

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        kind, found, data = self._read(name)
        check_shape(self.path, name, found, shape, 2)
        return Stored(kind, (found[0], found[1]), self._halves(name, data))

    def vector(self, name: str, size: int | None = None) -> NDArray[np.float32]:
        kind, found, data = self._read(name)
        if len(found) == 2 and found[0] == 1:  # some files have a matrix of one row
            found = found[1:]
        check_shape(self.path, name, found, None if size is None else (size,), 1)
        values = widen(Stored(kind, (1, found[0]), data.reshape(1, -1))).data.reshape(-1)
        return self._halves(name, values)

    def lying(self) -> Iterable[Lying]:
        for name, place in self._places.items():
            info = self._file.tensors[place.tensor]
            yield Lying(name, info.kind, place.shape(info.shape), place.share(info.shape, info.nbytes))

    def close(self) -> None:
        self._file.close()

    def _read(self, name: str) -> tuple[str, tuple[int, ...], NDArray[Any]]:
        if name not in self._places:
            raise missing(self.path, name)
        place = self._places[name]
        info, data = self._file.tensors[place.tensor], place.read(self._file.data(place.tensor))
        if info.kind == "F64":
            return "F32", place.shape(info.shape), data.astype(np.float32)
        if info.kind.startswith("I") and info.kind[1:].isdecimal():
            raise BadModel(f"{self.path}: tensor {name} holds integers ({info.kind}), not weights")
        return info.kind, place.shape(info.shape), data

    def _halves(self, name: str, data: NDArray[Any]) -> NDArray[Any]:
        """Undo llama.cpp's order of rows in the architectures where its converters change it.

        There, rows 2i and 2i + 1 of a head turn together; here, rows i and i + D/2 do. Whole rows move, so packed blocks
        stay as they are.
        """
        stem = name.split(".")[-2] if name.count(".") else ""
        if stem not in self._interleaved:
            return data
        heads, rows = self.config[self._interleaved[stem]], len(data)
        if rows % (2 * heads):
            raise BadModel(f"{self.path}: tensor {name} has {rows} rows, which {heads} heads do not share evenly")
        return data[half_order(rows, heads)]
