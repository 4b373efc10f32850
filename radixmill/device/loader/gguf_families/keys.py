"""The metadata of one architecture in a GGUF file, and which of its keys were read."""

from __future__ import annotations

from typing import Any

import numpy as np

from radixmill.core.errors import BadModel
from radixmill.store import GGUFFile

# Keys that say nothing about the forward pass, or only what the tensors' own shapes say.
_INERT = frozenset({"vocab_size", "tensor_data_layout", "rope.scaling.finetuned"})


class Metadata:
    """Reads keys without the architecture's prefix. Raises BadModel where one is missing or is not what it should be."""

    def __init__(self, file: GGUFFile) -> None:
        self.file, self.prefix, self._read = file, file.architecture + ".", set(_INERT)

    def raw(self, key: str, default: Any = None) -> Any:
        """As the file has it, an array of one value per layer included."""
        self._read.add(key)
        return self.file.metadata.get(self.prefix + key, default)

    def get(self, key: str) -> Any:
        """One value for all layers, or None."""
        value = self.raw(key)
        if isinstance(value, np.ndarray):  # one value per layer
            if len(set(value.tolist())) != 1:
                raise BadModel(f"{self.file.path}: {self.prefix}{key} differs between layers, which is not supported")
            return value.tolist()[0]
        return value

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(key, value, "a positive whole number" if least else "a whole number")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        value = default if value is None else value
        if (
            not isinstance(value, int | float) or isinstance(value, bool) or not 1e-37 < value < 1e38
        ):  # what float32 holds
            raise self._wrong(key, value, "a positive number")
        return shortest(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def inert(self, *keys: str) -> None:
        """Keys that change nothing in this architecture."""
        self._read.update(keys)

    def has(self, tensor: str) -> bool:
        return tensor in self.file.tensors

    def refuse(self, key: str) -> None:
        """Leave a key to be refused by name, though its value was looked at."""
        self._read.discard(key)

    def rest(self) -> dict[str, Any]:
        """Keys of the architecture that nobody read."""
        names = (name for name in self.file.metadata if name.startswith(self.prefix))
        return {name: self.file.metadata[name] for name in names if name.removeprefix(self.prefix) not in self._read}

    def _wrong(self, key: str, value: Any, wanted: str) -> BadModel:
        found = "is missing" if value is None else f"is {value!r:.60}, not {wanted}"
        return BadModel(f"{self.file.path}: metadata {self.prefix}{key} {found}")


def shortest(value: float) -> float:
    """The shortest decimal that is this value in float32: metadata are float32, config.json has decimals."""
    return float(str(np.float32(value)))
