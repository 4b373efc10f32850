"""One file per model family. `family(config)` finds the one that a config.json asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radixmill.core.errors import BadModel
from radixmill.device.models import (
    deepseek_v2,
    deepseek_v3,
    dots1,
    ernie4_5_moe,
    gemma2,
    gemma3,
    glm4_moe,
    glm4_moe_lite,
    gpt_oss,
    granite_moe,
    llama,
    minimax_m2,
    mixtral,
    olmoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
)
from radixmill.device.models.decoder import Decoder, DecoderConfig, Family
from radixmill.device.models.outline import outline

__all__ = ["FAMILIES", "Decoder", "DecoderConfig", "Family", "family", "outline"]

_MODULES = (
    llama,
    qwen2,
    qwen3,
    gemma2,
    gemma3,
    mixtral,
    qwen2_moe,
    qwen3_moe,
    glm4_moe,
    gpt_oss,
    olmoe,
    granite_moe,
    ernie4_5_moe,
    dots1,
    minimax_m2,
    deepseek_v2,
    deepseek_v3,
    glm4_moe_lite,
)
FAMILIES: Mapping[str, Family] = {name: module.FAMILY for module in _MODULES for name in module.ARCHITECTURES}


def family(hf: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises BadModel where we have no model file for its architecture."""
    name = (hf.get("architectures") or ["(none named)"])[0]
    if name not in FAMILIES:
        raise BadModel(f"architecture {name} has no model file here", f"There are: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
