"""Experts in every form that files have them in: what the model is built of is the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from radixmill.core.errors import BadModel
from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.kernels.contract import Ops
from radixmill.device.layers import Build
from radixmill.device.loader import open_checkpoint
from radixmill.device.models import Decoder, family
from radixmill.device.quant import widen
from radixmill.store import ModelFiles
from tests.device import tiny_models
from tests.device.model_kit import ArrayCheckpoint, Driver, build, dummy

PROMPT = [3, 17, 5, 60, 60, 1, 44, 9, 61, 23, 2]
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
OSS = {**tiny_models.config("gpt-oss"), "intermediate_size": 64}
QUANTIZED = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
Tensors = dict[str, np.ndarray]


@pytest.fixture(params=["reference", *(["cpu"] if native_isa() else [])])
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(request.param)


def backend(name: str = "reference") -> Ops:
    return open_backend(name, "exact", 1, native_isa())


def arrays(config: Mapping[str, Any]) -> ArrayCheckpoint:
    made = dummy(config, seed=2)
    vector = ("norm.weight", ".bias", "sinks", "correction_bias")
    return ArrayCheckpoint(
        dict(config), {n: made.vector(n) if n.endswith(vector) else made.stored(n).data for n in made.names}
    )


def write(path: Path, config: Mapping[str, Any], tensors: Tensors) -> ModelFiles:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, path / "model.safetensors")
    return ModelFiles("m", path)


def logits(checkpoint: Any, ops: Ops) -> np.ndarray:
    found = Driver(build(checkpoint, ops)).run([PROMPT], [[len(PROMPT)]])[0]
    assert np.isfinite(found).all() and found.std() > 1e-3
    return found


def experts(tensors: Tensors, layer: int, part: str, kind: str = "weight") -> np.ndarray:
    """A layer's, taken out and stacked."""
    prefix, found = f"model.layers.{layer}.mlp.experts.", []
    while f"{prefix}{len(found)}.{part}.{kind}" in tensors:
        found.append(tensors.pop(f"{prefix}{len(found)}.{part}.{kind}"))
    return np.stack(found)


def stacked(tensors: Tensors) -> None:
    """Gates, then ups; as transformers has them in memory."""
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp.experts."
        both = [experts(tensors, layer, part) for part in ("gate_proj", "up_proj")]
        tensors[f"{prefix}gate_up_proj"] = np.concatenate(both, axis=1)
        tensors[f"{prefix}down_proj"] = experts(tensors, layer, "down_proj")


def as_granite(tensors: Tensors) -> None:
    stacked(tensors)
    for name in [name for name in tensors if ".mlp." in name]:
        tensors[_granite(name)] = tensors.pop(name)


def _granite(name: str) -> str:
    name = name.replace(".mlp.", ".block_sparse_moe.")
    name = name.replace("experts.gate_up_proj", "input_linear.weight")
    return name.replace("experts.down_proj", "output_linear.weight")


def as_mixtral(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".mlp." in name]:
        old = name
        for ours, theirs in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2"), ("mlp", "block_sparse_moe")):
            name = name.replace(f".{ours}.", f".{theirs}.")
        tensors[name] = tensors.pop(old)


def in_turns(tensors: Tensors, layer: int, kind: str) -> np.ndarray:
    """Gate's and up's rows taking turns: [E, 2F, …]"""
    both = [experts(tensors, layer, part, kind) for part in ("gate_proj", "up_proj")]
    return np.stack(both, axis=2).reshape(len(both[0]), -1, *both[0].shape[2:])


def as_gpt_oss(tensors: Tensors) -> None:
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp.experts."
        tensors[f"{prefix}gate_up_proj"] = in_turns(tensors, layer, "weight").swapaxes(1, 2)
        tensors[f"{prefix}gate_up_proj_bias"] = in_turns(tensors, layer, "bias")
        tensors[f"{prefix}down_proj"] = experts(tensors, layer, "down_proj").swapaxes(1, 2)
        tensors[f"{prefix}down_proj_bias"] = experts(tensors, layer, "down_proj", "bias")


@pytest.mark.parametrize(
    ("name", "form", "there"),
    [
        ("mixtral", as_mixtral, "block_sparse_moe.experts.3.w2.weight"),
        ("mixtral", stacked, "mlp.experts.gate_up_proj"),
        ("qwen3-moe", stacked, "mlp.experts.down_proj"),
        ("granite-moe", as_granite, "block_sparse_moe.router.layer.weight"),
        ("gpt-oss", as_gpt_oss, "mlp.experts.down_proj_bias"),
    ],
)  # fmt: skip
def test_every_form_is_the_same_model(
    name: str, form: Callable[[Tensors], None], there: str, tmp_path: Path, ops: Ops
) -> None:
    plain = arrays({**tiny_models.config(name), "mlp_only_layers": []} if "qwen" in name else tiny_models.config(name))
    tensors = dict(plain.arrays)
    form(tensors)
    assert f"model.layers.1.{there}" in tensors
    found = open_checkpoint(write(tmp_path, plain.config, tensors))
    assert found.names == plain.names
    assert np.array_equal(logits(found, ops), logits(plain, ops))


def test_bf16_experts_keep_their_kind(tmp_path: Path, ops: Ops) -> None:
    plain = arrays(OSS)
    for name, values in plain.arrays.items():
        if name.endswith("_proj.weight"):
            values[...] = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)  # so that bf16 holds them
    tensors = dict(plain.arrays)
    as_gpt_oss(tensors)
    files = write(tmp_path, OSS, {name: values for name, values in tensors.items() if "experts" not in name})
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save

    made = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in tensors.items()}
    save({n: v.bfloat16() if "experts" in n and "bias" not in n else v for n, v in made.items()}, tmp_path / "model.safetensors")  # fmt: skip
    found = open_checkpoint(files)
    assert found.stored("model.layers.0.mlp.experts.5.up_proj.weight").kind == "BF16"
    assert np.array_equal(logits(found, ops), logits(plain, ops))


