"""Where each tensor that Hugging Face names lies in a GGUF file: a whole tensor, one matrix of a stack, some of its rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.loader.gguf_families.names import Names
from radixmill.store import GGUFFile

_ROOTS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_PART = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_EXPERT = re.compile(r"(blk\.\d+\.ffn_(?:gate|up|down))\.(\d+)\.(weight|bias)")  # of older files, one by one
_IN_BLOCK = re.compile(r"blk\.(\d+)\.")
# Frequencies that are derived from the configuration, or that the family has turned into it.
_DERIVED = re.compile(r"(blk\.\d+\.)?(rope_freqs|rope_factors_long|rope_factors_short|attn_rot_embd)\.weight")


class Place(NamedTuple):
    """Part of one of the file's tensors."""

    tensor: str
    one: int | None = None  # of a stack
    rows: tuple[int, int] | None = None  # of that, from … up to

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """`whole`: the file's tensor's."""
        shape = whole if self.one is None else whole[1:]
        return shape if self.rows is None else (self.rows[1] - self.rows[0], *shape[1:])

    def share(self, whole: tuple[int, ...], nbytes: int) -> int:
        """Of the tensor's bytes."""
        return nbytes * prod(self.shape(whole)) // prod(whole)

    def read(self, data: NDArray[Any]) -> NDArray[Any]:
        """A view."""
        data = data if self.one is None else data[self.one]
        return data if self.rows is None else data[self.rows[0] : self.rows[1]]


def places(file: GGUFFile, names: Names, config: Mapping[str, Any]) -> dict[str, Place]:
    """By Hugging Face's names. Layers beyond the model's, which predict further ahead, are left out.

    `names`: of the architecture, within a block. Raises BadModel where a tensor has not the form that its name needs.
    """
    found: dict[str, Place] = {}
    for name in file.tensors:
        block = _IN_BLOCK.match(name)
        if _DERIVED.fullmatch(name) or (block and int(block[1]) >= config["num_hidden_layers"]):
            continue
        for ours, place in _parts(file, name, names, config):
            if ours in found:
                raise BadModel(f"{file.path} holds {ours} twice, as {found[ours].tensor} and as {name}")
            found[ours] = place
    return found


def hf_names(name: str, names: Names) -> tuple[str, ...]:
    """Hugging Face's names of what a GGUF tensor holds; one without any stays as it is."""
    if one := _EXPERT.fullmatch(name):
        return tuple(n.replace("{e}", one[2]) for n in hf_names(f"{one[1]}_exps.{one[3]}", names))
    if (found := _PART.fullmatch(name)) is None:
        return (name,)
    block, stem, kind = found.groups()
    if block is None:
        return (f"{_ROOTS[stem]}.{kind}" if stem in _ROOTS else name,)
    if isinstance(whole := names.get(f"{stem}.{kind}"), str):
        return (f"model.layers.{block}.{whole}",)
    stems = names.get(stem, ())
    stems = (stems,) if isinstance(stems, str) else stems
    return tuple(f"model.layers.{block}.{each}.{kind}" for each in stems) or (name,)


def _parts(file: GGUFFile, name: str, names: Names, config: Mapping[str, Any]) -> Iterator[tuple[str, Place]]:
    ours, shape = hf_names(name, names), file.tensors[name].shape
    stacked = "{" in ours[0]
    if stacked and len(shape) < 2:
        raise BadModel(f"{file.path}: tensor {name} has shape {list(shape)}, not one for each of a stack")
    rows = _rows(file, name, shape[1:] if stacked else shape, ours, config)
    for each, span in zip(ours, rows, strict=True):
        for one in range(shape[0]) if stacked else (None,):
            yield each.replace("{e}", str(one)).replace("{h}", str(one)), Place(name, one, span)


def _rows(
    file: GGUFFile, name: str, shape: tuple[int, ...], ours: tuple[str, ...], config: Mapping[str, Any]
) -> list[tuple[int, int] | None]:
    """Which rows each of several has: of queries, keys and values by their heads, else equally many."""
    if len(ours) == 1:
        return [None]
    heads = (config["num_attention_heads"], config["num_key_value_heads"], config["num_key_value_heads"])
    shares = heads if len(ours) == 3 else (1,) * len(ours)
    if shape[0] % sum(shares):
        raise BadModel(f"{file.path}: tensor {name} has {shape[0]} rows, which {' and '.join(ours)} do not share")
    each = shape[0] // sum(shares)
    ends = [each * n for n in accumulate(shares)]
    return list(zip([0, *ends], ends, strict=False))


def half_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Indices that bring interleaved rows (pair i = rows 2i, 2i + 1 of a head) into two halves (pair i = i, i + D/2)."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
