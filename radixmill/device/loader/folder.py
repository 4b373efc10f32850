"""A folder in Hugging Face layout: config.json and safetensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Stored
from radixmill.device.loader import experts
from radixmill.device.loader.checkpoint import Lying, check_shape, missing
from radixmill.device.loader.fingerprint import fingerprint
from radixmill.device.loader.fp8 import KIND as FP8
from radixmill.device.loader.fp8 import NAN_E8M0, fp8_scheme, scale_of, without_scales
from radixmill.device.loader.fp8 import matrix as fp8_matrix
from radixmill.device.loader.grouped import Scheme, layer_names, scheme
from radixmill.device.quant import as_blocks, widen
from radixmill.store import ModelFiles, eos_ids
from radixmill.store.safetensors import SafetensorsFolder
from radixmill.store.side import read_json

_FLOATS = ("F32", "F16", "BF16")


class FolderCheckpoint:
    """Safetensors as they are, layers of AWQ and GPTQ as blocks, experts one by one. See Checkpoint."""

    norms_include_one = False

    def __init__(self, files: ModelFiles) -> None:
        self.root = files.root
        self.config = folder_config(files.root)
        self._tensors = SafetensorsFolder(files.root)
        self._layers = layer_names(
            without_scales({name: self._tensors.info(name).dtype for name in self._tensors.where})
        )
        self._spelt = experts.presented_names(self._layers)  # presented → as the files have it
        self._cuts = experts.cuts(self._tensors, self._spelt)
        self.names = frozenset(self._spelt) - experts.stacked_tensors(self._spelt) | self._cuts.keys()
        self._fp8 = fp8_scheme(self.root, self.config)
        self._scheme = self._take_scheme()
        self.eos_ids = eos_ids(files)
        weights = files.sha256 or fingerprint((f.path, f.head()) for f in self._tensors.files)
        how = self._scheme or self._fp8
        self.fingerprint = f"{weights}-{how}" if how else weights

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        if name in self._cuts:
            one = experts.matrix(self._tensors, self._cuts[name])
            check_shape(self.root, name, one.shape, shape, 2)
            return one
        name = self._spelt.get(name, name)
        if name in self._layers and not self.has(name):
            return self._blocks(name, shape)
        if self.has(name) and self._tensors.info(name).dtype == FP8:
            return self._scaled(name, shape)
        kind, data = self._read(name)
        check_shape(self.root, name, data.shape, shape, 2)
        return Stored(kind, (data.shape[0], data.shape[1]), data)

    def vector(self, name: str, size: int | None = None) -> NDArray[np.float32]:
        if name in self._cuts:
            kind, data = experts.bias(self._tensors, self._cuts[name])
        else:
            kind, data = self._read(self._spelt.get(name, name))
        if data.ndim == 2 and len(data) == 1:  # some files have a matrix of one row
            data = data[0]
        check_shape(self.root, name, data.shape, None if size is None else (size,), 1)
        return widen(Stored(kind, (1, len(data)), data.reshape(1, -1))).data.reshape(-1)

    def lying(self) -> Iterable[Lying]:
        for name in self._tensors.where:
            info = self._tensors.info(name)
            yield Lying(name, info.dtype, info.shape, info.nbytes)

    def close(self) -> None:
        self._tensors.close()

    def has(self, name: str) -> bool:
        """Whether the files themselves have this tensor."""
        return name in self._tensors.where

    def integers(self, name: str) -> NDArray[np.int32]:
        """A tensor of 32-bit words."""
        if (kind := self._tensors.info(name).dtype) != "I32":
            raise BadModel(f"{self.root}: tensor {name} is of type {kind}, not I32")
        words: NDArray[np.int32] = self._tensors.data(name)
        return words

    def floats(self, name: str) -> NDArray[Any]:
        """A tensor of floats, as float16 or float32, whichever holds it."""
        kind, data = self._read(name)
        return (data.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else data

    def _take_scheme(self) -> Scheme | None:
        """Of the layers that are packed; the model's configuration goes on without it."""
        packed = sorted(self._layers - self._tensors.where.keys())
        if experts.of_mxfp4(self.config) or self._fp8:
            del self.config["quantization_config"]  # the tensors themselves say which are packed
            return None
        found = scheme(self.root, self.config, bool(packed))
        if found is None and packed:
            raise BadModel(f"{self.root}: {packed[0]} is quantised, but config.json has no quantization_config")
        if found:
            self.config.pop("quantization_config", None)
        return found

    def _blocks(self, name: str, shape: tuple[int, int] | None) -> Stored:
        assert self._scheme
        layer = self._scheme.layer(self, name.removesuffix(".weight"))
        check_shape(self.root, name, layer.codes.shape, shape, 2)
        return as_blocks(layer)

    def _scaled(self, name: str, shape: tuple[int, int] | None) -> Stored:
        """A matrix of 8-bit floats."""
        if (scale := scale_of(name, self.has)) is None or self._fp8 is None:
            lacks = "no scales beside it" if scale is None else "no quantization_config in config.json that says how"
            raise BadModel(f"{self.root}: tensor {name} is of type {FP8}, with {lacks}")
        codes = self._tensors.data(name)
        check_shape(self.root, name, codes.shape, shape, 2)
        return fp8_matrix(self.root, name, codes, self._scales(scale), self._fp8)

    def _scales(self, name: str) -> NDArray[Any]:
        """Scales of 8-bit floats, which may be powers of two, stored as exponents (255: not a number)."""
        if self._tensors.info(name).dtype == "F8_E8M0":
            powers = self._tensors.data(name)
            none = powers == NAN_E8M0
            values = np.ldexp(np.float32(1), np.where(none, 0, powers.astype(np.int32) - 127))
            return np.where(none, np.float32(np.nan), values)
        return self.floats(name)

    def _read(self, name: str) -> tuple[str, NDArray[Any]]:
        if not self.has(name):
            raise missing(self.root, name)
        kind, data = self._tensors.info(name).dtype, self._tensors.data(name)
        if kind == "F64":
            return "F32", data.astype(np.float32)
        if kind not in _FLOATS:
            raise BadModel(f"{self.root}: tensor {name} is of type {kind}; weights of {', '.join(_FLOATS)} are read")
        # The format promises no alignment, and kernels want whole words.
        return kind, data if data.flags.aligned else data.copy()


def folder_config(folder: Path) -> dict[str, Any]:
    """config.json, or BadModel."""
    if not (config := read_json(folder / "config.json")):
        raise BadModel(f"{folder} has no config.json", "Give a model folder in Hugging Face layout, or a .gguf file")
    return config
