"""Checkpoints of 8-bit floats: what the files mean is what is computed with, however their scales lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Ops
from radixmill.device.layers import Build
from radixmill.device.loader import DummyCheckpoint, open_checkpoint
from radixmill.device.models import Decoder, family
from radixmill.device.quant import f8_floats, widen
from radixmill.store import ModelFiles
from tests.device.kernel_kit import BACKENDS, backend
from tests.device.model_kit import ArrayCheckpoint, Driver, build, shapes

CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 64, "hidden_size": 256, "intermediate_size": 384,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "q_lora_rank": 128,
    "kv_lora_rank": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 16, "v_head_dim": 64, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "first_k_dense_replace": 1,
    "n_group": 2, "topk_group": 1,
}  # fmt: skip
DEEPSEEK = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
PROMPT = [3, 17, 5, 60, 60, 1, 44, 9, 61, 23, 2]
EXPERTS: dict[str, Any] = {  # what the files beside DeepSeek's have: experts of one block of rows, and of two
    "vocab_size": 64, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 64, "num_experts_per_tok": 2,
}  # fmt: skip
FLOAT = ("embed_tokens", "lm_head", "norm", "gate.", "e_score")  # what DeepSeek's files leave as it is
Q = "model.layers.0.self_attn.q_a_proj"


def compressed(strategy: str, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, **more}
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized", "kv_cache_scheme": None, "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": {"dynamic": True}}},
    }  # fmt: skip


class Files:
    """A model's tensors as its files have them, and as they are meant."""

    def __init__(
        self, high: int, wide: int, part: str, shape: Callable[[np.ndarray], Any] = lambda s: s, **config: Any
    ):
        """Scales are of blocks of `high` rows and `wide` columns (0: all), in `.{part}`, of the shape that `shape` gives."""
        self.config = config if "architectures" in config else {**CONFIG, **config}
        source = DummyCheckpoint(self.config, shapes(self.config), seed=7)
        self.files: dict[str, tuple[str, np.ndarray]] = {}
        self.meant: dict[str, np.ndarray] = {}
        for name, size in shapes(self.config).items():
            if len(size) == 1 or any(word in name for word in FLOAT):
                values = source.vector(name) if len(size) == 1 else source.stored(name).data
                self.files[name], self.meant[name] = ("F32", values), values
                continue
            codes, scales, values = quantised(source.stored(name).data, high or size[0], wide or size[1])
            self.files[name] = "F8_E4M3", codes
            self.files[f"{name.removesuffix('.weight')}.{part}"] = "F32", shape(scales)
            self.meant[name] = values

    def write(self, path: Path, quantization: Any) -> Path:
        path.mkdir(exist_ok=True)
        whole = {**self.config, **({} if quantization is None else {"quantization_config": quantization})}
        (path / "config.json").write_text(json.dumps(whole))
        save(path / "model.safetensors", self.files)
        return path

    def renamed(self, names: Callable[[str], str]) -> Files:
        self.files = {names(name): found for name, found in self.files.items()}
        return self

    def replaced(self, name: str, kind: str, values: np.ndarray) -> Files:
        self.files[name] = kind, values
        return self


