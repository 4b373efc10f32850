"""A GGUF file, its tensors under their Hugging Face names and in Hugging Face's order of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Stored
from radixmill.device.loader.checkpoint import Lying, check_shape, missing
from radixmill.device.loader.fingerprint import fingerprint
from radixmill.device.loader.gguf_config import gguf_config
from radixmill.device.quant import widen
from radixmill.store import GGUFFile, ModelFiles, eos_ids

__all__ = ["GGUFCheckpoint", "gguf_config"]

_ROOTS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Gemma has a norm before and after each half of a block, and Hugging Face calls the one after attention what it calls
# the one before the feed-forward half elsewhere.
_GEMMA_IN_BLOCK = {
    **_IN_BLOCK,
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_PART = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
# Frequencies that are derived from the configuration, or that gguf_config has turned into it.
_DERIVED = re.compile(r"(blk\.\d+\.)?(rope_freqs|attn_rot_embd)\.weight")


class GGUFCheckpoint:
    """See Checkpoint. Matrices stay packed as they are in the file."""

    def __init__(self, files: ModelFiles) -> None:
        self.path = files.root
        self._file = GGUFFile(files.root)
        self.config = gguf_config(self._file)
        arch = self._file.architecture
        self.norms_include_one = arch.startswith("gemma")
        self._where = {hf_name(name, arch): name for name in self._file.tensors if not _DERIVED.fullmatch(name)}
        self.names = frozenset(self._where)
        self._interleaved = (
            {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"} if arch == "llama" else {}
        )
        self.eos_ids = eos_ids(files, self._file)
        self.fingerprint = files.sha256 or fingerprint([(self.path, self._file.head())])

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        kind, found, data = self._read(name)
        check_shape(self.path, name, found, shape, 2)
        return Stored(kind, (found[0], found[1]), self._halves(name, data))

    def vector(self, name: str, size: int | None = None) -> NDArray[np.float32]:
        kind, found, data = self._read(name)
        check_shape(self.path, name, found, None if size is None else (size,), 1)
        values = widen(Stored(kind, (1, found[0]), data.reshape(1, -1))).data.reshape(-1)
        return self._halves(name, values)

    def lying(self) -> Iterable[Lying]:
        for name, own in self._where.items():
            info = self._file.tensors[own]
            yield Lying(name, info.kind, info.shape, info.nbytes)

    def close(self) -> None:
        self._file.close()

    def _read(self, name: str) -> tuple[str, tuple[int, ...], NDArray[Any]]:
        if name not in self._where:
            raise missing(self.path, name)
        info, data = self._file.tensors[self._where[name]], self._file.data(self._where[name])
        if info.kind == "F64":
            return "F32", info.shape, data.astype(np.float32)
        if info.kind.startswith("I") and info.kind[1:].isdecimal():
            raise BadModel(f"{self.path}: tensor {name} holds integers ({info.kind}), not weights")
        return info.kind, info.shape, data

    def _halves(self, name: str, data: NDArray[Any]) -> NDArray[Any]:
        """Undo llama.cpp's order of rows in the llama architecture.

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


def hf_name(name: str, arch: str) -> str:
    """Hugging Face's name of a GGUF tensor; names without one stay as they are."""
    if (found := _PART.fullmatch(name)) is None:
        return name
    block, stem, kind = found.groups()
    if block is None:
        return f"{_ROOTS[stem]}.{kind}" if stem in _ROOTS else name
    known = _GEMMA_IN_BLOCK if arch.startswith("gemma") else _IN_BLOCK
    return f"model.layers.{block}.{known[stem]}.{kind}" if stem in known else name


def half_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Indices that bring interleaved rows (pair i = rows 2i, 2i + 1 of a head) into two halves (pair i = i, i + D/2)."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
