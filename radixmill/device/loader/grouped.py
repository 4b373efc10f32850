"""AWQ, GPTQ and packed compressed-tensors: a layer `x.weight` [N, K] lies there as `x.qweight`, `x.qzeros`, `x.scales` and
`x.g_idx`, or as `x.weight_packed`, `x.weight_zero_point`, `x.weight_scale` and `x.weight_g_idx`.

G groups of columns have a scale and a zero point for each row. Everything but the layout and the zero points' meaning
follows from the tensors themselves, so layers that differ from the configuration's words are read all the same.

    AWQ    qweight [K, N/8], qzeros [G, N/8]: 4 bits, eight of N interleaved in a word
    GPTQ   qweight [K·bits/32, N] packed along K, qzeros [G, N·bits/32] along N, g_idx [K]: each column's group
    packed weight_packed [N, K·bits/32] along K, weight_zero_point [N·bits/32, G] along N (symmetric: none, they are in the
           middle), weight_scale [N, G]

Formats: https://github.com/casper-hansen/AutoAWQ, "gemm"; https://github.com/AutoGPTQ/AutoGPTQ, "gptq", whose zero points
are stored less one, and "gptq_v2" (https://github.com/ModelCloud/GPTQModel), whose are not;
https://github.com/vllm-project/compressed-tensors, "pack-quantized".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.loader.checkpoint import missing
from radixmill.device.quant import Grouped, awq_fields, fields
from radixmill.store.side import read_json

BITS = (2, 3, 4, 8)
_WEIGHT, _PACKED = ".weight", ".qweight"
_PARTS = (_PACKED, ".qzeros", ".scales", ".g_idx")
COMPRESSED = "compressed-tensors"
_COMPRESSED = ".weight_packed"
_COMPRESSED_PARTS = (_COMPRESSED, ".weight_zero_point", ".weight_scale", ".weight_g_idx", ".weight_shape")
_OLDER = {"quantize_config.json": "gptq", "quant_config.json": "awq"}  # beside config.json, before it had the key


class Tensors(Protocol):
    """What a layer is read from."""

    root: Path

    def has(self, name: str) -> bool: ...

    def integers(self, name: str) -> NDArray[np.int32]: ...

    def floats(self, name: str) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint packs its layers."""

    method: str  # "awq", "gptq" or "compressed-tensors"
    bits: int  # of layers that don't say it themselves
    group: int  # columns in a group, of layers that don't list them; -1: all
    less: int  # stored zero points are less by this

    def layer(self, tensors: Tensors, stem: str) -> Grouped:
        """One layer. Raises BadModel where its tensors don't fit together."""
        read = {"awq": _awq, "gptq": _gptq, COMPRESSED: _compressed}
        return read[self.method](tensors, stem, self)


def scheme(root: Path, config: Mapping[str, Any], packed: bool) -> Scheme | None:
    """What the configuration's quantization_config asks for; None: nothing. Raises BadModel for what we can't read.

    `packed`: some layers are; then a file beside the configuration may say it too.
    """
    found = config.get("quantization_config")
    if found is None and packed:
        found = _beside(root)
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise BadModel(f"{root}: quantization_config is {found!r}, not a dictionary")
    method = found.get("quant_method")
    if method == COMPRESSED:
        return _compressed_scheme(root, found)
    if method not in ("awq", "gptq"):
        raise BadModel(
            f"{root}: quant_method {method!r} is not supported", f"awq, gptq, {COMPRESSED}, fp8 and mxfp4 are"
        )
    bits = found.get("bits", found.get("w_bit", 4))
    allowed = (4,) if method == "awq" else BITS
    if type(bits) is not int or bits not in allowed:
        raise BadModel(f"{root}: {method} of {bits!r} bits is not supported", f"{_listed(allowed)} bits are")
    packing = _packing(found, method)
    known = ("gemm",) if method == "awq" else ("gptq", "gptq_v2")
    if packing not in known:
        raise BadModel(f"{root}: {method} packed as {packing!r} is not supported", f"{_listed(known)} is")
    group = found.get("group_size", found.get("q_group_size", -1))
    return Scheme(method, bits, group if type(group) is int else -1, int(packing == "gptq"))


