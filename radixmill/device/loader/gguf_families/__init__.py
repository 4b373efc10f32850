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
    """One architecture. `models`: those of Hugging Face's that it stands for, without `ForCausalLM`."""

    models: tuple[str, ...]
    words: Callable[[Metadata], Words]
    names: Names
    interleaved: bool = False  # rows of queries and keys: those that turn together are neighbours in the file alone
    norms_include_one: bool = False  # norms are stored as 1 + w


FAMILIES: Mapping[str, GGUFFamily] = {
    "command-r": GGUFFamily(("Cohere",), dense.cohere, DENSE),
    "cohere2": GGUFFamily(("Cohere2",), dense.cohere2, DENSE),
    "deepseek2": GGUFFamily(
        ("DeepseekV2", "DeepseekV3", "Glm4MoeLite", "Youtu"), mixtures.deepseek2, mixtures.DEEPSEEK2
    ),
    "dots1": GGUFFamily(("Dots1",), mixtures.dots1, mixtures.DOTS1),
    "ernie4_5": GGUFFamily(("Ernie4_5",), dense.ernie4_5, DENSE),
    "ernie4_5-moe": GGUFFamily(("Ernie4_5_Moe",), mixtures.ernie4_5_moe, mixtures.ERNIE4_5_MOE),
    "exaone4": GGUFFamily(("Exaone4",), dense.exaone4, dense.OLMO2),
    "gemma": GGUFFamily(("Gemma",), dense.gemma, DENSE, norms_include_one=True),
    "gemma2": GGUFFamily(("Gemma2",), dense.gemma2, dense.GEMMA, norms_include_one=True),
    "gemma3": GGUFFamily(("Gemma3",), dense.gemma3, dense.GEMMA, norms_include_one=True),
    "glm4": GGUFFamily(("Glm4",), dense.glm4, dense.GLM4),
    "glm4moe": GGUFFamily(("Glm4Moe",), mixtures.glm4moe, mixtures.GLM4MOE),
    "gpt-oss": GGUFFamily(("GptOss",), mixtures.gpt_oss, mixtures.GPT_OSS),
    "granite": GGUFFamily(("Granite",), dense.granite, DENSE, interleaved=True),
    "granitemoe": GGUFFamily(
        ("GraniteMoe", "GraniteMoeShared"), mixtures.granitemoe, mixtures.GRANITEMOE, interleaved=True
    ),
    "llama": GGUFFamily(("Llama", "Mistral", "Mixtral"), dense.llama, EXPERTS, interleaved=True),
    "minimax-m2": GGUFFamily(("MiniMaxM2",), mixtures.minimax_m2, mixtures.MINIMAX_M2),
    "mistral3": GGUFFamily(("Llama", "Mistral"), dense.llama, DENSE, interleaved=True),
    "olmo2": GGUFFamily(("Olmo2", "Olmo3"), dense.olmo2, dense.OLMO2),
    "olmoe": GGUFFamily(("Olmoe",), mixtures.olmoe, EXPERTS),
    "phi3": GGUFFamily(("Phi3",), dense.phi3, dense.PHI3),
    "qwen2": GGUFFamily(("Qwen2",), dense.qwen2, DENSE),
    "qwen2moe": GGUFFamily(("Qwen2Moe",), mixtures.qwen2moe, mixtures.QWEN2MOE),
    "qwen3": GGUFFamily(("Qwen3",), dense.qwen3, DENSE),
    "qwen3moe": GGUFFamily(("Qwen3Moe",), mixtures.qwen3moe, EXPERTS),
    "seed_oss": GGUFFamily(("SeedOss",), dense.seed_oss, dense.SEED_OSS),
    "smollm3": GGUFFamily(("SmolLM3",), dense.smollm3, DENSE, interleaved=True),
}