def mxfp4(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random blocks and scales of a tensor [E, N, K], and the values that they stand for."""
    *outer, columns = shape
    codes = rng.integers(0, 16, shape, np.uint8)
    scales = rng.integers(118, 126, (*outer, columns // 32), np.uint8)
    pairs = codes.reshape(*outer, columns // 32, 16, 2)
    values = FP4[codes] * np.repeat(np.exp2(scales.astype(np.float32) - 127), 32, axis=-1)
    return pairs[..., 0] | pairs[..., 1] << 4, scales, values


def with_mxfp4(plain: ArrayCheckpoint) -> Tensors:
    """The file's tensors; `plain` gets the values that they stand for."""
    rng, tensors = np.random.default_rng(4), dict(plain.arrays)
    as_gpt_oss(tensors)
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp.experts."
        for part in ("gate_up_proj", "down_proj"):
            count, columns, rows = tensors.pop(f"{prefix}{part}").shape
            blocks, scales, values = mxfp4(rng, count, rows, columns)
            tensors |= {f"{prefix}{part}_blocks": blocks, f"{prefix}{part}_scales": scales}
            for expert in range(count):
                halves = {"gate_proj": slice(0, None, 2), "up_proj": slice(1, None, 2)}
                for name, cut in halves.items() if part == "gate_up_proj" else [(part, slice(None))]:
                    plain.arrays[f"{prefix}{expert}.{name}.weight"] = values[expert, cut]  # type: ignore[index]
    return tensors


def test_mxfp4_experts_stay_in_four_bits(tmp_path: Path, ops: Ops) -> None:
    plain = arrays(OSS)
    tensors = with_mxfp4(plain)
    found = open_checkpoint(write(tmp_path, {**OSS, "quantization_config": QUANTIZED}, tensors))
    assert "quantization_config" not in found.config and found.names == plain.names
    one = found.stored("model.layers.1.mlp.experts.4.gate_proj.weight", (64, 64))
    assert (one.kind, one.data.shape) == ("MXFP4", (64, 34))
    assert np.array_equal(widen(one).data, plain.arrays["model.layers.1.mlp.experts.4.gate_proj.weight"])
    theirs = logits(plain, ops)
    assert np.abs(logits(found, ops) - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.oracle
def test_mxfp4_is_read_as_transformers_reads_it() -> None:
    torch = pytest.importorskip("torch")
    integration = pytest.importorskip("transformers.integrations.mxfp4")
    blocks, scales, values = mxfp4(np.random.default_rng(1), 2, 6, 64)
    theirs = integration.convert_moe_packed_tensors(
        torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32
    )
    assert np.array_equal(theirs.numpy().swapaxes(1, 2), values)


@pytest.mark.parametrize("break_, words", [
    (lambda t: t.pop("model.layers.0.mlp.experts.down_proj_scales"), "has no scales"),
    (lambda t: _put(t, "down_proj_scales", lambda a: a[:3]), "not blocks of 32"),
    (lambda t: _put(t, "down_proj_scales", lambda a: a[:, :5]), "scales of an expert for"),
    (lambda t: _put(t, "down_proj_scales", lambda a: a.astype(np.float32)), "not blocks of 32"),
    (lambda t: _put(t, "down_proj_scales", lambda a: np.where(a == a[3, 5, 0], 255, a).astype(np.uint8)), "not numbers"),
    (lambda t: _put(t, "gate_up_proj_blocks", lambda a: a[..., :8]), "not blocks of 32"),
    (lambda t: _put(t, "gate_up_proj_blocks", lambda a: a[..., 0]), "not 4 dimensions"),
    (lambda t: _put(t, "gate_up_proj_bias", lambda a: a[:, :9]), r"shape \[5\]"),
    (lambda t: _put(t, "gate_up_proj_bias", lambda a: a[:2]), r"lack .*experts\.2\.gate_proj\.bias"),
])  # fmt: skip
def test_experts_that_do_not_fit_are_named(break_: Callable[[Tensors], Any], words: str, tmp_path: Path) -> None:
    tensors = with_mxfp4(arrays(OSS))
    break_(tensors)
    files = write(tmp_path, {**OSS, "quantization_config": QUANTIZED}, tensors)
    with pytest.raises(BadModel, match=words):
        build(open_checkpoint(files), backend())


def _put(tensors: Tensors, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    name = f"model.layers.0.mlp.experts.{name}"
    tensors[name] = change(tensors[name])


def test_experts_of_integers_are_refused(tmp_path: Path) -> None:
    tensors = dict(arrays(OSS).arrays)
    as_gpt_oss(tensors)
    _put(tensors, "down_proj", lambda a: a.astype(np.int32))
    with pytest.raises(BadModel, match="of type I32"):
        build(open_checkpoint(write(tmp_path, OSS, tensors)), backend())


@pytest.mark.parametrize("bits", (8, 4))
def test_quantised_at_load_routers_keep_their_bits(bits: int) -> None:
    config = tiny_models.config("qwen2-moe")
    plain = arrays(config)
    builder = Build(backend(), plain, 64, bits)
    model: Any = Decoder(builder, family(config), family(config).config.from_hf(config), plain.names)
    for block in model.blocks:
        assert block.mlp.router.weight.format == block.mlp.shared_gate.weight.format == "f32"
        assert {weight.format for weight in block.mlp.mixture.down} == {"w8" if bits == 8 else "w4"}