def save(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Safetensors by hand: NumPy has no 8-bit floats."""
    header, at = {}, 0
    for name, (kind, values) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(values).tobytes() for _, values in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def quantised(values: np.ndarray, high: int, wide: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(codes, scales of blocks, what both say)"""
    table = f8_floats(np.arange(256, dtype=np.uint8))
    known = np.where(np.isnan(table), np.inf, table)
    order = np.argsort(known, kind="stable")[:-2]
    rows, columns = values.shape
    scales = np.empty((-(-rows // high), -(-columns // wide)), np.float32)
    codes, meant = np.empty(values.shape, np.uint8), np.empty(values.shape, np.float32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            place = (slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide))
            scales[i, j] = np.float32(np.abs(values[place]).max() / 448)
            codes[place] = order[np.searchsorted(known[order], values[place] / scales[i, j]).clip(0, len(order) - 1)]
            meant[place] = table[codes[place]] * scales[i, j]
    return codes, scales, meant


def opened(path: Path) -> Any:
    return open_checkpoint(ModelFiles("m", path))


def logits(checkpoint: Any, ops: Ops) -> np.ndarray:
    return Driver(build(checkpoint, ops)).run([PROMPT], [[len(PROMPT)]])[0]


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(request.param, "exact")


def test_every_number_of_eight_bits() -> None:
    found = f8_floats(np.arange(256, dtype=np.uint8))
    torch = pytest.importorskip("torch")
    wanted = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(found, wanted)
    assert found.max(initial=0, where=~np.isnan(found)) == 448


KV_SCALES = (
    "self_attn.k_scale", "self_attn.attn.q_scale", "self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale", "self_attn.v_proj.output_scale",
)  # fmt: skip


def test_scales_for_cached_values_are_left_alone(tmp_path: Path) -> None:
    quantization = {**compressed("channel"), "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    files = Files(1, 0, "weight_scale")
    plain = opened(files.write(tmp_path / "plain", compressed("channel")))
    for name in KV_SCALES:
        files.replaced(f"model.layers.0.{name}", "F32", np.full(1, 7, np.float32))
    found, ops = opened(files.write(tmp_path / "scaled", quantization)), backend("reference", "exact")
    kind = family(found.config)
    builder = Build(ops, found, 64)
    Decoder(builder, kind, kind.config.from_hf(found.config), found.names)
    assert any("and 3 more" in note for note in builder.notes)
    assert any("cached as --kv-cache-dtype says" in note for note in builder.notes)
    np.testing.assert_array_equal(logits(found, ops), logits(plain, ops))


WAYS = {
    "deepseek": (DEEPSEEK, (128, 128, "weight_scale_inv")),
    "whole": ({**DEEPSEEK, "weight_block_size": None}, (0, 0, "weight_scale_inv", lambda s: s.reshape(()))),
    "compressed-channel": (compressed("channel"), (1, 0, "weight_scale")),
    "compressed-tensor": (compressed("tensor"), (0, 0, "weight_scale", lambda s: s.reshape(1))),
    "compressed-block": (compressed("block", block_structure=[128, 128]), (128, 128, "weight_scale")),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, (1, 0, "weight_scale")),
    "blocks-of-64": ({**DEEPSEEK, "weight_block_size": [64, 64]}, (64, 64, "weight_scale_inv")),
    "wide-blocks": ({**DEEPSEEK, "weight_block_size": [32, 256]}, (32, 256, "weight_scale_inv")),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_is_the_one_its_files_mean(way: str, tmp_path: Path, ops: Ops) -> None:
    quantization, how = WAYS[way]
    files = Files(*how)
    found, meant = (
        logits(checkpoint, ops)
        for checkpoint in (opened(files.write(tmp_path, quantization)), ArrayCheckpoint(files.config, files.meant))
    )
    assert np.isfinite(meant).all() and meant.std() > 1e-3
    assert np.abs(found - meant).max() <= 1e-5 * np.abs(meant).max()


def of_minimax(name: str) -> str:
    for ours, theirs in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2"), ("mlp", "block_sparse_moe")):
        name = name.replace(f".{ours}.", f".{theirs}.")
    return name


# Architecture, what its configuration adds, how its files are quantised, and two tensors that are in them.
KIN = {
    "qwen3-moe": (
        "Qwen3MoeForCausalLM", {"num_experts": 4, "moe_intermediate_size": 128, "mlp_only_layers": [0]},
        {**DEEPSEEK, "modules_to_not_convert": ["lm_head", "model.layers.1.mlp.gate"]},
        ("model.layers.1.mlp.experts.3.down_proj.weight_scale_inv", "model.layers.0.mlp.up_proj.weight_scale_inv"),
    ),
    "glm-4.5": (
        "Glm4MoeForCausalLM", {"n_routed_experts": 4, "moe_intermediate_size": 128, "attention_bias": True, "use_qk_norm": True},
        {**compressed("channel"), "ignore": ["lm_head", "model.layers.1.mlp.gate"]},
        ("model.layers.1.self_attn.k_proj.bias", "model.layers.1.mlp.shared_experts.up_proj.weight_scale"),
    ),
    "minimax-m2": (
        "MiniMaxM2ForCausalLM", {"num_local_experts": 4, "rotary_dim": 32},
        {**DEEPSEEK, "fmt": "float8_e4m3fn", "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]},
        ("model.layers.0.block_sparse_moe.experts.3.w2.weight_scale_inv", "model.layers.1.self_attn.q_proj.weight_scale_inv"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KIN)
def test_other_families_are_the_ones_their_files_mean(name: str, tmp_path: Path, ops: Ops) -> None:
    architecture, more, quantization, there = KIN[name]
    config = {"architectures": [architecture], **EXPERTS, **more}
    files = Files(*WAYS["compressed-channel" if name == "glm-4.5" else "deepseek"][1], **config)
    if name == "minimax-m2":
        files.renamed(of_minimax)
    if name == "glm-4.5":  # a layer after the last
        files.replaced("model.layers.2.eh_proj.weight", "F8_E4M3", np.ones((128, 256), np.uint8))
        files.replaced("model.layers.2.eh_proj.weight_scale", "F32", np.ones((128, 1), np.float32))
    assert set(there) < files.files.keys()
    assert all(values.any() for key, (_, values) in files.files.items() if key.endswith(".bias"))
    checkpoint = opened(files.write(tmp_path, quantization))
    expert = checkpoint.stored("model.layers.1.mlp.experts.2.gate_proj.weight")
    assert expert.kind == "F8B128" and not expert.note
    np.testing.assert_array_equal(widen(expert).data, files.meant["model.layers.1.mlp.experts.2.gate_proj.weight"])
    found, meant = logits(checkpoint, ops), logits(ArrayCheckpoint(files.config, files.meant), ops)
    assert np.isfinite(meant).all() and meant.std() > 1e-3
    assert np.abs(found - meant).max() <= 1e-5 * np.abs(meant).max()


@pytest.mark.oracle
@pytest.mark.parametrize("way", ("deepseek", "compressed-channel"))
def test_logits_equal_transformers_on_what_the_files_mean(way: str, tmp_path: Path, ops: Ops) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    quantization, how = WAYS[way]
    files = Files(*how)
    found = logits(opened(files.write(tmp_path / "f8", quantization)), ops)
    files.files = {name: ("F32", values) for name, values in files.meant.items()}
    model = transformers.AutoModelForCausalLM.from_pretrained(files.write(tmp_path / "f32", None))
    with torch.no_grad():
        theirs = model.float()(torch.tensor([PROMPT])).logits[0].numpy()
    assert np.abs(found - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("way", WAYS)
def test_every_matrix_is_the_one_its_file_means(way: str, tmp_path: Path) -> None:
    quantization, how = WAYS[way]
    files = Files(*how)
    checkpoint = opened(files.write(tmp_path, quantization))
    assert checkpoint.names == files.meant.keys()
    for name, values in files.meant.items():
        if values.ndim == 2:
            found = checkpoint.stored(name, values.shape)
            np.testing.assert_array_equal(widen(found).data, values)
            if name in files.files and files.files[name][0] == "F8_E4M3":
                fits = way != "blocks-of-64"
                assert found.kind == ("F8B128" if fits else "F32")
                assert found.note == ("" if fits else "widened to F32: their blocks are no multiple of 128 columns")


def test_rows_that_no_block_fits(tmp_path: Path, ops: Ops) -> None:
    files = Files(128, 128, "weight_scale_inv", hidden_size=320, q_lora_rank=96)
    checkpoint = opened(files.write(tmp_path, DEEPSEEK))
    made, kind = Build(ops, checkpoint, 64), family(checkpoint.config)
    Decoder(made, kind, kind.config.from_hf(checkpoint.config), checkpoint.names)
    assert any("matrices widened to F32: their rows are no multiple of 128 values" in note for note in made.notes)
    found, meant = logits(checkpoint, ops), logits(ArrayCheckpoint(files.config, files.meant), ops)
    assert np.abs(found - meant).max() <= 1e-5 * np.abs(meant).max()


def test_scales_in_other_types(tmp_path: Path) -> None:
    """bfloat16, and powers of two by their exponent."""
    files = Files(128, 128, "weight_scale_inv")
    name, scales = f"{Q}.weight_scale_inv", files.files[f"{Q}.weight_scale_inv"][1]
    numbers = f8_floats(files.files[f"{Q}.weight"][1])
    bits = (scales.view(np.uint32) >> 16).astype(np.uint16)
    exponents = np.array([[120, 121]], np.uint8)
    for kind, stored, meant in (
        ("BF16", bits, (bits.astype(np.uint32) << 16).view(np.float32)),
        ("F8_E8M0", exponents, np.float32([[2.0**-7, 2.0**-6]])),
        ("F8_E8M0", np.array([[0, 255]], np.uint8), np.float32([[2.0**-127, np.nan]])),
    ):
        checkpoint = opened(files.replaced(name, kind, stored).write(tmp_path, DEEPSEEK))
        wide = np.repeat(np.repeat(meant, 128, axis=0), 128, axis=1)
        np.testing.assert_array_equal(widen(checkpoint.stored(f"{Q}.weight")).data, numbers * wide)


def test_scales_of_inputs_are_left_alone(tmp_path: Path, ops: Ops) -> None:
    files = Files(0, 0, "weight_scale", lambda s: s.reshape(1))
    plain = logits(opened(files.write(tmp_path, compressed("tensor"))), ops)
    for stem in [name.removesuffix(".weight") for name, (kind, _) in files.files.items() if kind == "F8_E4M3"]:
        files.replaced(f"{stem}.input_scale", "F32", np.ones(1, np.float32))
    np.testing.assert_array_equal(logits(opened(files.write(tmp_path, compressed("tensor"))), ops), plain)


def test_how_scales_are_read_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    files = Files(128, 128, "weight_scale_inv")
    prints = {
        opened(files.write(tmp_path / str(n), {**DEEPSEEK, "weight_block_size": [128, n]})).fingerprint
        for n in (128, 256)
    }
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        (None, "q_a_proj.weight is of type F8_E4M3, with no quantization_config"),
        ({**DEEPSEEK, "weight_block_size": 128}, "weight_block_size is 128, not rows and columns"),
        ({**DEEPSEEK, "weight_block_size": [0, 128]}, r"weight_block_size is \[0, 128\]"),
        ({**DEEPSEEK, "weight_block_size": [64, 128]}, r"q_a_proj.weight of shape \[128, 256\] has scales of shape \[1, 2\]"),
        ({**DEEPSEEK, "weight_block_size": None}, r"has scales of shape \[1, 2\]"),
        ({**compressed("channel"), "format": "int-quantized"}, "of format 'int-quantized' are not supported"),
        (compressed("group"), "'strategy': 'group'"),
        (compressed("channel", num_bits=4), "'num_bits': 4"),
        ({**compressed("channel"), "config_groups": {}}, "in 0 ways"),
    ],
)  # fmt: skip
def test_configurations_that_we_cannot_read(quantization: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=says):
        opened(Files(128, 128, "weight_scale_inv").write(tmp_path, quantization)).stored(f"{Q}.weight")


def test_a_matrix_without_scales_is_named(tmp_path: Path) -> None:
    files = Files(128, 128, "weight_scale_inv")
    del files.files[f"{Q}.weight_scale_inv"]
    with pytest.raises(BadModel, match=r"q_a_proj.weight is of type F8_E4M3, with no scales beside it"):
        opened(files.write(tmp_path, DEEPSEEK)).stored(f"{Q}.weight")


def test_a_row_does_not_know_its_batch(tmp_path: Path) -> None:
    checkpoint = opened(Files(128, 128, "weight_scale_inv").write(tmp_path, DEEPSEEK))
    for which in BACKENDS:
        driver = Driver(build(checkpoint, backend(which, "fast")))
        (whole,) = driver.run([PROMPT], [[len(PROMPT)]])
        parts = driver.run([PROMPT, [5, 6]], [[4, 1], [3, 1], [1, 0], [3, 0]])
        assert np.array_equal(parts[0], whole)
