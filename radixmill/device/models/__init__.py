"""One file per model family. `family(config)` finds the one that a config.json asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radixmill.core.errors import BadModel
from radixmill.device.models import (
    cohere,
    deepseek_v2,
    deepseek_v3,
    dots1,
    ernie4_5_moe,
    exaone4,
    gemma,
    gemma2,
    gemma3,
    glm,
    glm4,
    glm4_moe,
    glm4_moe_lite,
    gpt_oss,
    granite,
    granite_moe,
    llama,
    minimax_m2,
    mistral,
    mixtral,
    olmo2,
    olmoe,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    relatives,
    smollm3,
    youtu,
)
from radixmill.device.models.decoder import Decoder, DecoderConfig, Family
from radixmill.device.models.outline import outline

__all__ = ["FAMILIES", "MODULES", "Decoder", "DecoderConfig", "Family", "family", "outline"]

# The model files: dense, then with experts, then with latents.
MODULES = (
    llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, phi3, olmo2, granite, smollm3, cohere, glm, glm4, exaone4, relatives,
    mixtral, qwen2_moe, qwen3_moe, glm4_moe, gpt_oss, olmoe, granite_moe, ernie4_5_moe, dots1, minimax_m2,
    deepseek_v2, deepseek_v3, glm4_moe_lite, youtu,
)  # fmt: skip
FAMILIES: Mapping[str, Family] = {name: module.FAMILY for module in MODULES for name in module.ARCHITECTURES}


def family(hf: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises BadModel where we have no model file for its architecture."""
    name = (hf.get("architectures") or ["(none named)"])[0]
    if name not in FAMILIES:
        raise BadModel(f"architecture {name} has no model file here", f"There are: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
