"""Safetensors: one file, or several with an index. Knows where each tensor lies; knows nothing of what it means.

Format: https://huggingface.co/docs/safetensors — u64 length of the header (little-endian), a JSON object
{name: {"dtype", "shape", "data_offsets": [begin, end]}}, then the data, which the offsets count from. Files are mapped,
never read as a whole. Whatever bytes a file holds, opening it gives a SafetensorsFile or raises BadModel.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from radixmill.core.errors import BadModel
from radixmill.store.mapped import Lent, mapped, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

# dtype in the file → (bytes of a value, NumPy dtype that holds it). BF16 and the 8-bit floats are kept as their bits.
DTYPES: dict[str, tuple[int, str]] = {
    "F64": (8, "<f8"),
    "F32": (4, "<f4"),
    "F16": (2, "<f2"),
    "BF16": (2, "<u2"),
    "I64": (8, "<i8"),
    "I32": (4, "<i4"),
    "I16": (2, "<i2"),
    "I8": (1, "i1"),
    "U64": (8, "<u8"),
    "U32": (4, "<u4"),
    "U16": (2, "<u2"),
    "U8": (1, "u1"),
    "BOOL": (1, "?"),
    "F8_E4M3": (1, "u1"),
    "F8_E5M2": (1, "u1"),
    "F8_E8M0": (1, "u1"),
    "F8_E4M3FNUZ": (1, "u1"),
    "F8_E5M2FNUZ": (1, "u1"),
    "C64": (8, "<c8"),
}
_MAX_HEADER = 100_000_000  # the format's own limit
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class TensorAt:
    """One tensor of one file: `offset` from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class SafetensorsFile:
    """One mapped file. Raises BadModel where it is missing, damaged or cut short."""

    def __init__(self, path: str | Path, lent: Lent | None = None) -> None:
        """`lent`: of all files that are read together."""
        self.path = Path(path)
        self._map: mmap.mmap | None = mapped(self.path)
        self._lent = lent or Lent()
        self.size = len(self._map)
        header = self._header()
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.tensors = {name: self._info(name, entry) for name, entry in header.items()}
        self._check_layout()

    def data(self, name: str) -> NDArray[Any]:
        """A view of the mapped tensor in its shape; BF16 as uint16, 8-bit floats as uint8. Views keep the map alive; the
        memory of those before is given back."""
        import numpy as np  # only who reads weights pays for it

        info = self.tensors[name]
        assert self._map is not None, "the file has been closed"
        self._lent.lend(self._map, info.offset, info.nbytes)
        dtype = np.dtype(DTYPES[info.dtype][1])
        return np.frombuffer(self._map, dtype, prod(info.shape), info.offset).reshape(info.shape)

    def head(self) -> bytes:
        """All bytes before the tensors' data."""
        assert self._map is not None, "the file has been closed"
        return self._map[: self.data_start]

    def close(self) -> None:
        """Let go of the map; views that are still alive keep it."""
        self._lent.end()
        self._map = None

    def _header(self) -> dict[str, Any]:
        assert self._map is not None
        length = int.from_bytes(self._map[:8], "little")
        self.data_start = 8 + length
        if self.size < 8 or self.data_start > self.size:
            self._cut(f"its header should be {length} bytes long" if self.size >= 8 else "it has no header")
        if length > _MAX_HEADER:
            self._fail(f"a header of {length} bytes is more than the format allows")
        try:
            header = json.loads(self._map[8 : self.data_start])
        except (ValueError, RecursionError) as error:
            self._fail(f"its header is not JSON ({str(error)[:80]})")
        if not isinstance(header, dict):
            self._fail("its header is not a JSON object")
        return header

    def _info(self, name: str, entry: Any) -> TensorAt:
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            numbers = (*shape, begin, end)
        except (TypeError, KeyError, ValueError):
            self._fail(f"tensor {shown(name)} has no dtype, shape and data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            self._fail(f"tensor {shown(name)} has a dtype that is not known here ({dtype!r:.40})")
        if any(type(n) is not int or not 0 <= n < 1 << 62 for n in numbers) or len(shape) > 16:
            self._fail(f"tensor {shown(name)} has an impossible shape or place ({numbers!r:.80})")
        if (nbytes := prod(shape) * DTYPES[dtype][0]) != end - begin:
            self._fail(
                f"tensor {shown(name)} is {dtype} of shape {list(shape)!s:.80}, {nbytes} bytes, but its place has {end - begin}"
            )
        if self.data_start + end > self.size:
            self._cut(f"tensor {shown(name)} should end at byte {self.data_start + end}")
        return TensorAt(name, dtype, shape, self.data_start + begin, nbytes)

    def _check_layout(self) -> None:
        last, floor = "", self.data_start
        for info in sorted(self.tensors.values(), key=lambda t: (t.offset, t.nbytes)):
            if info.offset < floor:
                self._fail(f"tensors {shown(last)} and {shown(info.name)} overlap")
            last, floor = info.name, info.offset + info.nbytes

    def _cut(self, why: str) -> NoReturn:
        raise BadModel(
            f"{self.path} is damaged or cut short: {why}, the file has {self.size}", "Copy or download it again"
        )

    def _fail(self, why: str) -> NoReturn:
        raise BadModel(f"{self.path}: {why}")


class SafetensorsFolder:
    """All safetensors of a model folder, as one set of tensors: `model.safetensors`, or what its index names.

    Asking for a tensor gives back the memory of those before, in whichever file. `files` in the order of their names,
    `where`: tensor → its file. Raises BadModel for a missing part, a tensor that its
    file does not have, or one that stands in two files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        lent = Lent()
        self.files = [SafetensorsFile(path, lent) for path in weight_parts(self.folder)]
        self.where: dict[str, SafetensorsFile] = {}
        for file in self.files:
            for name in file.tensors:
                if name in self.where:
                    raise BadModel(f"tensor {shown(name)} stands in {self.where[name].path.name} and in {file.path}")
                self.where[name] = file
        self._check_index()

    def info(self, name: str) -> TensorAt:
        return self.where[name].tensors[name]

    def data(self, name: str) -> NDArray[Any]:
        return self.where[name].data(name)

    def close(self) -> None:
        for file in self.files:
            file.close()

    def _check_index(self) -> None:
        if not (self.folder / SINGLE).exists() and (self.folder / INDEX).exists():
            for name, part in _weight_map(self.folder / INDEX).items():
                if name not in self.where or self.where[name].path.name != part:
                    raise BadModel(
                        f"{self.folder / INDEX} says that {shown(name)} is in {part}, which does not have it"
                    )


def weight_parts(folder: Path) -> list[Path]:
    """The files of a folder that hold its tensors, in the order of their names. Raises BadModel."""
    if (single := folder / SINGLE).exists():
        return [single]
    if (index := folder / INDEX).exists():
        names = sorted(set(_weight_map(index).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise BadModel(
                f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing[:5])}",
                "Copy or download them again",
            )
        return [folder / name for name in names]
    if found := sorted(folder.glob("*.safetensors")):
        return found
    raise BadModel(
        f"{folder} has no safetensors weights", "A model folder needs config.json and *.safetensors, or one .gguf file"
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weights = json.loads(index.read_bytes())["weight_map"]
    except OSError as error:
        raise BadModel(f"{index} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise BadModel(f"{index} is damaged: no weight_map in it ({str(error)[:80]})") from None
    good = isinstance(weights, dict) and all(isinstance(p, str) and p == Path(p).name for p in weights.values())
    if not good or not weights:
        raise BadModel(f"{index}: weight_map does not map tensors to file names")
    return dict(weights)
