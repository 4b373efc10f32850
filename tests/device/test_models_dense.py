"""Dense families: what their published configurations say, what they may not, and the ropes that are theirs alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from radixmill.core.errors import BadModel
from radixmill.device.kernels.reference import ReferenceOps
from radixmill.device.layers import Growth, RopeSpec
from radixmill.device.layers.rope import Divided, Llama3, LongRope, Yarn, tables
from tests.device import tiny_models
from tests.device.model_kit import build, dummy
from tests.device.published import CONFIGS, published, read


def test_what_phi_says() -> None:
    mini, small, whole = published("Phi-4-mini-instruct"), published("Phi-3-mini-4k-instruct"), published("phi-4")
    assert (mini.turned, mini.head_dim, mini.context, mini.tied) == (96, 128, 131_072, True)
    long = mini.rope.scaling
    assert isinstance(long, LongRope)
    assert (len(long.short.factors), len(long.long.factors), long.original) == (48, 48, 4096)
    assert long.short.magnitude == long.long.magnitude == pytest.approx((1 + np.log(32) / np.log(4096)) ** 0.5)
    assert set(small.windows) == {2047}
    assert (whole.rope, whole.turned, whole.windows[0]) == (RopeSpec(250_000.0), None, None)


def test_what_olmo_says() -> None:
    two, three = published("OLMo-2-1124-7B"), published("Olmo-3-7B-Instruct")
    assert (two.rope, set(two.windows)) == (RopeSpec(500_000.0), {None})
    assert three.windows[:4] == (4096, 4096, 4096, None)
    assert three.attention(0).rope == RopeSpec(500_000.0)
    assert three.attention(3).rope == RopeSpec(500_000.0, Yarn(8.0, 8192, attention_factor=1.2079441541679836))
    assert three.context == 65_536


def test_what_cohere_says() -> None:
    first, second = published("c4ai-command-r-v01"), published("c4ai-command-r7b-12-2024")
    assert (first.context, first.logit_scale, first.eps, first.tied) == (131_072, 0.0625, 1e-5, True)
    assert (second.windows[:4], second.attention(3).rope) == ((4096, 4096, 4096, None), None)
    assert (second.attention(0).rope, second.logit_scale) == (RopeSpec(50_000.0), 0.25)
    assert first.interleaved and first.layer_norms and not first.head_norms


def test_what_the_others_say() -> None:
    granite, smol = published("granite-3.3-8b-instruct"), published("SmolLM3-3B")
    assert (granite.scale, granite.embed_scale, granite.residual_scale) == (0.0078125, 12.0, 0.22)
    assert granite.logit_scale == 1 / 16
    assert smol.unturned == frozenset(range(3, 36, 4))
    assert (smol.tied, smol.attention(3).rope, smol.attention(4).rope) == (True, None, RopeSpec(5e6))
    nine, big = published("glm-4-9b-chat-hf"), published("GLM-4-32B-0414")
    assert (nine.turned, nine.biased, nine.eps) == (64, {"q", "k", "v"}, 1.5625e-7)
    assert (big.turned, big.biased, big.interleaved) == (64, frozenset(), True)
    gemma, mistral = published("gemma-2b"), published("Mistral-Small-3.1-24B-Instruct-2503")
    assert (gemma.activation, gemma.tied, gemma.embed_scale) == ("gelu_tanh", True, 2048**0.5)
    assert (mistral.tied, mistral.head_dim, mistral.rope, mistral.windows[0]) == (False, 128, RopeSpec(1e9), None)
    exaone = published("EXAONE-4.0-32B")
    assert exaone.windows[2:4] == (4096, None)
    assert exaone.attention(2).rope == RopeSpec(1e6, Llama3(16.0, 1.0, 4.0, 8192))
    assert exaone.attention(3).rope is None
    assert published("Seed-OSS-36B-Instruct").biased == {"q", "k", "v"}
    assert (published("ERNIE-4.5-0.3B-PT").head_dim, published("helium-1-2b").eps) == (128, 1e-8)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("Phi-4-mini-instruct", {"lm_head_bias": True}, "lm_head_bias"),
        ("Phi-4-mini-instruct", {"partial_rotary_factor": 1.5}, "turns 192 of a head's 128"),
        ("phi-4", {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": "x"}}, "long_factor is 'x'"),
        ("phi-4", {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [-1]}}, "not a list of positive"),
        ("OLMo-2-1124-7B", {"clip_qkv": 8.0}, "clip_qkv"),
        ("Olmo-3-7B-Instruct", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type"),
        ("SmolLM3-3B", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("SmolLM3-3B", {"no_rope_layers": [1, 2] * 18}, "no_rope_layers"),
        ("c4ai-command-r7b-12-2024", {"position_embedding_type": "rope_neox"}, "position_embedding_type"),
        ("c4ai-command-r7b-12-2024", {"layer_switch": 3}, "layer_switch"),
        ("c4ai-command-r7b-12-2024", {"use_qk_norm": True}, "use_qk_norm"),
        ("gemma-2b", {"hidden_act": "silu"}, "hidden_act"),
        ("EXAONE-4.0-32B", {"sliding_window_pattern": "LLX"}, "sliding_window_pattern"),
        ("Mistral-Small-3.1-24B-Instruct-2503", {"text_config": 3}, "text_config is 3"),
        ("granite-3.3-8b-instruct", {"residual_multiplier": 0}, "residual_multiplier"),
    ],
)  # fmt: skip
def test_what_they_may_not_say(name: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadModel, match=words):
        read({**CONFIGS[name], **more})


def test_a_vision_model_may_say_outside_that_it_is_tied() -> None:
    hf = CONFIGS["Mistral-Small-3.1-24B-Instruct-2503"]
    assert read({**hf, "tie_word_embeddings": True}).tied


def test_queries_grow_in_the_third_ministral_alone() -> None:
    third = read({**CONFIGS["Mistral-Small-3.1-24B-Instruct-2503"], "text_config": {
        "model_type": "ministral3", "hidden_size": 3072, "intermediate_size": 9216, "num_attention_heads": 32,
        "num_hidden_layers": 26, "vocab_size": 131_072,
    }})  # fmt: skip
    assert (third.growth, third.head_dim, third.context) == (Growth(0.1, 16_384), 128, 262_144)
    assert third.rope == RopeSpec(1e6, Yarn(16.0, 16_384, attention_factor=1.0))
    assert published("Mistral-7B-v0.1").growth is None
    with pytest.raises(BadModel, match="llama_4_scaling_beta"):
        read({**CONFIGS["Mistral-7B-v0.1"], "rope_parameters": {"llama_4_scaling_beta": 0.1}})


def test_letters_tell_where_windows_are() -> None:
    hf = {**CONFIGS["EXAONE-4.0-32B"], "layer_types": None}
    assert read(hf).windows == published("EXAONE-4.0-32B").windows
    assert read({**hf, "sliding_window_pattern": 4}).windows == read(hf).windows
    assert read({**hf, "sliding_window_pattern": "LG"}).windows[:4] == (4096, None, 4096, None)


SHORT, LONG = Divided((1.0, 1.5), 1.25), Divided((2.0, 8.0), 1.5)


def test_a_long_rope_is_chosen_by_the_longest_sequence() -> None:
    spec = RopeSpec(100.0, LongRope(SHORT, LONG, 16))
    for positions, chosen in ((16, SHORT), (17, LONG)):
        cos, sin = tables(spec, 4, positions)
        angles = np.arange(positions)[:, None] * np.array([1.0, 0.1]) / np.array(chosen.factors)
        np.testing.assert_allclose(cos, np.cos(angles) * chosen.magnitude, atol=1e-5)
        np.testing.assert_allclose(sin, np.sin(angles) * chosen.magnitude, atol=1e-5)
        assert spec.settled(positions) == RopeSpec(100.0, chosen)


def test_a_model_knows_which_rope_it_was_opened_with() -> None:
    """So that its numerics id does, too."""
    hf = {**tiny_models.config("phi3"), "original_max_position_embeddings": 32}
    short, same, long = (build(dummy(hf), ReferenceOps("exact"), n).config for n in (16, 32, 33))
    assert asdict(short) == asdict(same) != asdict(long)


def test_factors_are_as_many_as_pairs() -> None:
    with pytest.raises(BadModel, match="2 factors for the 3 pairs"):
        tables(RopeSpec(100.0, LongRope(SHORT, LONG, 16)), 6, 8)
