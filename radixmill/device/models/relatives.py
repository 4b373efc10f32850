"""Seed-OSS, ERNIE 4.5 and Helium: the Llama block under other names, with other numbers where a file leaves them out.

Sources: the cards of ByteDance-Seed/Seed-OSS-36B-Instruct and kyutai/helium-1-2b; Baidu, ERNIE 4.5 Technical Report, 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from radixmill.device.models import llama
from radixmill.device.models.decoder import DecoderConfig, Family
from radixmill.device.models.keys import Keys, attention_biases, dimensions, llama_biases, rope, stretched


@dataclass(frozen=True)
class Relative:
    """What differs from Llama."""

    positions: int
    theta: float
    biases: Callable[[Keys], frozenset[str]] = llama_biases
    interleaved: bool = False
    sizes: Mapping[str, Any] = field(default_factory=dict)


def _seed_biases(keys: Keys) -> frozenset[str]:
    keys.inert("residual_dropout")
    inner = {"gate_up", "down"} if keys.flag("mlp_bias", False) else set()
    inner |= {"out"} if keys.flag("attention_out_bias", False) else set()
    return attention_biases(keys, True, "qkv") | inner


def _ernie_biases(keys: Keys) -> frozenset[str]:
    return frozenset(("q", "k", "v", "out", "gate_up", "down") if keys.flag("use_bias", False) else ())


def _helium_biases(keys: Keys) -> frozenset[str]:
    return llama_biases(keys) - {"out"}


RELATIVES = {
    "SeedOssForCausalLM": Relative(
        524_288, 10_000.0, _seed_biases, sizes={"num_key_value_heads": 8, "head_dim": 128}
    ),
    "Ernie4_5ForCausalLM": Relative(
        131_072, 500_000.0, _ernie_biases, interleaved=True,
        sizes={"num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    ),
    "HeliumForCausalLM": Relative(
        4096, 100_000.0, _helium_biases, interleaved=True,
        sizes={"num_key_value_heads": 20, "head_dim": 128, "rms_norm_eps": 1e-8},
    ),
}  # fmt: skip
ARCHITECTURES = tuple(RELATIVES)


class Config(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, allow_unknown: bool = False) -> Self:
        keys = Keys(hf, allow_unknown=allow_unknown)
        (name,) = set(keys.get("architectures", ())) & set(RELATIVES)
        kin = RELATIVES[name]
        sizes = dimensions(keys, **kin.sizes)
        positions = keys.count("max_position_embeddings", kin.positions)
        turn = rope(keys, positions, kin.theta)
        config = cls(
            **sizes,
            context=stretched(turn, positions),
            activation=keys.activation("hidden_act", "silu"),
            rope=turn,
            interleaved=kin.interleaved,
            windows=(None,) * sizes["layers"],
            scale=sizes["head_dim"] ** -0.5,
            biased=kin.biases(keys),
        )
        keys.done()
        return config


WEIGHTS = llama.WEIGHTS
Block = llama.Block
FAMILY = Family(Config, WEIGHTS, Block)
