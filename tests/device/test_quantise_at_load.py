"""--quantization: which matrices are quantised, to what, and that the model is then the one of those values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config, Hardware, ModelOptions
from radixmill.core.spec import ModelSpec
from radixmill.device.executor import open_executor
from radixmill.device.kernels.contract import Ops, Stored, Weight
from radixmill.device.layers import Build
from radixmill.device.loader import DummyCheckpoint
from radixmill.device.models import Decoder, family
from radixmill.store import ModelFiles
from tests.device import grouped_kit
from tests.device.kernel_kit import BACKENDS, backend, values_of
from tests.device.model_kit import ArrayCheckpoint, Driver, dummy

CONFIG: dict[str, Any] = {**grouped_kit.CONFIG, "torch_dtype": "bfloat16"}
HARDWARE = Hardware(cores=2, free_bytes=1 << 28, isa="")
PROMPT = [3, 17, 5, 60, 1, 44, 9]


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(request.param, "exact")


def built(checkpoint: Any, ops: Ops, bits: int | None) -> tuple[Decoder, Build]:
    kind = family(checkpoint.config)
    build = Build(ops, checkpoint, 64, bits)
    return Decoder(build, kind, kind.config.from_hf(checkpoint.config), checkpoint.names), build


def logits(model: Decoder) -> np.ndarray:
    return Driver(model).run([PROMPT], [[len(PROMPT)]])[0]


def rounded(checkpoint: DummyCheckpoint, bits: int) -> ArrayCheckpoint:
    """The same model with the values that blocks of so many bits have."""
    ops, arrays = backend("reference", "exact"), {}
    for name in checkpoint.names:
        if name.endswith("norm.weight"):
            arrays[name] = checkpoint.vector(name)
            continue
        kind: Literal["Q8_0", "Q4_1"] = "Q4_1" if bits == 4 and ".layers." in name else "Q8_0"
        arrays[name] = values_of(ops.blocks(checkpoint.stored(name), kind))
    return ArrayCheckpoint(checkpoint.config, arrays)


@pytest.mark.parametrize("bits", (8, 4))
@pytest.mark.parametrize("tied", (False, True))
def test_the_model_is_that_of_the_rounded_values(bits: int, tied: bool, ops: Ops) -> None:
    source = dummy({**CONFIG, "tie_word_embeddings": tied})
    found, build = built(source, ops, bits)
    meant, _ = built(rounded(source, bits), ops, None)
    plain, _ = built(source, ops, None)
    np.testing.assert_array_equal(logits(found), logits(meant))
    assert np.abs(logits(found) - logits(plain)).max() > 1e-4
    assert build.quantised_to == bits


def formats(model: Decoder) -> set[str]:
    block: Any = model.blocks[0]
    linears = (*block.attention.projections, block.attention.out, block.mlp.gate_up, block.mlp.down)
    weights: list[Weight] = [linear.weight for linear in linears]
    return {weight.format for weight in weights}


@pytest.mark.parametrize("bits", (8, 4))
def test_embedding_and_head_have_eight_bits(bits: int, ops: Ops) -> None:
    model, build = built(dummy(CONFIG), ops, bits)
    assert (model.embed.weight.format, model.head.weight.format) == ("w8", "w8")
    assert formats(model) == {f"w{bits}"}
    notes = {4: ("14 matrices quantised to 4 bits at load", "2 matrices quantised to 8 bits at load")}
    assert build.notes == notes.get(bits, ("16 matrices quantised to 8 bits at load",))


def test_asking_for_nothing_changes_nothing(ops: Ops) -> None:
    model, build = built(dummy(CONFIG), ops, None)
    assert formats(model) == {"bf16"} and build.quantised_to is None and not build.notes


def test_rows_that_no_block_fits_stay(ops: Ops) -> None:
    model, build = built(dummy({**CONFIG, "intermediate_size": 100}), ops, 4)
    assert formats(model) == {"w4", "bf16"}
    assert "2 matrices not quantised: their rows are no multiple of 32 values" in build.notes


class Given(ArrayCheckpoint):
    """One of blocks already."""

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        found = super().stored(name, shape)
        return backend("reference", "exact").blocks(found, "Q8_0") if "up_proj" in name else found


def test_what_is_quantised_already_stays_and_is_said(ops: Ops) -> None:
    source = dummy(CONFIG)
    given = Given(CONFIG, rounded(source, 8).arrays)
    model, build = built(given, ops, 4)
    assert "2 matrices of kind Q8_0 left as the file has them, quantised already" in build.notes
    assert formats(model) == {"w4", "w4+w8"}


def spec(path: Path, quantization: str, config: Any = CONFIG, load_format: str = "dummy") -> ModelSpec:
    path.mkdir(exist_ok=True)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    options = Config(
        model=ModelOptions(load_format=load_format),
        compute=ComputeOptions(quantization=quantization),
        cache=CacheOptions(max_total_tokens=4096),
    )
    return open_executor(options, ModelFiles("m", path), HARDWARE).spec


def test_numerics_ids_tell_them_apart(tmp_path: Path) -> None:
    auto, w8, w4 = (spec(tmp_path, name) for name in ("auto", "w8", "w4"))
    assert len({auto.numerics, w8.numerics, w4.numerics}) == 3
    assert "14 matrices quantised to 4 bits at load" in w4.notes


def test_packed_layers_stay_and_an_embedding_of_floats_does_not(tmp_path: Path) -> None:
    packed = grouped_kit.model("gptq", keep=())
    path = packed.write(tmp_path / "m")
    auto, w8 = (spec(path, name, None, "auto") for name in ("auto", "w8"))
    assert auto.numerics != w8.numerics and "1 matrix quantised to 8 bits at load" in w8.notes
    assert any("15 matrices of kind Q5_0 left as the file has them" in note for note in w8.notes)
