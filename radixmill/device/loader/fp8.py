"""Matrices of 8-bit floats (E4M3; Micikevicius et al., 2022, arXiv:2209.05433) with scales beside them.

`x.weight` is F8_E4M3 [N, K]; its value is the number times its scale, which lies in one of these:

    x.weight_scale_inv [⌈N/R⌉, ⌈K/C⌉]     of blocks of R rows and C columns, quant_method fp8, weight_block_size [R, C] (DeepSeek)
    x.weight_scale_inv []                 of the whole matrix, quant_method fp8 without weight_block_size
    x.weight_scale [N, 1], [1], or as above       quant_method compressed-tensors, format float-quantized; fbgemm_fp8

Scales of what the matrix is multiplied with, which some files have too, are left alone: activations keep more bits here. So
are scales for cached keys and values (kv_cache_scheme): these are kept as --kv-cache-dtype says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Stored
from radixmill.device.quant import F8_BLOCK, as_f8_blocks, f8_floats

KIND = "F8_E4M3"
NAN_E8M0 = 255  # among scales that are stored as exponents alone
PACKED_INTEGERS = "pack-quantized"  # of compressed-tensors; see grouped.py
_WEIGHT = ".weight"
_SCALES = (".weight_scale_inv", ".weight_scale")
_OF_INPUTS = (".input_scale", ".activation_scale", ".input_scale_ub")


@dataclass(frozen=True)
class Fp8:
    """How a checkpoint scales its matrices. `blocks`: rows and columns that share a scale; None: its shape says it."""

    blocks: tuple[int, int] | None


def fp8_scheme(root: Path, config: Mapping[str, Any]) -> Fp8 | None:
    """What a configuration's quantization_config says of 8-bit floats; None: nothing. Raises BadModel for what we can't read."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    match found.get("quant_method"):
        case "fp8":
            return Fp8(_pair(root, "weight_block_size", found.get("weight_block_size")))
        case "fbgemm_fp8":
            return Fp8(None)
        case "compressed-tensors" if found.get("format") != PACKED_INTEGERS:
            return _compressed(root, found)
    return None


def without_scales(kinds: Mapping[str, str]) -> frozenset[str]:
    """Names of tensors in the files (name → type) → those that are not scales of matrices of 8-bit floats."""
    stems = [name.removesuffix(_WEIGHT) for name, kind in kinds.items() if kind == KIND and name.endswith(_WEIGHT)]
    return frozenset(kinds) - {stem + part for stem in stems for part in (*_SCALES, *_OF_INPUTS)}


def scale_of(name: str, has: Callable[[str], bool]) -> str | None:
    """The tensor of scales beside a matrix."""
    stem = name.removesuffix(_WEIGHT)
    return next((stem + part for part in _SCALES if has(stem + part)), None)


def matrix(where: object, name: str, codes: NDArray[np.uint8], scales: NDArray[Any], scheme: Fp8) -> Stored:
    """codes [N, K], scales as the files have them → blocks of 128 values of a row, or floats where these don't fit.

    Raises BadModel where the scales have another shape than the matrix needs.
    """
    rows, columns = codes.shape
    each, width = _per_row(where, name, codes.shape, scales.astype(np.float32), scheme)
    if columns % F8_BLOCK == 0 and width % F8_BLOCK == 0:
        return Stored("F8B128", (rows, columns), as_f8_blocks(codes, each, width))
    why = "rows are no multiple of 128 values" if columns % F8_BLOCK else "blocks are no multiple of 128 columns"
    wide = f8_floats(codes) * np.repeat(each, width, axis=1)[:, :columns]
    return Stored("F32", (rows, columns), wide, note=f"widened to F32: their {why}")


def _per_row(
    where: object, name: str, shape: tuple[int, ...], scales: NDArray[np.float32], scheme: Fp8
) -> tuple[NDArray[np.float32], int]:
    """The scale of each row and run of columns, [N, runs], and how many columns a run has."""
    rows, columns = shape
    if scheme.blocks is not None:
        high, wide = scheme.blocks
        if scales.shape == (-(-rows // high), -(-columns // wide)):
            return np.repeat(scales, high, axis=0)[:rows], wide if wide < columns else columns
    elif scales.size == 1:
        return np.full((rows, 1), scales.reshape(-1)[0], np.float32), columns
    elif scales.shape in ((rows, 1), (rows,)):
        return scales.reshape(rows, 1), columns
    raise BadModel(f"{where}: {name} of shape {[rows, columns]} has scales of shape {list(scales.shape)}")


def _compressed(root: Path, found: Mapping[str, Any]) -> Fp8:
    if (form := found.get("format")) != "float-quantized":
        raise BadModel(
            f"{root}: compressed-tensors of format {form!r} are not supported",
            f"float-quantized and {PACKED_INTEGERS} are",
        )
    groups: Any = found.get("config_groups")
    weights = [group.get("weights") for group in groups.values()] if isinstance(groups, Mapping) else []
    blocks = {_structure(root, of) for of in weights}
    if len(blocks) != 1:
        raise BadModel(
            f"{root}: config_groups of compressed-tensors scale matrices in {len(blocks)} ways; one is supported"
        )
    return Fp8(blocks.pop())


def _structure(root: Path, weights: Any) -> tuple[int, int] | None:
    """Of one group's weights."""
    told: Mapping[str, Any] = weights if isinstance(weights, Mapping) else {}
    kind = (told.get("type"), told.get("num_bits"), told.get("symmetric", True))
    if kind != ("float", 8, True) or (strategy := told.get("strategy")) not in ("tensor", "channel", "block"):
        raise BadModel(f"{root}: compressed-tensors with weights of {dict(told)} are not supported")
    return _pair(root, "block_structure", told.get("block_structure")) if strategy == "block" else None


def _pair(root: Path, key: str, found: Any) -> tuple[int, int] | None:
    if found is None:
        return None
    if (
        not isinstance(found, Iterable)
        or len(sizes := list(found)) != 2
        or not all(type(n) is int and n > 0 for n in sizes)
    ):
        raise BadModel(f"{root}: {key} is {found!r}, not rows and columns")
    return sizes[0], sizes[1]