def layer_names(names: Iterable[str]) -> frozenset[str]:
    """Names of tensors in the files → names of the tensors they stand for."""
    names = found = frozenset(names)
    for parts in (_PARTS, _COMPRESSED_PARTS):
        stems = {name.removesuffix(parts[0]) for name in names if name.endswith(parts[0])}
        found = (found - {stem + part for stem in stems for part in parts}) | {stem + _WEIGHT for stem in stems}
    return found


def _beside(root: Path) -> dict[str, Any] | None:
    return next(({"quant_method": m, **read_json(root / f)} for f, m in _OLDER.items() if (root / f).exists()), None)


def _compressed_scheme(root: Path, found: Mapping[str, Any]) -> Scheme:
    groups: Any = found.get("config_groups")
    weights = [group.get("weights") or {} for group in groups.values()] if isinstance(groups, Mapping) else []
    ways: set[Any] = {(told.get("num_bits"), told.get("group_size")) for told in weights}
    if len(ways) != 1:
        raise BadModel(f"{root}: config_groups of {COMPRESSED} pack matrices in {len(ways)} ways; one is supported")
    for told in weights:
        fits = told.get("num_bits") in BITS and told.get("type", "int") == "int"
        if not fits or told.get("strategy") not in ("group", "channel"):
            raise BadModel(f"{root}: packed {COMPRESSED} with weights of {dict(told)} are not supported")
    bits, group = ways.pop()
    return Scheme(COMPRESSED, bits, group if type(group) is int else -1, 0)


def _packing(found: Mapping[str, Any], method: str) -> str:
    if method == "awq":
        return str(found.get("version") or "gemm").lower()
    return "marlin" if found.get("is_marlin_format") else str(found.get("checkpoint_format") or "gptq").lower()


def _awq(tensors: Tensors, stem: str, scheme: Scheme) -> Grouped:
    words, zeros, scales = _three(tensors, stem)
    columns, rows = words.shape[0], 8 * words.shape[1]
    _check(tensors, f"{stem}.scales", scales, (len(scales), rows))
    _check(tensors, f"{stem}.qzeros", zeros, (len(scales), words.shape[1]))
    groups = _consecutive(tensors, stem, columns, len(scales), scheme.group)
    return Grouped(awq_fields(words), awq_fields(zeros), _by_row(scales), groups)


