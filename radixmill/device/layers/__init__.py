"""The blocks that models are made of. Built once from a Build, called with activations and a ForwardBatch."""

from __future__ import annotations

from radixmill.device.layers.attention import Attention, AttentionShape
from radixmill.device.layers.batch import ForwardBatch
from radixmill.device.layers.build import Build, Part, Parts, Tensors
from radixmill.device.layers.embed import Embedding, Head
from radixmill.device.layers.linear import Linear
from radixmill.device.layers.mla import MLA, LatentShape
from radixmill.device.layers.mlp import MLP
from radixmill.device.layers.moe import MoEShape, SparseMoE
from radixmill.device.layers.norm import LayerNorm, Norm
from radixmill.device.layers.rope import Growth, Rope, RopeSpec

__all__ = [
    "MLA",
    "MLP",
    "Attention",
    "AttentionShape",
    "Build",
    "Embedding",
    "ForwardBatch",
    "Growth",
    "Head",
    "LatentShape",
    "LayerNorm",
    "Linear",
    "MoEShape",
    "Norm",
    "Part",
    "Parts",
    "Rope",
    "RopeSpec",
    "SparseMoE",
    "Tensors",
]
