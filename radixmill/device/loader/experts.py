"""Mixtures of experts as files have them. Whatever the file says, an expert's matrices are presented as one tensor each:
`….mlp.experts.{e}.gate_proj.weight`, `.up_proj.weight` [F, K] and `.down_proj.weight` [N, F], with `.bias` where there are.

    block_sparse_moe.experts.{e}.w1, w3, w2            other names for gate, up and down (Mixtral)
    experts.gate_up_proj [E, 2F, K], down_proj [E, N, F]           a layer's experts in one tensor: gates, then ups
    block_sparse_moe.input_linear.weight, output_linear.weight     other names for these (Granite)
    experts.gate_up_proj [E, K, 2F], down_proj [E, F, N]           with gate_up_proj_bias [E, 2F], down_proj_bias [E, N]:
                                                                   transposed, gates and ups take turns (gpt-oss)
    experts.gate_up_proj_blocks [E, 2F, K/32, 16], …_scales [E, 2F, K/32]     the same in MXFP4, not transposed

MXFP4 (Rouhani et al., 2023, arXiv:2310.10537): blocks of 32 values of four bits, which share a power of two. The file's
byte j of a block has values 2j and 2j + 1; that of GGML's kind of this name, values j and j + 16.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Stored
from radixmill.device.loader.fp8 import NAN_E8M0
from radixmill.store.safetensors import TensorAt

_RENAMED = (
    (re.compile(r"(\.experts\.\d+)\.w1\."), r"\1.gate_proj."),
    (re.compile(r"(\.experts\.\d+)\.w3\."), r"\1.up_proj."),
    (re.compile(r"(\.experts\.\d+)\.w2\."), r"\1.down_proj."),
    (re.compile(r"\.block_sparse_moe\.input_linear\.weight$"), ".mlp.experts.gate_up_proj"),
    (re.compile(r"\.block_sparse_moe\.output_linear\.weight$"), ".mlp.experts.down_proj"),
    (re.compile(r"\.block_sparse_moe\."), ".mlp."),
)
_STACKED = re.compile(r"(.*\.experts\.)(gate_up_proj|down_proj)(_bias|_blocks|_scales|)$")
_BLOCK = 32  # values


class Files(Protocol):
    """What a layer's experts are cut from."""

    def info(self, name: str) -> TensorAt: ...

    def data(self, name: str) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Cut:
    """One expert's matrix or bias within a tensor of all of them."""

    tensor: str  # its name in the files
    scales: str  # of MXFP4, the other tensor; else ""
    expert: int
    rows: slice  # of the matrix or bias
    turned: bool = False  # the file has its transpose


def presented_names(names: Iterable[str]) -> dict[str, str]:
    """Names as the model's builder knows them → as the files have them."""
    return {_presented(name): name for name in names}


def stacked_tensors(names: Mapping[str, str]) -> frozenset[str]:
    """Of presented names, those that stand for a whole layer's experts."""
    return frozenset(name for name in names if _STACKED.match(name))


def cuts(files: Files, names: Mapping[str, str]) -> dict[str, Cut]:
    """Presented name → its part of a stacked tensor, of all of these among `names` (presented → the files')."""
    return {
        presented: cut
        for name in stacked_tensors(names)
        if not name.endswith("_scales")
        for presented, cut in _of(files, names, name)
    }


def of_mxfp4(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says that the file's experts are in MXFP4."""
    found = config.get("quantization_config")
    return isinstance(found, Mapping) and found.get("quant_method") == "mxfp4"


def matrix(files: Files, cut: Cut) -> Stored:
    """Raises BadModel where the tensors are not of experts' shapes or types."""
    if cut.scales:
        return _mxfp4(files, cut)
    kind, data = files.info(cut.tensor).dtype, files.data(cut.tensor)
    if kind not in ("F32", "F16", "BF16"):
        raise BadModel(f"tensor {cut.tensor} is of type {kind}; experts of F32, F16, BF16 or MXFP4 are read")
    one = data[cut.expert]
    one = np.ascontiguousarray((one.T if cut.turned else one)[cut.rows])
    one = one if one.flags.aligned else one.copy()
    return Stored(kind, (one.shape[0], one.shape[1]), one)


def bias(files: Files, cut: Cut) -> tuple[str, NDArray[Any]]:
    """(kind, values)"""
    return files.info(cut.tensor).dtype, files.data(cut.tensor)[cut.expert][cut.rows].copy()


def _presented(name: str) -> str:
    if ".experts." not in name and ".block_sparse_moe." not in name:
        return name
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _of(files: Files, names: Mapping[str, str], name: str) -> Iterable[tuple[str, Cut]]:
    found = _STACKED.match(name)
    assert found
    layer, which, form = found.groups()
    file, scales = names[name], ""
    shape = files.info(file).shape
    rank = {"_bias": 2, "_blocks": 4}.get(form, 3)
    if len(shape) != rank:
        raise BadModel(f"tensor {file} has shape {list(shape)}, not {rank} dimensions")
    if form == "_blocks" and not (scales := names.get(f"{layer}{which}_scales", "")):
        raise BadModel(f"tensor {file} has no scales beside it")
    in_turns = f"{layer}gate_up_proj_bias" in names
    turned = in_turns and form == ""
    count = shape[2 if turned else 1]
    parts = [("down_proj", slice(None))]
    if which == "gate_up_proj":
        halves = (slice(0, None, 2), slice(1, None, 2)) if in_turns else (slice(count // 2), slice(count // 2, None))
        parts = list(zip(("gate_proj", "up_proj"), halves, strict=True))
    kind = "bias" if form == "_bias" else "weight"
    for expert in range(shape[0]):
        for part, rows in parts:
            yield f"{layer}{expert}.{part}.{kind}", Cut(file, scales, expert, rows, turned)


def _mxfp4(files: Files, cut: Cut) -> Stored:
    blocks, scales = files.data(cut.tensor)[cut.expert][cut.rows], files.data(cut.scales)
    if (
        scales.ndim != 3
        or len(scales) <= cut.expert
        or scales.dtype != np.uint8
        or blocks.dtype != np.uint8
        or blocks.shape[2] != _BLOCK // 2
    ):
        raise BadModel(f"tensors {cut.tensor} and {cut.scales} are not blocks of 32 values with a byte of scale")
    one = scales[cut.expert][cut.rows]
    if one.shape != blocks.shape[:2]:
        raise BadModel(f"{cut.scales} has {list(one.shape)} scales of an expert for {list(blocks.shape[:2])} blocks")
    if (one == NAN_E8M0).any():
        raise BadModel(f"{cut.scales} has scales of expert {cut.expert} that are not numbers")
    rows, count = one.shape
    packed = np.empty((rows, count, 1 + _BLOCK // 2), np.uint8)
    packed[..., 0] = one
    # Value 2j of 16 low values is in byte j of the first 8: of bytes j and j + 8, the low halves, then the high ones.
    low, high = blocks[..., : _BLOCK // 4], blocks[..., _BLOCK // 4 :]
    packed[..., 1::2] = low & 15 | (high & 15) << 4
    packed[..., 2::2] = low >> 4 | (high >> 4) << 4
    return Stored("MXFP4", (rows, count * _BLOCK), packed.reshape(rows, -1))