def _gptq(tensors: Tensors, stem: str, scheme: Scheme) -> Grouped:
    words, zeros, scales = _three(tensors, stem)
    columns = 32 * len(words) // scheme.bits
    groups = _listed_groups(tensors, f"{stem}.g_idx", len(scales))
    if groups is None:
        groups = _consecutive(tensors, stem, columns, len(scales), scheme.group)
    bits = _bits(tensors, stem, words, len(groups))
    _check(tensors, f"{stem}.scales", scales, (len(scales), words.shape[1]))
    _check(tensors, f"{stem}.qzeros", zeros, (len(scales), words.shape[1] * bits // 32))
    # Zero points stored less one wrap around, as they do in the kernels that came with the format.
    points = fields(zeros, bits) + np.uint8(scheme.less) & np.uint8((1 << bits) - 1)
    return Grouped(fields(words.T, bits), np.ascontiguousarray(points.T), _by_row(scales), groups)


def _compressed(tensors: Tensors, stem: str, scheme: Scheme) -> Grouped:
    for part in (_COMPRESSED, ".weight_scale"):
        if not tensors.has(stem + part):
            raise missing(tensors.root, stem + part)
    words, scales = tensors.integers(stem + _COMPRESSED), tensors.floats(f"{stem}.weight_scale")
    if words.ndim != 2 or not words.size or scales.ndim != 2 or not scales.size or 32 * words.shape[1] % scheme.bits:
        raise BadModel(
            f"{tensors.root}: {stem}.weight_packed {list(words.shape)} and .weight_scale {list(scales.shape)} are no"
            f" matrix of {scheme.bits} bits and its scales"
        )
    rows, columns, count = len(words), 32 * words.shape[1] // scheme.bits, scales.shape[1]
    _check(tensors, f"{stem}.weight_scale", scales, (rows, count))
    groups = _listed_groups(tensors, f"{stem}.weight_g_idx", count)
    if groups is None:
        groups = _consecutive(tensors, stem, columns, count, scheme.group)
    elif len(groups) != columns:
        raise BadModel(f"{tensors.root}: {stem}.weight_g_idx is for {len(groups)} columns, {stem} has {columns}")
    middle = np.full((rows, count), 1 << scheme.bits - 1, np.uint8)
    zeros = _points(tensors, stem, scheme.bits, middle.shape) if tensors.has(f"{stem}.weight_zero_point") else middle
    return Grouped(fields(words, scheme.bits), zeros, scales, groups)


def _points(tensors: Tensors, stem: str, bits: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Zero points [N, G], which count from the lowest code as the codes themselves do."""
    rows, count = shape
    words = tensors.integers(f"{stem}.weight_zero_point")
    if rows * bits % 32:
        raise BadModel(f"{tensors.root}: {stem} has {rows} rows, whose zero points fill no whole words")
    _check(tensors, f"{stem}.weight_zero_point", words, (rows * bits // 32, count))
    return np.ascontiguousarray(fields(words.T, bits).T)


def _three(tensors: Tensors, stem: str) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[Any]]:
    """qweight, qzeros and scales, all of two dimensions and not empty."""
    for part in (".qzeros", ".scales"):
        if not tensors.has(stem + part):
            raise missing(tensors.root, stem + part)
    found = tensors.integers(stem + _PACKED), tensors.integers(f"{stem}.qzeros"), tensors.floats(f"{stem}.scales")
    for part, values in zip((_PACKED, ".qzeros", ".scales"), found, strict=True):
        if values.ndim != 2 or not values.size:
            raise BadModel(f"{tensors.root}: tensor {stem}{part} has shape {list(values.shape)}, not rows and columns")
    return found


def _listed_groups(tensors: Tensors, name: str, groups: int) -> NDArray[np.intp] | None:
    """Each column's group, where the layer has a list of them."""
    if not tensors.has(name):
        return None
    found = tensors.integers(name).reshape(-1).astype(np.intp)
    if not found.size or found.min() < 0 or found.max() >= groups:
        raise BadModel(f"{tensors.root}: {name} names groups other than the {groups} that have scales")
    return found


def _consecutive(tensors: Tensors, stem: str, columns: int, groups: int, size: int) -> NDArray[np.intp]:
    """The group of each column: of `size` columns, the last may have fewer; of equally many where that can't be."""
    if size > 0 and -(-columns // size) == groups:
        return np.arange(columns) // size
    if columns % groups:
        raise BadModel(f"{tensors.root}: {stem} has {columns} columns, which {groups} groups do not share evenly")
    return np.arange(columns) // (columns // groups)


def _bits(tensors: Tensors, stem: str, words: NDArray[np.int32], columns: int) -> int:
    bits = next((bits for bits in BITS if 32 * len(words) == bits * columns), None)
    if bits is None or 32 * len(words) % columns:
        raise BadModel(
            f"{tensors.root}: {stem}.qweight has {len(words)} rows of words for {columns} columns",
            f"They fit for {_listed(BITS)} bits",
        )
    if words.shape[1] * bits % 32:
        raise BadModel(f"{tensors.root}: {stem} has {words.shape[1]} rows, whose zero points fill no whole words")
    return bits


def _check(tensors: Tensors, name: str, values: NDArray[Any], wanted: tuple[int, int]) -> None:
    if values.shape != wanted:
        raise BadModel(
            f"{tensors.root}: tensor {name} has shape {list(values.shape)}, but its layer needs {list(wanted)}"
        )


def _by_row(scales: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(scales.T)


def _listed(values: Iterable[Any]) -> str:
    return " or ".join(map(str, values))
