"""AWQ and GPTQ: what the files mean is what is computed with, for every size of group, act-order and number of bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Mode, Ops
from radixmill.device.layers import Build, Part
from radixmill.device.loader import open_checkpoint
from radixmill.device.models import Decoder, family
from radixmill.device.quant import Grouped, as_blocks, widen
from radixmill.store import ModelFiles
from tests.device.grouped_kit import CONFIG, Layer, Packed, compressed_config, gptq, layer, model
from tests.device.kernel_kit import BACKENDS, MODES, backend, normal, same_bits
from tests.device.model_kit import ArrayCheckpoint, Driver, build

PROMPT = [3, 17, 5, 60, 60, 1, 44, 9, 61, 23, 2]
Q0 = "model.layers.0.self_attn.q_proj"
SHAPES = {"self_attn.q_proj": (128, 128), "self_attn.v_proj": (64, 128), "mlp.up_proj": (256, 128)}


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(request.param, "exact")


def opened(path: Path) -> Any:
    return open_checkpoint(ModelFiles("m", path))


def logits(checkpoint: Any, ops: Ops) -> np.ndarray:
    return Driver(build(checkpoint, ops)).run([PROMPT], [[len(PROMPT)]])[0]


def pair(packed: Packed, path: Path, ops: Ops) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the files, and of the values they stand for."""
    return logits(opened(packed.write(path)), ops), logits(ArrayCheckpoint(packed.config, packed.meant), ops)


@pytest.mark.parametrize("group", (32, 64, 128, -1))
@pytest.mark.parametrize("method", ("awq", "gptq", "gptq_v2"))
def test_a_model_is_the_one_its_files_mean(method: str, group: int, tmp_path: Path, ops: Ops) -> None:
    """No value changes, so neither does a bit."""
    asked = {"checkpoint_format": "gptq_v2"} if method == "gptq_v2" else {}
    found, meant = pair(model(method[:4], asked, group=group), tmp_path, ops)
    assert np.isfinite(meant).all() and meant.std() > 1e-3
    np.testing.assert_array_equal(found, meant)


MIXTURES: dict[str, dict[str, Any]] = {
    "DeepseekV3": {
        "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "moe_intermediate_size": 64, "num_key_value_heads": 4,
    },
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64},
}  # fmt: skip


@pytest.mark.parametrize("method", ("awq", "gptq", "compressed-tensors"))
@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_packed_one_by_one(name: str, method: str, tmp_path: Path, ops: Ops) -> None:
    """As they are in the files, Mixtral's under names of its own; what no block is kept in would be said."""
    asked = compressed_config(4, 32, False) if method == "compressed-tensors" else {}
    packed = model(method, asked, group=32, config={"architectures": [f"{name}ForCausalLM"], **MIXTURES[name]})
    assert sum(".mlp.experts." in tensor for tensor in packed.meant) in (12, 24)
    if name == "Mixtral":
        packed.files = {_mixtral(tensor): values for tensor, values in packed.files.items()}
    found, meant = pair(packed, tmp_path, ops)
    assert np.isfinite(meant).all() and meant.std() > 1e-3
    np.testing.assert_array_equal(found, meant)
    assert opened(tmp_path).stored("model.layers.1.mlp.experts.3.up_proj.weight", (64, 128)).kind == "Q5_0"


