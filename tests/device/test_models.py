"""Model files without torch: which keys and tensors are taken, which are refused, and by what words."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import KVShape, Routing, Stored
from radixmill.device.kernels.reference import ReferenceOps
from radixmill.device.layers import Build, Norm, Part, RopeSpec
from radixmill.device.layers.rope import Linear, Llama3, Yarn, tables
from radixmill.device.models import FAMILIES, Decoder, family
from tests.data import ROOT
from tests.device import tiny_models
from tests.device.model_kit import ArrayCheckpoint, Driver, build, dummy, shapes
from tests.device.published import CONFIGS, published, read

TINY = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def tiny(**more: Any) -> ArrayCheckpoint:
    """The tiny Llama with random weights, as arrays that a test may change."""
    hf = {**TINY, **more}
    made = dummy(hf)
    arrays = {n: made.vector(n) if n.endswith(("norm.weight", ".bias")) else made.stored(n).data for n in made.names}
    return ArrayCheckpoint(hf, arrays)


@pytest.mark.parametrize("name", CONFIGS)
def test_published_configs_are_read_whole(name: str) -> None:
    config = published(name)
    assert config.heads % config.kv_heads == 0
    assert len(config.windows) == config.layers


def test_what_the_published_configs_say() -> None:
    assert published("SmolLM2-135M-Instruct").rope == RopeSpec(100_000.0)
    assert published("SmolLM2-135M-Instruct").head_dim == 64
    assert published("Llama-3.1-8B").rope == RopeSpec(500_000.0, Llama3(8.0, 1.0, 4.0, 8192))
    assert published("Llama-3.1-8B").context == 131_072
    assert published("Mistral-7B-v0.1").windows == (4096, 4096)
    assert set(published("Qwen2.5-0.5B").windows) == {None}
    assert published("Qwen2.5-0.5B").biased == {"q", "k", "v"}
    assert published("Qwen3-0.6B").head_dim == 128
    gemma2 = published("gemma-2-2b")
    assert gemma2.windows[:3] == (4096, None, 4096)
    assert (gemma2.softcap, gemma2.logit_softcap, gemma2.tied, gemma2.scale) == (50.0, 30.0, True, 1 / 16)
    big = published("gemma-3-4b-it")
    assert (big.heads, big.kv_heads, big.head_dim, big.vocab, big.context) == (8, 4, 256, 262_208, 131_072)
    assert big.windows[4:7] == (1024, None, 1024)
    assert big.attention(0).rope == RopeSpec(10_000.0)
    assert big.attention(5).rope == RopeSpec(1e6, Linear(8.0))


def test_what_the_published_configs_of_mixtures_say() -> None:
    mixtral: Any = published("Mixtral-8x7B-v0.1")
    assert mixtral.routing == Routing(8, 2, "softmax", renormalise=True)
    assert (mixtral.expert_inner, mixtral.dense, mixtral.rope.theta) == (14336, frozenset(), 1e6)
    qwen2: Any = published("Qwen1.5-MoE-A2.7B")
    assert qwen2.routing == Routing(60, 4, "softmax", renormalise=False)
    assert (qwen2.shared_inner, qwen2.shared_gate, set(qwen2.windows)) == (5632, True, {None})
    assert published("Qwen3-30B-A3B").routing == Routing(128, 8, "softmax", renormalise=True)  # type: ignore[attr-defined]
    glm: Any = published("GLM-4.5-Air")
    assert (glm.turned, glm.interleaved, glm.dense, glm.head_norms) == (64, False, {0}, False)
    assert glm.routing == Routing(128, 8, "sigmoid", renormalise=True, group_score="top2")
    oss: Any = published("gpt-oss-20b")
    assert (oss.activation, oss.sinks, oss.windows[:3], oss.context) == ("clamped", True, (128, None, 128), 131_072)
    assert oss.rope == RopeSpec(150_000.0, Yarn(32.0, 4096, truncate=False))
    assert {"router", "experts_gate_up", "experts_down", "out"} <= oss.biased
    minimax: Any = published("MiniMax-M2")
    assert (minimax.turned, minimax.routing.score, minimax.biased_choice) == (64, "sigmoid", True)
    ernie: Any = published("ERNIE-4.5-21B-A3B-PT")
    assert (ernie.interleaved, ernie.shared_inner, ernie.dense) == (True, 3072, {0})
    granite: Any = published("granite-3.0-1b-a400m")
    assert (granite.scale, granite.logit_scale, granite.residual_scale) == (1 / 64, 1 / 6, 0.22)


def test_yarn_stretches_the_context() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert read({**CONFIGS["Qwen2.5-0.5B"], "rope_scaling": yarn}).context == 131_072


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mystery": 1, "enigma": 2}, "enigma, mystery"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, "'ntk'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0, "alpha": 1000.0}}, "alpha"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 32}}, "original_max"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "short_factor": [1]}}, "short_factor"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": -1}}, "factor"),
        ({"rope_scaling": "yarn"}, "'yarn'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_act": "relu"}, "relu"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"head_dim": 5}, "head_dim is 5"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"sliding_window": 128}, "sliding_window"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"architectures": ["Qwen2ForCausalLM"], "layer_types": ["linear_attention"] * 2}, "linear_attention"),
        ({"architectures": ["Qwen2ForCausalLM"], "layer_types": ["full_attention"]}, "1 entries for 2 layers"),
        ({"architectures": ["Gemma3ForCausalLM"], "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"architectures": ["Gemma3ForCausalLM"], "rope_parameters": {"rope_type": "linear"}}, "rope_type"),
        ({"architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": 5.0}, "only null is"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": 3}, "text_config"),
        ({"architectures": ["BambooForCausalLM"]}, "BambooForCausalLM"),
        ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 1}, "2 experts of 1 are to be chosen"),
        ({"architectures": ["Glm4MoeForCausalLM"], "n_group": 3}, "128 experts in 3 groups"),
        ({"architectures": ["Glm4MoeForCausalLM"], "n_group": 4, "topk_group": 5}, "of which 5 are chosen"),
        ({"architectures": ["Glm4MoeForCausalLM"], "n_routed_experts": 8, "n_group": 8}, "in 8 groups"),
        ({"architectures": ["Glm4MoeForCausalLM"], "first_k_dense_replace": -1}, "first_k_dense_replace"),
        ({"architectures": ["Glm4MoeForCausalLM"], "head_dim": 4, "partial_rotary_factor": 0.25}, "turns 1 of a head's 4 numbers"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "mlp_only_layers": 2}, "mlp_only_layers"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "use_qk_norm": False}, "use_qk_norm"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size"),
        ({"architectures": ["GptOssForCausalLM"], "swiglu_limit": 9.0}, "swiglu_limit"),
        ({"architectures": ["OlmoeForCausalLM"], "clip_qkv": 8.0}, "clip_qkv"),
        ({"architectures": ["Ernie4_5_MoeForCausalLM"], "moe_layer_interval": 0}, "moe_layer_interval"),
        ({"architectures": ["MiniMaxM2ForCausalLM"], "attn_type_list": [1, 0]}, "attn_type_list"),
        ({"architectures": None}, "none named"),
    ],
)  # fmt: skip
def test_what_we_do_not_know_is_refused_by_name(more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadModel, match=words):
        read({**TINY, **more})


def test_unknown_keys_can_be_allowed() -> None:
    assert read({**TINY, "mystery": 1}, allow_unknown=True) == read(TINY)


ROPES = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
}


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_unknown_keys_can_be_allowed_in_a_rope(key: str, kind: str) -> None:
    known, more = ROPES[kind], {"extrapolation_factor": 1, "mrope_section": [1, 1]}
    with pytest.raises(BadModel, match="extrapolation_factor, mrope_section"):
        read({**TINY, key: {**known, **more}})
    assert read({**TINY, key: {**known, **more}}, allow_unknown=True) == read({**TINY, key: known})


def test_unknown_keys_can_be_allowed_in_each_of_two_ropes() -> None:
    whole = {**CONFIGS["gemma-3-4b-it"], "text_config": {**CONFIGS["gemma-3-4b-it"]["text_config"]}}
    whole["text_config"]["rope_parameters"] = {"sliding_attention": {"mystery": 1}}
    with pytest.raises(BadModel, match="text_config, rope parameters has keys that we do not know: mystery"):
        read(whole)
    assert read(whole, allow_unknown=True) == published("gemma-3-4b-it")


def test_of_two_dictionaries_of_a_rope_one_says_all() -> None:
    both = {**CONFIGS["DeepSeek-V3"], "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}
    assert read(both) == published("DeepSeek-V3")
    old = {**CONFIGS["DeepSeek-V3"]}
    new = {**old, "rope_parameters": old["rope_scaling"], "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert read(new).scale == 192**-0.5 and read(new).rope.scaling == Linear(2.0)


def test_a_dynamic_rope_is_plain_as_long_as_the_model_was_made_for() -> None:
    assert read({**TINY, "rope_scaling": {"type": "dynamic", "factor": 6.0}}) == read(TINY)


def test_phi3_calls_its_long_rope_by_other_names() -> None:
    hf = tiny_models.config("phi3")
    for name in ("su", "yarn"):
        assert read({**hf, "rope_scaling": {**hf["rope_scaling"], "type": name}}) == read(hf)


def test_an_unknown_architecture_is_told_what_there_is() -> None:
    with pytest.raises(BadModel, match="LlamaForCausalLM"):
        family({"architectures": ["BambooForCausalLM"]})


def test_every_architecture_has_a_tiny_model() -> None:
    assert set(FAMILIES) == {architecture for _, architecture, _ in tiny_models.MODELS.values()}


@pytest.mark.parametrize("more", [{}, {"tie_word_embeddings": False}, {"attention_bias": True}], ids=str)
@pytest.mark.parametrize("name", tiny_models.MODELS)
def test_every_family_wants_the_tensors_that_its_models_have(name: str, more: dict[str, Any]) -> None:
    hf = tiny_models.config(name, **more)
    try:
        config = read(hf)
    except BadModel:
        pytest.skip(f"{name} has no {next(iter(more))}")
    family(hf).weights.check(config, dummy(hf).names)


def test_missing_and_unused_tensors_are_named() -> None:
    names = tiny().names
    check = family(TINY).weights.check
    with pytest.raises(BadModel, match=r"lack tensors model\.layers\.1\.mlp\.up_proj\.weight, model\.norm\.weight"):
        check(read(TINY), names - {"model.norm.weight", "model.layers.1.mlp.up_proj.weight"})
    with pytest.raises(BadModel, match=r"hold tensor model\.layers\.0\.self_attn\.q_proj\.bias that"):
        check(read(TINY), names | {"model.layers.0.self_attn.q_proj.bias"})
    with pytest.raises(BadModel, match=r"lm_head\.weight"):
        check(read(TINY), names - {"lm_head.weight"})
    with pytest.raises(BadModel, match="and 10 more"):
        check(read(TINY), {n for n in names if ".layers." not in n})


def test_some_tensors_may_lie_there_unused() -> None:
    names = tiny().names | {"model.layers.0.self_attn.rotary_emb.inv_freq"}
    family(TINY).weights.check(read(TINY), names)
    family(TINY).weights.check(read({**TINY, "tie_word_embeddings": True}), names)


def test_layers_after_the_last_may_lie_there_unused() -> None:
    hf = tiny_models.config("glm4-moe")
    check, names = family(hf).weights.check, dummy(hf).names
    extra = "model.layers.2.eh_proj.weight"
    assert check(read(hf), names | {extra}) == (extra,)
    with pytest.raises(BadModel, match=r"layers\.3"):
        check(read(hf), names | {"model.layers.3.eh_proj.weight"})
    with pytest.raises(BadModel, match=r"layers\.2"):
        check(read({**hf, "num_nextn_predict_layers": 0}), names | {extra})


def test_a_tensor_of_another_shape_is_named() -> None:
    checkpoint = tiny()
    checkpoint.arrays["model.layers.1.mlp.down_proj.weight"] = np.zeros((16, 23), np.float32)  # type: ignore[index]
    with pytest.raises(BadModel, match=r"model\.layers\.1\.mlp\.down_proj\.weight has shape \[16, 23\]"):
        build(checkpoint, ReferenceOps("exact"))


@pytest.mark.parametrize(
    "name", [name for name, (_, _, more) in tiny_models.MODELS.items() if "sliding_window" in more]
)
def test_a_window_that_is_never_full_is_none(name: str) -> None:
    """A rope of windowed layers stays theirs, and layers that do not turn stay so."""
    hf = tiny_models.config(name, sliding_window=24)
    ids = [[(7 * i + 3) % 64 for i in range(24)]]
    gone, there = (build(dummy(hf), ReferenceOps("exact"), positions) for positions in (24, 25))
    assert set(gone.config.windows) == {None} and 24 in there.config.windows
    (got,), (want,) = Driver(gone).run(ids, [[24]]), Driver(there).run(ids, [[24]])
    assert np.array_equal(got, want)
    assert gone.config.settled(24) == gone.config


def test_a_tied_model_packs_its_table_once() -> None:
    model = build(tiny(tie_word_embeddings=True), ReferenceOps("exact"))
    assert model.head.weight is model.embed.weight


class Mixed(ArrayCheckpoint):
    """Stores every other product in half precision, values unchanged."""

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        wide = super().stored(name, shape)
        half = name.split(".")[-2] in ("up_proj", "v_proj")
        return Stored("F16", wide.shape, wide.data.astype(np.float16)) if half else wide


def test_stacked_tensors_of_two_kinds_keep_their_kinds() -> None:
    plain = tiny()
    for values in plain.arrays.values():
        values[...] = values.astype(np.float16)  # so that half precision holds them
    mixed = Mixed(plain.config, plain.arrays)
    ops, ids = ReferenceOps("exact"), [[3, 1, 4, 1, 5]]
    builder = Build(ops, mixed, 64)
    model = Decoder(builder, family(TINY), read(TINY), mixed.names)
    assert builder.notes == ()
    assert builder.nbytes > 0
    (got,), (want,) = Driver(model).run(ids, [[5]]), Driver(build(plain, ops)).run(ids, [[5]])
    assert np.array_equal(got, want)


def test_norms_that_include_their_one_are_not_given_another() -> None:
    ops, values = ReferenceOps("exact"), np.array([0.5, -0.25], np.float32)
    x = np.array([[3.0, 4.0]], np.float32)

    def norm(stored: np.ndarray, includes: bool, plus_one: bool) -> Any:
        checkpoint = ArrayCheckpoint({}, {"n.weight": stored}, norms_include_one=includes)
        return Norm(Build(ops, checkpoint, 1), Part(("n",)), 2, 1e-6, plus_one=plus_one)(x)

    assert np.array_equal(norm(values, False, True), norm(values + 1, True, True))
    assert np.array_equal(norm(values, False, True), norm(values + 1, False, False))


def test_rope_turns_each_pair_by_its_frequency() -> None:
    cos, sin = tables(RopeSpec(100.0), 4, 50)
    angles = np.arange(50)[:, None] * np.array([1.0, 0.1])
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-5)


@pytest.mark.parametrize("scaling", [Linear(4.0), Llama3(4.0, 1.0, 4.0, 64), Yarn(4.0, 64, attention_factor=1.0)])
def test_scalings_keep_fast_pairs_and_stretch_slow_ones(scaling: Any) -> None:
    base = 10_000.0 ** (-np.arange(0, 64, 2) / 64)
    scaled = scaling.frequencies(base, 10_000.0)
    assert scaled[-1] == pytest.approx(base[-1] / 4)
    assert scaled[0] == pytest.approx(base[0] / (4 if isinstance(scaling, Linear) else 1))
    assert (np.diff(scaled) <= 0).all()
    assert ((scaled <= base * (1 + 1e-12)) & (scaled >= base / 4 * (1 - 1e-12))).all()


def test_only_what_matters_makes_two_configs_differ() -> None:
    assert read({**TINY, "initializer_range": 1.0, "use_cache": False}) == read(TINY)
    assert replace(read(TINY), eps=1.0) != read(TINY)


def test_the_page_about_adding_a_model_shows_code_that_is_there() -> None:
    page = (ROOT / "docs" / "add-a-model.md").read_text()
    shown = re.findall(r"```python\n(.*?)```", page, re.S)
    there = "".join(path.read_text() for path in (ROOT / "radixmill" / "device" / "models").glob("*.py"))
    assert shown
    assert [block for block in shown if block not in there] == []


def test_a_tensor_left_in_the_file_is_noted() -> None:
    checkpoint = tiny(tie_word_embeddings=True)
    head = {"lm_head.weight": np.zeros((31, 16), np.float32)}
    builder = Build(ReferenceOps("exact"), checkpoint, 8)
    names = checkpoint.names | set(head)
    Decoder(builder, family(TINY), read(checkpoint.config), names)
    assert builder.notes == ("not loaded: tensor lm_head.weight",)


def test_what_the_latent_configs_say() -> None:
    v2, lite, v3 = (published(f"DeepSeek-{name}") for name in ("V2", "V2-Lite", "V3"))
    kimi, moonlight = published("Kimi-K2-Instruct"), published("Moonlight-16B-A3B")
    assert v2.kv(0) == v3.kv(60) == KVShape(1, 576, 512, latent=True)
    assert v2.routing == Routing(160, 6, "softmax", False, 16.0, 8, 3)
    assert lite.routing == Routing(64, 6, "softmax", False)
    assert v3.routing == Routing(256, 8, "sigmoid", True, 2.5, 8, 4, "top2")
    assert kimi.routing == Routing(384, 8, "sigmoid", True, 2.827, 1, 1, "top2")
    assert moonlight.routing == Routing(64, 6, "sigmoid", True, 2.446, 1, 1, "top2")
    assert (v2.q_rank, lite.q_rank, v3.q_rank, moonlight.q_rank) == (1536, 0, 1536, 0)
    assert (v2.dense, v3.dense, kimi.dense) == (frozenset({0}), frozenset({0, 1, 2}), frozenset({0}))
    assert (v2.shared_inner, v3.shared_inner, v3.context, kimi.context) == (3072, 2048, 163_840, 131_072)
    assert v3.scale == pytest.approx(192**-0.5 * 1.3688879**2) and moonlight.scale == 192**-0.5
    assert v3.latent(0).turn == RopeSpec(10_000.0, Yarn(40.0, 4096, 32.0, 1.0, attention_factor=1.0))
    assert (v3.spare_layers, kimi.spare_layers) == (1, 0)
    assert published("GLM-4.7-Flash").dense == {0}
    bare = {
        key: value for key, value in CONFIGS["GLM-4.7-Flash"].items() if key not in ("v_head_dim", "qk_nope_head_dim")
    }
    assert read(bare) == published("GLM-4.7-Flash")


@pytest.mark.parametrize(
    ("name", "billions"),
    [("DeepSeek-V2", 235.7), ("DeepSeek-V2-Lite", 15.7), ("DeepSeek-V3", 671.0), ("Moonlight-16B-A3B", 16.0)],
)
def test_latent_models_have_as_many_weights_as_their_papers_say(name: str, billions: float) -> None:
    assert sum(prod(shape) for shape in shapes(CONFIGS[name]).values()) / 1e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("DeepSeek-V2", {"topk_method": "noaux_tc"}, "topk_method = 'noaux_tc'"),
        ("DeepSeek-V2", {"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'"),
        ("DeepSeek-V2", {"norm_topk_prob": True}, "norm_topk_prob with a routed_scaling_factor of 16.0"),
        ("DeepSeek-V2", {"n_group": 7}, "160 experts in 7 groups"),
        ("DeepSeek-V2", {"num_key_value_heads": 8}, "num_key_value_heads = 8"),
        ("DeepSeek-V2", {"qk_rope_head_dim": 63}, "head_dim is 63"),
        ("DeepSeek-V3", {"scoring_func": "softmax"}, "scoring_func = 'softmax'"),
        ("DeepSeek-V3", {"n_group": 256}, "256 experts in 256 groups"),
        ("DeepSeek-V3", {"num_experts_per_tok": 200}, "200 experts of 128"),
        ("DeepSeek-V3", {"first_k_dense_replace": -1}, "first_k_dense_replace is -1"),
        ("DeepSeek-V3", {"moe_layer_freq": 0}, "moe_layer_freq is 0"),
        ("DeepSeek-V3", {"mlp_bias": True}, "mlp_bias"),
        ("DeepSeek-V3", {"num_nextn_predict_layers": -1}, "num_nextn_predict_layers"),
        ("GLM-4.7-Flash", {"num_nextn_predict_layers": "1"}, "num_nextn_predict_layers"),
        ("GLM-4.7-Flash", {"mlp_layer_types": ["dense"]}, "mlp_layer_types"),
    ],
)
def test_what_latent_configs_may_not_say(name: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadModel, match=words):
        read({**CONFIGS[name], **more})
