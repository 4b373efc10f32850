"""GGUF → Hugging Face: configuration, names, order of rows, packed blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radixmill.core.errors import BadModel
from radixmill.device.loader import open_checkpoint
from radixmill.device.loader.gguf_config import gguf_config, gguf_family
from radixmill.device.loader.gguf_families import FAMILIES, shortest
from radixmill.device.loader.gguf_places import half_order, hf_names, places
from radixmill.device.loader.llama3 import divisors
from radixmill.device.models import family
from radixmill.device.quant import widen
from radixmill.store import GGUFFile, ModelFiles, eos_ids, generation_defaults
from tests.device.gguf_kit import CONFIGS, weights, write_gguf

ROPE = {"rope_type": "default", "rope_theta": 500000.0}
Q = gguf.GGMLQuantizationType


def meaning(config: Mapping[str, Any]) -> Any:
    """What a model file understands of a configuration."""
    return family(config).config.from_hf(config)


def opened(path: Path) -> Any:
    return open_checkpoint(ModelFiles("m", path))


@pytest.mark.parametrize("quant", [Q.Q8_0, Q.Q4_1, Q.Q5_0, Q.F16, Q.BF16], ids=lambda q: q.name)
def test_packed_rows_come_in_our_order(quant: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    config, written = CONFIGS["llama"], weights(CONFIGS["llama"])
    found = opened(write_gguf(tmp_path / "m.gguf", config, written, quant))
    for name in (
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.2.self_attn.k_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
    ):
        stored = found.stored(name)
        assert stored.kind == quant.name
        rounded = gguf.quants.dequantize(gguf.quants.quantize(written[name], quant), quant)
        np.testing.assert_array_equal(widen(stored).data, rounded)


@given(st.integers(1, 6), st.integers(1, 8))
def test_row_order_undoes_the_converters(heads: int, pairs: int) -> None:
    rows = np.arange(heads * pairs * 2)
    theirs = rows.reshape(heads, 2, pairs).swapaxes(1, 2).reshape(-1)
    assert theirs[half_order(len(rows), heads)].tolist() == rows.tolist()


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma2", "gemma3"])
def test_every_tensor_of_the_packages_list_has_its_name(arch: str) -> None:
    model = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    ours = gguf.get_tensor_name_map(model, 2)
    ignored = {"rope_freqs", "attn_rot_embd", "ffn_gate_inp", "ffn_gate_exps", "ffn_down_exps", "ffn_up_exps"}
    for tensor in gguf.MODEL_TENSORS[model]:
        name = gguf.TENSOR_NAMES[tensor].format(bid=1)
        if name.split(".")[-1] not in ignored:
            for part in hf_names(f"{name}.weight", FAMILIES[arch].names):
                assert ours.get_name(part, (".weight",)) in (
                    f"{name}.weight",
                    f"{name}.weight".replace("qkv", part[-13]),
                )


def llama(tmp_path: Path, extra: Mapping[str, np.ndarray] = {}, **keys: Any) -> Path:
    config = {**CONFIGS["llama"], "head_dim": 64, "rope_parameters": ROPE, "max_position_embeddings": 131072}
    return write_gguf(
        tmp_path / "m.gguf",
        config,
        {**weights(config), **extra},
        keys={k.replace("__", "."): v for k, v in keys.items()},
    )


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        {"rope_type": "llama3", "factor": 5.0, "low_freq_factor": 1.0, "high_freq_factor": 8.0, "original_max_position_embeddings": 4096},
    ],
)  # fmt: skip
def test_llama3_scaling_is_read_back(scaling: dict[str, Any], tmp_path: Path) -> None:
    waves = 2 * np.pi * 500000.0 ** (np.arange(32) / 32)
    args = [scaling[k] for k in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")]
    freqs = divisors(waves, *args).astype(np.float32)
    found = opened(llama(tmp_path, {"rope_freqs.weight": freqs}))
    assert found.config["rope_scaling"] == scaling
    assert "rope_freqs.weight" not in found.names


def test_rope_freqs_of_another_kind_are_refused(tmp_path: Path) -> None:
    freqs = np.linspace(1, 3, 32).astype(np.float32)
    with pytest.raises(BadModel, match=r"rope_freqs\.weight is not Llama 3's"):
        opened(llama(tmp_path, {"rope_freqs.weight": freqs}))


def test_rope_freqs_of_ones_are_no_scaling(tmp_path: Path) -> None:
    assert "rope_scaling" not in opened(llama(tmp_path, {"rope_freqs.weight": np.ones(32, np.float32)})).config


def test_linear_and_yarn(tmp_path: Path) -> None:
    linear = opened(llama(tmp_path, **{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}))
    assert linear.config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    none = opened(llama(tmp_path, **{"llama.rope.scaling.type": "none"}))
    assert "rope_scaling" not in none.config
    keys = {
        "type": "yarn",
        "factor": 2.5,
        "original_context_length": 4096,
        "yarn_beta_fast": 30.0,
        "yarn_attn_factor": 1.2,
    }
    yarn = opened(llama(tmp_path, **{f"llama.rope.scaling.{k}": v for k, v in keys.items()})).config["rope_scaling"]
    assert yarn == {
        "rope_type": "yarn",
        "factor": 2.5,
        "original_max_position_embeddings": 4096,
        "beta_fast": 30.0,
        "attention_factor": 1.2,
    }
    with pytest.raises(BadModel, match="'longrope' is not supported"):
        opened(llama(tmp_path, **{"llama.rope.scaling.type": "longrope"}))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"llama.expert_count": 8, "llama.expert_used_count": 9}, "9 of 8 experts"),
        ({"llama.nextn_predict_layers": 3}, "3 of 3 layers are for predicting ahead"),
        ({"llama.attention.head_count": [4, 4, 2]}, "differs between layers"),
        ({"llama.rope.dimension_count": 8}, "only 8 of a head's 64 dimensions"),
        ({"llama.attention.value_length": 8}, "value_length is 8"),
        ({"llama.block_count": "three"}, "block_count is 'three'"),
        ({"llama.embedding_length": 0}, "embedding_length is 0"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon is nan"),
    ],
)
def test_metadata_that_we_cannot_serve(
    keys: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = GGUFFile(llama(tmp_path))
    file.metadata.update({k: np.array(v) if isinstance(v, list) else v for k, v in keys.items()})
    monkeypatch.setattr("radixmill.device.loader.gguf.GGUFFile", lambda path: file)
    with pytest.raises(BadModel, match=says):
        opened(tmp_path / "m.gguf")


def test_a_needed_key_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = GGUFFile(llama(tmp_path))
    del file.metadata["llama.embedding_length"]
    monkeypatch.setattr("radixmill.device.loader.gguf.GGUFFile", lambda path: file)
    with pytest.raises(BadModel, match=r"llama\.embedding_length is missing"):
        opened(tmp_path / "m.gguf")


def test_a_key_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    found = opened(llama(tmp_path, **{"llama.logit_scale": 0.5}))
    with pytest.raises(BadModel, match=r"llama\.logit_scale"):
        meaning(found.config)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(BadModel, match=r"architecture 'mamba' is not supported.*gemma2, gemma3, .*llama, .*qwen2, "):
        opened(tmp_path / "m.gguf")


def test_a_tensor_that_is_missing_or_has_another_shape(tmp_path: Path) -> None:
    found = opened(llama(tmp_path))
    with pytest.raises(BadModel, match=r"no tensor model\.layers\.9\.x"):
        found.stored("model.layers.9.x")
    with pytest.raises(BadModel, match=r"model\.norm\.weight has shape \[64\], but .* needs \[65\]"):
        found.vector("model.norm.weight", 65)
    with pytest.raises(BadModel, match=r"q_proj\.weight has shape \[256, 64\], but .* needs \[64, 64\]"):
        found.stored("model.layers.0.self_attn.q_proj.weight", (64, 64))
    with pytest.raises(BadModel, match="not 2 dimensions"):
        found.stored("model.norm.weight")


def test_large_gemmas_scale_queries_by_width(tmp_path: Path) -> None:
    config = {**CONFIGS["gemma2"], "num_hidden_layers": 46, "num_attention_heads": 4}
    found = opened(
        write_gguf(tmp_path / "m.gguf", config, {"model.embed_tokens.weight": np.ones((264, 64), np.float32)})
    )
    assert found.config["query_pre_attn_scalar"] == 64 // 4


@pytest.mark.parametrize(("keys", "full"), [({}, [5]), ({"gemma3.attention.sliding_window_pattern": 2}, [1, 3, 5])])
def test_window_patterns(keys: dict[str, Any], full: list[int], tmp_path: Path) -> None:
    config = CONFIGS["gemma3"]
    found = opened(write_gguf(tmp_path / "m.gguf", config, weights(config), keys=keys))
    assert [i for i, kind in enumerate(found.config["layer_types"]) if kind == "full_attention"] == full


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_shortest_decimals(value: float) -> None:
    assert np.float32(shortest(value)) == np.float32(value) and len(repr(shortest(value))) <= len(repr(value))


@pytest.mark.parametrize("value", [1e-5, 1e-6, 10000.0, 500000.0, 0.1])
def test_decimals_of_configurations_come_back(value: float) -> None:
    assert shortest(float(np.float32(value))) == value


@pytest.mark.weights
def test_the_embedded_model(smollm2: Path) -> None:
    found = open_checkpoint(ModelFiles("m", smollm2, "vouched"))
    assert found.fingerprint == "vouched" and 2 in found.eos_ids
    config = meaning(found.config)
    assert (config.layers, config.hidden, config.heads, config.kv_heads, config.tied) == (30, 576, 9, 3, True)
    assert (config.rope.theta, config.eps, config.context) == (100000.0, 1e-5, 8192)
    family(found.config).weights.check(config, found.names)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CONFIGS["llama"]
    keys = {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 2.0,
        "tokenizer.ggml.tokens": ["<|im_end|>", "a"],
        "tokenizer.ggml.token_type": [3, 1],
        "tokenizer.ggml.eos_token_id": 0,
        "general.sampling.temp": 0.5,
    }
    path = tmp_path_factory.mktemp("whole") / "m.gguf"
    return write_gguf(path, {**config, "num_hidden_layers": 1}, weights({**config, "num_hidden_layers": 1}), keys=keys)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "m.gguf"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_a_bad_model_or_a_model(whole: Path, scratch: Path, data: st.DataObject) -> None:
    """Never another exception: the header's types are as little to be trusted as its counts."""
    damaged = bytearray(whole.read_bytes())
    head = GGUFFile(whole).data_start
    for _ in range(data.draw(st.integers(1, 2))):
        damaged[data.draw(st.integers(0, head))] = data.draw(st.integers(0, 255))
    scratch.write_bytes(damaged)
    files = ModelFiles("m", scratch)
    try:
        found = open_checkpoint(files)
        generation_defaults(files)
        for name in found.names:
            found.vector(name) if name.endswith((".bias", "norm.weight")) else found.stored(name)
    except BadModel as error:
        assert "\n" not in str(error)


_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.text(max_size=2), max_size=3),
)
_ODD_ARRAYS = st.lists(st.integers(-1, 9), max_size=4).map(lambda v: np.array(v, np.int32))


@pytest.mark.parametrize(
    "name", ["llama", "deepseek2-lite", "phi3-long", "olmo3", "gpt-oss", "ernie4_5-moe", "minimax-m2"]
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_metadata_of_any_type_is_a_bad_model_or_a_model(name: str, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "m.gguf"
    if not path.exists():
        keys = {"tokenizer.ggml.eos_token_id": 0, "general.sampling.temp": 0.5}
        write_gguf(path, CONFIGS[name], weights(CONFIGS[name]), keys=keys)
    file = GGUFFile(path)
    key = data.draw(st.sampled_from(sorted(file.metadata)))
    file.metadata[key] = data.draw(_ODD | _ODD_ARRAYS)
    files = ModelFiles("m", path)
    try:
        places(file, gguf_family(file).names, gguf_config(file))
        eos_ids(files, file)
        generation_defaults(files, file)
    except BadModel as error:
        assert "\n" not in str(error)
