"""Latent attention's layer: the product that makes keys and values, whole or in halves, in every kind a file may have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gguf
import numpy as np
import pytest

from radixmill.core.errors import BadModel
from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.kernels.contract import Ops, Stored, in_place
from radixmill.device.layers import Build
from radixmill.device.layers.mla import _halves
from radixmill.device.loader import DummyCheckpoint
from radixmill.device.models import Decoder, family
from radixmill.device.models.decoder import LayerParts
from radixmill.device.quant import widen
from tests.device import tiny_models
from tests.device.kernel_kit import BACKENDS, backend
from tests.device.model_kit import ArrayCheckpoint, Driver, build, shapes
from tests.device.published import published

CONFIG = tiny_models.config("deepseek-v3")
WHOLE = "model.layers.0.self_attn.kv_b_proj.weight"
HEADS, NOPE, VALUE, RANK = (
    CONFIG[key] for key in ("num_attention_heads", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank")
)
PROMPT = [3, 17, 5, 60, 60, 1, 44, 9, 61, 23, 2]


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(request.param, "exact")


def arrays() -> dict[str, np.ndarray]:
    made = DummyCheckpoint(CONFIG, shapes(CONFIG))
    return {
        name: made.vector(name) if len(shape) == 1 else made.stored(name).data for name, shape in shapes(CONFIG).items()
    }


def logits(checkpoint: Any, ops: Ops) -> np.ndarray:
    return Driver(build(checkpoint, ops)).run([PROMPT], [[len(PROMPT)]])[0]


def apart(whole: np.ndarray, stem: str) -> dict[str, np.ndarray]:
    """As GGUF's deepseek2 has it: of each head [rank, nope], and [value, rank]."""
    heads = whole.reshape(HEADS, NOPE + VALUE, RANK)
    keys = {f"{stem}.k.{h}.weight": np.ascontiguousarray(head[:NOPE].T) for h, head in enumerate(heads)}
    return keys | {f"{stem}.v.{h}.weight": head[NOPE:] for h, head in enumerate(heads)}


def test_halves_may_lie_apart(ops: Ops) -> None:
    whole, halves = arrays(), arrays()
    for layer in range(CONFIG["num_hidden_layers"]):
        stem = f"model.layers.{layer}.self_attn.kv_b_proj"
        halves |= apart(halves.pop(f"{stem}.weight"), stem)
    np.testing.assert_array_equal(
        logits(ArrayCheckpoint(CONFIG, halves), ops), logits(ArrayCheckpoint(CONFIG, whole), ops)
    )


@dataclass
class One(ArrayCheckpoint):
    """With one matrix as it is given."""

    matrix: Stored | None = None

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        return self.matrix if name == WHOLE and self.matrix else super().stored(name, shape)


def stored(kind: str) -> Stored:
    values = arrays()[WHOLE]
    if kind == "BF16":
        return Stored(kind, values.shape, (values.view(np.uint32) >> 16).astype(np.uint16))
    if kind == "F32":
        return Stored(kind, values.shape, values)
    return Stored(kind, values.shape, gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]))


def halves_of(tensor: Stored, ops: Ops, bits: int | None = None) -> tuple[Any, Any, Build]:
    checkpoint = One(CONFIG, arrays(), matrix=tensor)
    kind = family(CONFIG)
    config: Any = kind.config.from_hf(CONFIG)
    made = Build(ops, checkpoint, 8, bits)
    keys, values = _halves(made, LayerParts(kind.weights, config, "model.", 0), config.latent(0))
    return keys, values, made


@pytest.mark.parametrize("order", (None, np.random.default_rng(0).permutation(RANK)))
@pytest.mark.parametrize("kind", ("F32", "F16", "BF16", "Q8_0", "Q4_1"))
def test_what_halves_hold_is_what_the_file_says(kind: str, order: Any, ops: Ops) -> None:
    tensor = replace(stored(kind), order=order)
    meant = widen(tensor).data if order is None else in_place(widen(tensor).data, order)
    heads = meant.reshape(HEADS, NOPE + VALUE, RANK)
    keys, values, _ = halves_of(tensor, ops)
    every_key = np.broadcast_to(np.eye(NOPE, dtype=np.float32)[:, None], (NOPE, HEADS, NOPE)).copy()
    every_value = np.broadcast_to(np.eye(RANK, dtype=np.float32)[:, None], (RANK, HEADS, RANK)).copy()
    np.testing.assert_array_equal(ops.linear_heads(every_key, keys).transpose(1, 0, 2), heads[:, :NOPE])
    np.testing.assert_array_equal(ops.linear_heads(every_value, values).transpose(1, 2, 0), heads[:, NOPE:])


@pytest.mark.parametrize(
    ("kind", "bits", "keys", "values"),
    [
        ("F32", None, "f32", "f32"),
        ("F16", None, "f16", "f16"),
        ("BF16", None, "bf16", "bf16"),
        ("Q8_0", None, "f32", "w8"),  # what is packed along its rows cannot turn
        ("BF16", 8, "w8", "w8"),
        ("BF16", 4, "w4", "w4"),
    ],
)
def test_halves_keep_their_kind(kind: str, bits: int | None, keys: str, values: str, ops: Ops) -> None:
    formats: list[str] = []
    pack = ops.pack

    class Noted(type(ops)):  # type: ignore[misc]
        def pack(self, tensor: Stored) -> Any:
            weight = pack(tensor)
            formats.append(weight.format)
            return weight

    ops.__class__ = Noted
    halves_of(stored(kind), ops, bits)
    assert formats == [keys] * HEADS + [values] * HEADS


def test_a_checkpoint_without_either_is_told_what_it_lacks() -> None:
    names = set(arrays()) - {WHOLE}
    kind = family(CONFIG)
    with pytest.raises(BadModel, match=r"lack tensor model\.layers\.0\.self_attn\.kv_b_proj\.weight"):
        kind.weights.check(kind.config.from_hf(CONFIG), names)


def test_one_head_too_few_is_named() -> None:
    halves = arrays()
    for layer in range(CONFIG["num_hidden_layers"]):
        stem = f"model.layers.{layer}.self_attn.kv_b_proj"
        halves |= apart(halves.pop(f"{stem}.weight"), stem)
    del halves["model.layers.1.self_attn.kv_b_proj.v.3.weight"]
    kind = family(CONFIG)
    with pytest.raises(BadModel, match=r"lack tensor model\.layers\.1\.self_attn\.kv_b_proj\.v\.3\.weight"):
        Decoder(
            Build(backend("reference", "exact"), ArrayCheckpoint(CONFIG, halves), 8),
            kind,
            kind.config.from_hf(CONFIG),
            halves,
        )


@pytest.mark.skipif(not native_isa(), reason="the compiled kernels are not installed")
@pytest.mark.parametrize("name", ["DeepSeek-V2", "DeepSeek-V2-Lite", "DeepSeek-V3", "Kimi-K2-Instruct"])
def test_what_a_token_keeps_in_a_layer(name: str) -> None:
    """One latent and what turns, once, for all heads."""
    config = published(name)
    shape = config.kv(config.layers - 1)
    for kv, nbytes in (("f16", 2 * (512 + 64)), ("f32", 4 * (512 + 64)), ("int8", 512 + 64 + 4)):
        ops = open_backend("cpu", "fast", 1, native_isa(), kv)  # type: ignore[arg-type]
        assert shape.nbytes(kv) == nbytes == ops.kv_bytes_per_token(shape, 64)  # type: ignore[arg-type]