def _mixtral(name: str) -> str:
    for ours, theirs in (("mlp.", "block_sparse_moe."), ("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
        name = name.replace(ours, theirs)
    return name


@pytest.mark.parametrize("bits", (2, 3, 4, 8))
def test_symmetric_gptq_of_any_width(bits: int, tmp_path: Path, ops: Ops) -> None:
    found, meant = pair(model("gptq", bits=bits, middle=True), tmp_path, ops)
    assert meant.std() > 1e-3
    np.testing.assert_array_equal(found, meant)


@pytest.mark.parametrize("group", (32, 64, 128))
@pytest.mark.parametrize("shuffled", (1, 2))
def test_act_order(group: int, shuffled: int, tmp_path: Path, ops: Ops) -> None:
    """The same sum in another order; all layers of one input have one order."""
    found, meant = pair(model("gptq", {"desc_act": True}, group=group, shuffled=shuffled), tmp_path, ops)
    assert np.abs(found - meant).max() < 1e-5 * np.abs(meant).max()


def test_layers_of_one_product_with_orders_of_their_own(tmp_path: Path, ops: Ops) -> None:
    packed = model("gptq", group=32)
    for i, name in enumerate(("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")):
        replace_layer(packed, f"model.layers.{i % 2}.{name}", layer(*SHAPES[name], 32, shuffled=i + 1, seed=90 + i))
    found, meant = pair(packed, tmp_path, ops)
    assert np.abs(found - meant).max() < 1e-5 * np.abs(meant).max()


def test_a_row_does_not_know_its_batch(tmp_path: Path) -> None:
    checkpoint = opened(model("gptq", group=32, shuffled=5).write(tmp_path))
    for which in BACKENDS:
        ops = backend(which, "fast")
        weight = Build(ops, checkpoint, 8).weight(Part((Q0,)), (128,), 128)
        x = normal(33, 128)
        together = ops.linear(x, weight)
        for rows in (1, 2, 7):
            assert same_bits(ops.linear(x[5 : 5 + rows], weight), together[5 : 5 + rows])


@pytest.mark.parametrize("which", BACKENDS)
def test_rows_of_a_shuffled_matrix_are_its_own(which: str) -> None:
    made = layer(40, 96, 32, shuffled=3)
    ops = backend(which, "exact")
    weight, x = ops.pack(stored(made)), normal(3, 96)
    assert np.array_equal(ops.embed(np.arange(40), weight), made.values())
    assert np.allclose(ops.linear(x, weight), x @ made.values().T, atol=1e-5)
    order = np.random.default_rng(0).permutation(96)
    assert np.array_equal(ops.columns(x, order), x[:, order]) and ops.columns(x, order).flags.c_contiguous


def replace_layer(packed: Packed, stem: str, made: Layer) -> None:
    packed.files |= {f"{stem}.{part}": values for part, values in gptq(made).items()}
    packed.meant[f"{stem}.weight"] = made.values()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", BACKENDS)
def test_an_order_is_of_columns_of_x(which: str, mode: Mode) -> None:
    """Bit for bit the product with x's columns put in that order; each matrix of a joined product has its own."""
    ops, x = backend(which, mode), normal(5, 96)
    parts = [stored(layer(n, 96, 32, shuffled=n, seed=n)) for n in (16, 24)]
    alone = [ops.linear(ops.columns(x, part.order), ops.pack(replace(part, order=None))) for part in parts]
    both = ops.join([ops.pack(part) for part in parts])
    assert same_bits(ops.linear(x, both), np.concatenate(alone, axis=1))


def stored(made: Layer) -> Any:
    return as_blocks(grouped(made))


def grouped(made: Layer) -> Grouped:
    codes, zeros = made.codes.T.astype(np.uint8), made.zeros.T.astype(np.uint8)
    return Grouped(np.ascontiguousarray(codes), np.ascontiguousarray(zeros), made.scales.T.copy(), made.groups)


def values(made: Layer) -> np.ndarray:
    """What as_blocks makes of it, in the matrix's own order of columns."""
    found = stored(made)
    wide = widen(found).data
    if found.order is None:
        return wide
    out = np.empty_like(wide)
    out[:, found.order] = wide
    return out


@pytest.mark.parametrize(
    ("bits", "middle", "kind"),
    [
        (4, True, "Q4_0"),
        (4, False, "Q5_0"),
        (3, False, "Q4_0"),
        (2, False, "Q4_0"),
        (8, True, "Q8_0"),
        (8, False, "F16"),
    ],
)
@pytest.mark.parametrize("shuffled", (0, 1))
def test_what_becomes_of_a_layer(bits: int, middle: bool, kind: str, shuffled: int) -> None:
    made = layer(24, 256, 64, bits=bits, middle=middle, shuffled=shuffled)
    assert stored(made).kind == kind
    if kind == "F16":
        assert relative(values(made), made.values()) < 5e-4
    else:
        np.testing.assert_array_equal(values(made), made.values())


@pytest.mark.parametrize("group", (16, 48))
def test_groups_that_no_block_fits(group: int) -> None:
    """Made wider, and said so."""
    made = layer(16, 96, group)
    found = stored(made)
    assert found.kind == "F16" and "no multiple of 32" in found.note
    assert relative(values(made), made.values()) < 5e-4


def test_what_was_widened_is_said(tmp_path: Path, ops: Ops) -> None:
    packed = model("gptq", group=16)
    checkpoint = opened(packed.write(tmp_path))
    made = Build(ops, checkpoint, 64)
    kind = family(checkpoint.config)
    Decoder(made, kind, kind.config.from_hf(checkpoint.config), checkpoint.names)
    assert "14 matrices widened to F16: their groups are no multiple of 32 columns" in made.notes
    found, meant = pair(packed, tmp_path, ops)
    assert np.abs(found - meant).max() < 2e-3 * np.abs(meant).max()


def test_rows_that_no_block_fits() -> None:
    made = layer(16, 40, -1)
    assert stored(made).kind == "F16" and relative(values(made), made.values()) < 5e-4


@pytest.mark.parametrize(
    ("by", "kind"), [(np.float32(1e-6), "F32"), (np.float32(1e8), "F32"), (np.float32(0.731), "Q5_0")]
)
def test_scales_that_float16_does_not_hold(by: np.float32, kind: str) -> None:
    made = layer(16, 64, 32)
    wide = Layer(made.codes, made.zeros, made.scales.astype(np.float32) * by, made.groups)
    assert stored(wide).kind == kind
    assert relative(values(wide), wide.values()) < 5e-4


def relative(found: np.ndarray, meant: np.ndarray) -> float:
    """The largest ‖W − W'‖ / ‖W‖ of a row."""
    wide = meant.astype(np.float64)
    return float((np.linalg.norm(found - wide, axis=1) / np.linalg.norm(wide, axis=1)).max())


def test_bfloat16_scales(tmp_path: Path) -> None:
    """Half of bfloat16's numbers are float16's too; files are written by hand, as NumPy has no such type."""
    packed = model("gptq", group=32)
    path = packed.write(tmp_path)
    checkpoint = opened(path)
    bits = checkpoint._scheme.layer(checkpoint, Q0).scales.astype(np.float32).view(np.uint32) >> 16
    checkpoint._tensors = Rewritten(checkpoint._tensors, f"{Q0}.scales", bits.astype(np.uint16).T)
    found = checkpoint.stored(f"{Q0}.weight", (128, 128))
    meant = packed.meant[f"{Q0}.weight"]
    assert found.kind == "Q5_0" and 1e-4 < relative(widen(found).data, meant) < 8e-3


class Rewritten:
    """A folder of safetensors with one tensor as bfloat16."""

    def __init__(self, folder: Any, name: str, bits: np.ndarray) -> None:
        self.folder, self.name, self.bits = folder, name, bits
        self.where = folder.where

    def info(self, name: str) -> Any:
        info = self.folder.info(name)
        return (
            type(info)(**{**{k: getattr(info, k) for k in info.__slots__}, "dtype": "BF16"})
            if name == self.name
            else info
        )

    def data(self, name: str) -> np.ndarray:
        return self.bits if name == self.name else self.folder.data(name)


def test_zero_points_less_one_wrap(tmp_path: Path) -> None:
    made = layer(32, 64, 32)
    made.zeros[:] = np.arange(32) % 16
    packed = model("gptq")
    replace_layer(packed, Q0, made)
    checkpoint = opened(packed.write(tmp_path))
    np.testing.assert_array_equal(widen(checkpoint.stored(f"{Q0}.weight")).data, made.values())


def test_what_is_not_packed_stays_as_it_is(tmp_path: Path, ops: Ops) -> None:
    """A layer that is left out, biases, a head that is packed too: the tensors say which."""
    packed = model("gptq", {"modules_to_not_convert": ["o_proj"]}, keep=("o_proj", "down_proj"))
    packed.config["attention_bias"] = True
    for layer_id in range(2):
        for name, rows in (("q", 128), ("k", 64), ("v", 64), ("o", 128)):
            stem = f"model.layers.{layer_id}.self_attn.{name}_proj"
            packed.files[f"{stem}.bias"] = packed.meant[f"{stem}.bias"] = normal(rows, seed=rows)
    assert "lm_head.qweight" in packed.files
    found, meant = pair(packed, tmp_path, ops)
    np.testing.assert_array_equal(found, meant)


@pytest.mark.parametrize("method", ("awq", "gptq"))
@pytest.mark.parametrize("inner", (192, 160))
def test_a_last_group_that_is_shorter(method: str, inner: int, tmp_path: Path, ops: Ops) -> None:
    packed = model(method, config={"intermediate_size": inner})
    packed.files.pop("model.layers.0.mlp.down_proj.g_idx", None)
    found, meant = pair(packed, tmp_path, ops)
    np.testing.assert_array_equal(found, meant)


def test_layers_without_a_list_of_groups(tmp_path: Path, ops: Ops) -> None:
    packed = model("gptq", group=32)
    packed.files = {name: values for name, values in packed.files.items() if not name.endswith(".g_idx")}
    found, meant = pair(packed, tmp_path, ops)
    np.testing.assert_array_equal(found, meant)


def test_biases_of_zeros_that_nobody_asked_for(tmp_path: Path, ops: Ops) -> None:
    packed = model("gptq")
    plain = logits(opened(packed.write(tmp_path / "a")), ops)
    packed.files |= {f"{Q0}.bias": np.zeros(128, np.float16)}
    checkpoint = opened(packed.write(tmp_path / "b"))
    np.testing.assert_array_equal(logits(checkpoint, ops), plain)
    packed.files[f"{Q0}.bias"][7] = 1
    with pytest.raises(BadModel, match=rf"{Q0}\.bias that its architecture does not use"):
        logits(opened(packed.write(tmp_path / "c")), ops)


@pytest.mark.parametrize(
    ("name", "beside"),
    [("quantize_config.json", {"bits": 4, "group_size": 32}), ("quant_config.json", {"w_bit": 4, "version": "GEMM"})],
)
def test_the_configuration_beside_the_configuration(
    name: str, beside: dict[str, Any], tmp_path: Path, ops: Ops
) -> None:
    packed = model("awq" if name == "quant_config.json" else "gptq", group=32)
    path = packed.write(tmp_path, config=CONFIG)
    with pytest.raises(BadModel, match=r"is quantised, but config\.json has no quantization_config"):
        opened(path)
    (path / name).write_text(json.dumps(beside))
    np.testing.assert_array_equal(logits(opened(path), ops), logits(ArrayCheckpoint(CONFIG, packed.meant), ops))


def test_a_configuration_beside_a_model_of_floats_says_nothing(tmp_path: Path) -> None:
    packed = Packed({})
    packed.files["w"] = np.ones((2, 2), np.float32)
    plain = opened(packed.write(tmp_path, config=CONFIG)).fingerprint
    (tmp_path / "quant_config.json").write_text('{"quant_method": "other"}')
    assert opened(tmp_path).fingerprint == plain


def test_what_the_zero_points_mean_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    packed = model("gptq")
    one = opened(packed.write(tmp_path / "a")).fingerprint
    packed.quantization["checkpoint_format"] = "gptq_v2"
    assert one != opened(packed.write(tmp_path / "b")).fingerprint


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"quant_method": "hqq"},
            "quant_method 'hqq' is not supported. awq, gptq, compressed-tensors, fp8 and mxfp4 are",
        ),
        ("awq", "quantization_config is 'awq', not a dictionary"),
        ({}, "quant_method None is not supported"),
        ({"quant_method": "awq", "bits": 8}, "awq of 8 bits is not supported. 4 bits are"),
        ({"quant_method": "gptq", "bits": 5}, "gptq of 5 bits is not supported. 2 or 3 or 4 or 8 bits are"),
        ({"quant_method": "gptq", "bits": "4"}, "gptq of '4' bits"),
        ({"quant_method": "awq", "version": "gemv"}, "awq packed as 'gemv' is not supported. gemm is"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "gptq packed as 'marlin'"),
        ({"quant_method": "gptq", "is_marlin_format": True}, "gptq packed as 'marlin'"),
    ],
)
def test_configurations_that_we_cannot_read(config: Any, says: str, tmp_path: Path) -> None:
    packed = model("gptq")
    packed.quantization = config
    with pytest.raises(BadModel, match=says):
        opened(packed.write(tmp_path)).stored(f"{Q0}.weight")


