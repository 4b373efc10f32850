"""The kit's files are headed as those that llama.cpp's own converters write of transformers' checkpoints.

tests/device/data/gguf_facts.json holds what these wrote: of each case its metadata, and its tensors' names and shapes.
test_gguf_converters.py compares it with the converters themselves, and writes it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from radixmill.device.loader.gguf_families import FAMILIES
from radixmill.store import GGUFFile
from tests.device.gguf_kit import ARCHES, CONFIGS, weights, write_gguf

FACTS = Path(__file__).parent / "data" / "gguf_facts.json"


def facts(path: Path) -> dict[str, Any]:
    """The header of a file. Tensors of several layers that are alike are one: blk.1-2.attn_norm.weight."""
    file = GGUFFile(path)
    keys = {k: _plain(v) for k, v in sorted(file.metadata.items()) if k.startswith(f"{file.architecture}.")}
    layers: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    tensors: dict[str, list[int]] = {}
    for name, info in file.tensors.items():
        if block := re.fullmatch(r"blk\.(\d+)\.(.*)", name):
            layers.setdefault((block[2], info.shape), []).append(int(block[1]))
        else:
            tensors[name] = list(info.shape)
    tensors |= {f"blk.{_span(found)}.{stem}": list(shape) for (stem, shape), found in layers.items()}
    return {"arch": file.architecture, "keys": keys, "tensors": dict(sorted(tensors.items()))}


def _span(layers: list[int]) -> str:
    layers = sorted(layers)
    whole = layers == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if whole and len(layers) > 1 else ",".join(map(str, layers))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return round(value, 9) if isinstance(value, float) else value


@pytest.mark.parametrize("name", CONFIGS)
def test_the_kit_writes_what_the_converters_write(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    assert facts(write_gguf(tmp_path / "m.gguf", config, weights(config))) == json.loads(FACTS.read_text())[name]


def test_every_architecture_of_the_table_has_a_case() -> None:
    cased = {gguf.MODEL_ARCH_NAMES[ARCHES[c["architectures"][0].removesuffix("ForCausalLM")]] for c in CONFIGS.values()}
    assert cased | {"mistral3"} == set(FAMILIES)  # that one is llama's under another name
