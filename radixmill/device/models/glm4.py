"""GLM-4 and GLM-Z1 of 2025, 9B and 32B (the card of zai-org/GLM-4-32B-0414): GLM-4's block with a second norm after each half,
as Gemma 2 has them."""

from __future__ import annotations

from dataclasses import replace

from radixmill.device.models import gemma2, glm
from radixmill.device.models.decoder import Family

ARCHITECTURES = ("Glm4ForCausalLM",)
WEIGHTS = replace(
    glm.WEIGHTS,
    block={
        **glm.WEIGHTS.block,
        "after_attention_norm": ("post_self_attn_layernorm",),
        "after_mlp_norm": ("post_mlp_layernorm",),
    },
)
Block = gemma2.Block
FAMILY = Family(glm.Config, WEIGHTS, Block)