def _drop(name: str) -> Callable[[dict[str, np.ndarray]], Any]:
    return lambda files: files.pop(f"{Q0}.{name}")


def _put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], Any]:
    return lambda files: files.update({f"{Q0}.{name}": change(files[f"{Q0}.{name}"])})


def _three_groups(files: dict[str, np.ndarray]) -> None:
    files.update({f"{Q0}.{name}": files[f"{Q0}.{name}"][:3] for name in ("scales", "qzeros")})


@pytest.mark.parametrize(
    ("method", "damage", "says"),
    [
        ("gptq", _drop("qzeros"), r"no tensor .*q_proj\.qzeros"),
        ("awq", _drop("scales"), r"no tensor .*q_proj\.scales"),
        ("gptq", _put("scales", lambda s: s[:, :-8]), r"q_proj\.scales has shape \[4, 120\], but its layer needs \[4, 128\]"),
        ("awq", _put("scales", lambda s: s[:, :-8]), r"q_proj\.scales has shape \[4, 120\], but its layer needs \[4, 128\]"),
        ("gptq", _put("qzeros", lambda z: z[:-1]), r"q_proj\.qzeros has shape \[3, 16\]"),
        ("awq", _put("qzeros", lambda z: z[:, :-1]), r"q_proj\.qzeros has shape \[4, 15\]"),
        ("awq", _three_groups, "128 columns, which 3 groups do not share evenly"),
        ("gptq", _put("g_idx", lambda g: g + 1), r"q_proj\.g_idx names groups other than the 4"),
        ("gptq", _put("g_idx", lambda g: g[:77]), r"q_proj\.qweight has 16 rows of words for 77 columns"),
        ("gptq", _put("qweight", lambda w: w[:-1]), r"q_proj\.qweight has 15 rows of words for 128 columns"),
        ("gptq", _put("qweight", lambda w: w.reshape(-1)), r"q_proj\.qweight has shape \[2048\], not rows and columns"),
        ("gptq", _put("qweight", lambda w: w.astype(np.int64)), r"q_proj\.qweight is of type I64, not I32"),
        ("awq", _put("scales", lambda s: s.astype(np.int8)), r"q_proj\.scales is of type I8"),
        ("gptq", _put("scales", lambda s: s[:0]), r"q_proj\.scales has shape \[0, 128\], not rows and columns"),
    ],
)  # fmt: skip
def test_damaged_layers_are_named(method: str, damage: Any, says: str, tmp_path: Path) -> None:
    packed = model(method, group=32)
    damage(packed.files)
    shutil.rmtree(tmp_path / "m", ignore_errors=True)
    with pytest.raises(BadModel, match=says):
        opened(packed.write(tmp_path / "m")).stored(f"{Q0}.weight", (128, 128))


def test_a_layer_of_another_size_than_the_model(tmp_path: Path) -> None:
    checkpoint = opened(model("awq").write(tmp_path))
    with pytest.raises(BadModel, match=r"q_proj\.weight has shape \[128, 128\], but .* needs \[128, 64\]"):
        checkpoint.stored(f"{Q0}.weight", (128, 64))
