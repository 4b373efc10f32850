"""GGUF's architectures: metadata and names of tensors → Hugging Face's words. A family is an entry of the table here.

Keys as llama.cpp's converters write them (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A key of the
architecture that means nothing to us is passed on under its own name, so that who reads the configuration refuses it by
name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from radixmill.device.loader.gguf_families import dense, mixtures
from radixmill.device.loader.gguf_families.common import Words
from radixmill.device.loader.gguf_families.keys import Metadata, shortest
from radixmill.device.loader.gguf_families.names import DENSE, EXPERTS, Names

__all__ = ["FAMILIES", "GGUFFamily", "Metadata", "Words", "shortest"]


@dataclass(frozen=True)
class GGUFFamily:
    """One architecture."""

    words: Callable[[Metadata], Words]
    names: Names
    interleaved: bool = False  # rows of queries and keys: those that turn together are neighbours in the file alone
    norms_include_one: bool = False  # norms are stored as 1 + w


FAMILIES: Mapping[str, GGUFFamily] = {
    "command-r": GGUFFamily(dense.cohere, DENSE),
    "cohere2": GGUFFamily(dense.cohere2, DENSE),
    "deepseek2": GGUFFamily(mixtures.deepseek2, mixtures.DEEPSEEK2),
    "dots1": GGUFFamily(mixtures.dots1, mixtures.DOTS1),
    "ernie4_5-moe": GGUFFamily(mixtures.ernie4_5_moe, mixtures.ERNIE4_5_MOE),
    "gemma": GGUFFamily(dense.gemma, DENSE, norms_include_one=True),
    "gemma2": GGUFFamily(dense.gemma2, dense.GEMMA, norms_include_one=True),
    "gemma3": GGUFFamily(dense.gemma3, dense.GEMMA, norms_include_one=True),
    "glm4": GGUFFamily(dense.glm4, dense.GLM4),
    "glm4moe": GGUFFamily(mixtures.glm4moe, mixtures.GLM4MOE),
    "gpt-oss": GGUFFamily(mixtures.gpt_oss, mixtures.GPT_OSS),
    "granite": GGUFFamily(dense.granite, DENSE, interleaved=True),
    "granitemoe": GGUFFamily(mixtures.granitemoe, mixtures.GRANITEMOE, interleaved=True),
    "llama": GGUFFamily(dense.llama, EXPERTS, interleaved=True),
    "minimax-m2": GGUFFamily(mixtures.minimax_m2, mixtures.MINIMAX_M2),
    "olmo2": GGUFFamily(dense.olmo2, dense.OLMO2),
    "olmoe": GGUFFamily(mixtures.olmoe, EXPERTS),
    "phi3": GGUFFamily(dense.phi3, dense.PHI3),
    "qwen2": GGUFFamily(dense.qwen2, DENSE),
    "qwen2moe": GGUFFamily(mixtures.qwen2moe, mixtures.QWEN2MOE),
    "qwen3": GGUFFamily(dense.qwen3, DENSE),
    "qwen3moe": GGUFFamily(mixtures.qwen3moe, EXPERTS),
    "smollm3": GGUFFamily(dense.smollm3, DENSE, interleaved=True),
}
