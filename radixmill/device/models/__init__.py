"""One file per model family. `family(config)` finds the one that a config.json asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radixmill.core.errors import BadModel
from radixmill.device.models import (
    cohere,
    exaone4,
    gemma,
    gemma2,
    gemma3,
    glm,
    glm4,
    granite,
    llama,
    mistral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    relatives,
    smollm3,
)
from radixmill.device.models.decoder import Decoder, DecoderConfig, Family
from radixmill.device.models.outline import outline

__all__ = ["FAMILIES", "Decoder", "DecoderConfig", "Family", "family", "outline"]

_FILES = (
    llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, phi3, olmo2, granite, smollm3, cohere, glm, glm4, exaone4,
    relatives,
)  # fmt: skip

FAMILIES: Mapping[str, Family] = {name: module.FAMILY for module in _FILES for name in module.ARCHITECTURES}


def family(hf: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises BadModel where we have no model file for its architecture."""
    name = (hf.get("architectures") or ["(none named)"])[0]
    if name not in FAMILIES:
        raise BadModel(f"architecture {name} has no model file here", f"There are: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
