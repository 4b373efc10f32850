"""A GGUF file in several parts, byte by byte as llama.cpp's gguf-split writes them, or as damaged as a test wants."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf

_U16, _I32 = (2, "<H"), (5, "<i")
_TYPES = {"split.no": _U16, "split.count": _U16, "split.tensors.count": _I32}


def split(
    path: Path,
    counts: Sequence[int],
    says: Mapping[int, Mapping[str, int | None]] = {},
    names: Mapping[str, str] = {},
) -> list[Path]:
    """`path` in parts of `counts` tensors, beside it; the file itself goes. `says`: of a part's number, from 0, what its
    header says instead; None: says nothing of. `names`: of a tensor, instead of its own."""
    reader = gguf.GGUFReader(path)
    tensors = list(reader.tensors)
    assert sum(counts) == len(tensors)
    keys = bytes(reader.data[24 : tensors[0].field.offset])
    pairs = struct.unpack_from("<Q", reader.data, 16)[0]
    parts = []
    for number, count in enumerate(counts):
        own = {"split.no": number, "split.tensors.count": len(tensors), "split.count": len(counts)}
        stated = {key: value for key, value in {**own, **says.get(number, {})}.items() if value is not None}
        part = path.with_name(f"{path.stem}-{number + 1:05d}-of-{len(counts):05d}.gguf")
        start = sum(counts[:number])
        mine = [(names.get(t.name, t.name), t) for t in tensors[start : start + count]]
        more = b"".join(_pair(key, value) for key, value in stated.items())
        head = (keys + more, pairs + len(stated)) if number == 0 else (more, len(stated))
        part.write_bytes(_file(*head, mine))
        parts.append(part)
    path.unlink()
    return parts


def _file(keys: bytes, pairs: int, tensors: Sequence[tuple[str, gguf.ReaderTensor]]) -> bytes:
    infos, data = b"", b""
    for name, tensor in tensors:
        dims = [int(n) for n in tensor.shape]
        place = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, int(tensor.tensor_type), len(data))
        infos += _string(name) + place
        data = _padded(data + tensor.data.tobytes())
    return _padded(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), pairs) + keys + infos) + data


def _pair(key: str, value: int) -> bytes:
    kind, code = _TYPES[key]
    return _string(key) + struct.pack("<I", kind) + struct.pack(code, value)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)
