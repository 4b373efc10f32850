"""GGUF files: the header, and where each tensor lies. Knows block sizes; knows nothing of what the numbers mean.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. All integers are little-endian:

    "GGUF" | version u32 | tensors u64 | pairs u64 | pairs × (key, type u32, value) | tensors × info | padding | data

A string is a u64 length and its bytes. The file is mapped, never read as a whole: opening one with 49k tokens takes
tens of milliseconds. Whatever bytes a file holds, opening it gives a GGUFFile or raises BadModel; no count or length in
it is believed before it is compared with the bytes that are left.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from radixmill.core.errors import BadModel
from radixmill.store.mapped import Lent, mapped, shown
from radixmill.store.split import check_part, check_total, present

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Type id in the file → (name, values in a block, bytes of a block).
KINDS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
BLOCKS: dict[str, tuple[int, int]] = {name: (values, size) for name, values, size in KINDS.values()}
_DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F64": "<f8",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
}

_SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_ARRAYS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9

# More than any real header has, little enough that a damaged one cannot take the machine's memory or time.
_MAX_STRING, _MAX_STRINGS, _MAX_NUMBERS, _MAX_PAIRS, _MAX_TENSORS, _MAX_DEPTH = (
    1 << 26,
    1 << 22,
    1 << 26,
    1 << 16,
    1 << 20,
    4,
)
_BATCH = 8192  # strings decoded at once


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` row-major (rows, cols), `offset` from the start of its file, `nbytes` on disk."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class GGUFFile:
    """A mapped GGUF file (version 2 or 3, little-endian), or all files of a model that is split into several.

    `path`: of the first part, whichever was named; `metadata`: the first part's, where strings are str, arrays of strings
    list[str], arrays of numbers NumPy arrays, nested arrays lists. Bytes that are not UTF-8 become surrogates
    (`errors="surrogateescape"`), so `.encode` gives them back. `size`: bytes of all parts.
    Raises BadModel where a file is missing, damaged or cut short, or where files are not the parts of one model.
    """

    def __init__(self, path: str | Path) -> None:
        paths = present(Path(path))
        self._lent = Lent()
        self._parts = [_Part(each, number, len(paths)) for number, each in enumerate(paths)]
        first = self._parts[0]
        self.path, self.metadata = first.path, first.metadata
        self.version, self.data_start = first.version, first.data_start
        self.size = sum(part.size for part in self._parts)
        self._where = self._joined()
        self.tensors = {name: part.tensors[name] for name, part in self._where.items()}
        if len(paths) > 1:
            for part in self._parts:
                check_total(part.path, len(self.tensors), part.metadata)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, where `{arch}` stands for the file's architecture."""
        return self.metadata.get(key.replace("{arch}", self.architecture), default)

    def data(self, name: str) -> NDArray[Any]:
        """A view of the mapped tensor: numbers in their own dtype and shape (BF16 as uint16), block types as uint8
        [..., bytes per row]. The map stays until the last view is gone; the memory of those before is given back."""
        import numpy as np  # only who reads weights pays for it

        info, whole = self.tensors[name], self._where[name].map
        assert whole is not None, "the file has been closed"
        self._lent.lend(whole, info.offset, info.nbytes)
        dtype = np.dtype(_DTYPES.get(info.kind, "u1"))
        flat = np.frombuffer(whole, dtype, info.nbytes // dtype.itemsize, info.offset)
        return flat.reshape(info.shape if info.kind in _DTYPES else (*info.shape[:-1], -1))

    def heads(self) -> list[tuple[Path, bytes]]:
        """Of each part its path, and all bytes before its tensors' data."""
        return [(part.path, part.head()) for part in self._parts]

    def close(self) -> None:
        """Let go of the maps; views that are still alive keep them."""
        self._lent.end()
        for part in self._parts:
            part.map = None

    def _joined(self) -> dict[str, _Part]:
        """Which part each tensor is in."""
        where: dict[str, _Part] = {}
        for part in self._parts:
            for name in part.tensors:
                if name in where:
                    raise BadModel(f"tensor {shown(name)} stands in {where[name].path.name} and in {part.path}")
                where[name] = part
        return where


class _Part:
    """One mapped file: part `number` (from 0) of `count`."""

    def __init__(self, path: Path, number: int, count: int) -> None:
        whole = mapped(path)
        self.path, self.size = path, len(whole)
        self.map: mmap.mmap | None = whole
        header = _Header(path, whole)
        self.metadata, self.tensors, self.data_start = header.read(number, count)
        self.version = header.version

    def head(self) -> bytes:
        assert self.map is not None, "the file has been closed"
        return self.map[: self.data_start]


class _Header:
    """Walks the header once, front to back."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path, self.buffer, self.end, self.at, self.version = path, buffer, len(buffer), 0, 0

    def read(self, number: int, count: int) -> tuple[dict[str, Any], dict[str, TensorInfo], int]:
        """Of part `number` of `count`: metadata, tensors, where their data starts."""
        with _noting_truncation(self):
            tensors, pairs = self._counts()
            metadata = self._pairs(pairs)
            check_part(self.path, number, count, metadata)
            infos = [self._info() for _ in range(tensors)]
            start = self._data_start(metadata)
        return metadata, self._placed(infos, start), start

    def _counts(self) -> tuple[int, int]:
        if (magic := self.buffer[:4]) != b"GGUF":
            self.fail(f"not a GGUF file (it starts with {magic!r})")
        self.at = 4
        self.version = self.number("<I")
        if self.version not in (2, 3):
            swapped = self.version & 0xFFFF == 0 and self.version != 0
            self.fail(
                "big-endian GGUF is not supported" if swapped else f"GGUF version {self.version} is not supported"
            )
        tensors, pairs = self.number("<Q"), self.number("<Q")
        self.expect(tensors, 24, _MAX_TENSORS, "tensors")
        self.expect(pairs, 13, _MAX_PAIRS, "metadata entries")
        return tensors, pairs

    def _pairs(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.string()
            if key in found:
                self.fail(f"metadata key {shown(key)} stands there twice")
            found[key] = self.value(self.number("<I"), key)
        return found

    def value(self, kind: int, key: str, depth: int = 0) -> Any:
        if (code := _SCALARS.get(kind)) is not None:
            return self.number(code)
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth >= _MAX_DEPTH:
            self.fail(f"metadata key {shown(key)} has an unknown type ({kind})")
        item, count = self.number("<I"), self.number("<Q")
        if item == _STRING:
            return self.strings(count)
        if item == _ARRAY:
            self.expect(count, 12, _MAX_PAIRS, f"arrays in {shown(key)}")
            return [self.value(_ARRAY, key, depth + 1) for _ in range(count)]
        if item not in _ARRAYS:
            self.fail(f"metadata key {shown(key)} has an unknown type ({item})")
        return self.numbers(_ARRAYS[item], count)

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(code, self.buffer, self.at)
        self.at += struct.calcsize(code)
        return value

    def string(self) -> str:
        size = self.number("<Q")
        self.expect(size, 1, _MAX_STRING, "bytes of text")
        self.at += size
        return str(self.buffer[self.at - size : self.at], "utf-8", "surrogateescape")

    def strings(self, count: int) -> list[str]:
        self.expect(count, 8, _MAX_STRINGS, "strings")
        found: list[str] = []
        while (left := count - len(found)) > 0:
            batch = min(left, _BATCH)
            if (short := _short_strings(self.buffer[self.at : self.at + batch * 64], batch)) is not None:
                found += short[0]
                self.at += short[1]
            else:
                found += [self.string() for _ in range(batch)]
        return found

    def numbers(self, dtype: str, count: int) -> NDArray[Any]:
        import numpy as np  # only who opens a file pays for it

        kind = np.dtype(dtype)
        self.expect(count, kind.itemsize, _MAX_NUMBERS, "numbers")
        values = np.frombuffer(self.buffer, kind, count, self.at).copy()  # a copy: metadata must not hold the map
        self.at += count * kind.itemsize
        return values

    def _info(self) -> TensorInfo:
        name = self.string()
        if not 1 <= (rank := self.number("<I")) <= 4:
            self.fail(f"tensor {shown(name)} has {rank} dimensions")
        shape = tuple(self.number("<Q") for _ in range(rank))[::-1]
        type_id, offset = self.number("<I"), self.number("<Q")
        if type_id not in KINDS:
            self.fail(f"tensor {shown(name)} has a type that is not known here ({type_id})")
        kind, values, size = KINDS[type_id]
        if shape[-1] % values or not all(shape):
            self.fail(f"tensor {shown(name)} of type {kind} has an impossible shape {shape}")
        return TensorInfo(name, kind, shape, offset, prod(shape) // values * size)

    def _data_start(self, metadata: dict[str, Any]) -> int:
        align = metadata.get("general.alignment", 32)
        if not isinstance(align, int) or not 1 <= align <= 1 << 20 or align & (align - 1):
            self.fail(f"general.alignment is {align!r:.40}, not a power of two")
        return -(-self.at // align) * align

    def _placed(self, infos: list[TensorInfo], start: int) -> dict[str, TensorInfo]:
        placed: dict[str, TensorInfo] = {}
        last, floor = "", start
        for info in sorted(infos, key=lambda i: i.offset):
            at = start + info.offset
            if at + info.nbytes > self.end:
                self.cut(f"tensor {shown(info.name)} needs {at + info.nbytes} bytes")
            if at < floor:
                self.fail(f"tensors {shown(last)} and {shown(info.name)} overlap")
            if info.name in placed:
                self.fail(f"tensor {shown(info.name)} stands there twice")
            placed[info.name] = TensorInfo(info.name, info.kind, info.shape, at, info.nbytes)
            last, floor = info.name, at + info.nbytes
        return placed

    def expect(self, count: int, size: int, most: int, what: str) -> None:
        """`count` items of at least `size` bytes each can follow, and are not absurdly many."""
        if count * size > self.end - self.at:
            self.cut(f"{count} {what} should follow at byte {self.at}")
        if count > most:
            self.fail(f"{count} {what} at byte {self.at} is more than any model has")

    def cut(self, why: str) -> NoReturn:
        raise BadModel(
            f"{self.path} is damaged or cut short: {why}, the file has {self.end}", "Copy or download it again"
        )

    def fail(self, why: str) -> NoReturn:
        raise BadModel(f"{self.path}: {why}")


@contextmanager
def _noting_truncation(header: _Header) -> Iterator[None]:
    try:
        yield
    except struct.error:
        header.cut(f"the header goes on after byte {header.at}")


def _short_strings(chunk: bytes, count: int) -> tuple[list[str], int] | None:
    """`count` strings at the start of `chunk` and the bytes they take, or None if one is longer than 255 bytes, holds a
    zero, or runs off the chunk.

    A vocabulary and its merges are hundreds of thousands of short strings; one by one they would take a second. So hop
    by each length's low byte, check all the other length bytes at once, and cut the text at zeros put between strings.
    """
    import numpy as np  # only who opens a file pays for it

    starts, at = [], 0
    try:
        for _ in range(count):
            starts.append(at)
            at += chunk[at] + 8
    except IndexError:
        return None
    raw = np.frombuffer(chunk, np.uint8)
    heads = np.add.outer(np.array(starts), np.arange(8))
    if at > len(chunk) or raw[heads[:, 1:]].any():
        return None
    text = np.ones(at, bool)
    text[heads] = False
    if not raw[:at][text].all():
        return None
    text[heads[:, 7]] = True  # the top byte of each length, a zero, stays as the separator
    return str(raw[:at][text].tobytes(), "utf-8", "surrogateescape").split("\0")[1:], at
