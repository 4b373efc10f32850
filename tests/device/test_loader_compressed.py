"""Packed integers of compressed-tensors: what the files mean is what is computed with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Ops
from tests.device.grouped_kit import compressed_config, model
from tests.device.kernel_kit import BACKENDS, backend
from tests.device.test_loader_grouped import Q0, opened, pair


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(request.param, "exact")


@pytest.mark.parametrize("middle", (True, False), ids=("symmetric", "asymmetric"))
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 128), (4, -1), (8, -1), (8, 32), (2, 64), (3, 32)])
def test_packed_compressed_tensors(bits: int, group: int, middle: bool, tmp_path: Path, ops: Ops) -> None:
    how = {"bits": bits, "group": group, "middle": middle}
    packed = model("compressed-tensors", compressed_config(bits, group, middle), **how)
    found, meant = pair(packed, tmp_path, ops)
    assert np.isfinite(meant).all() and meant.std() > 1e-3
    if bits == 8 and not middle:  # which no block holds
        assert np.abs(found - meant).max() < 1e-3 * np.abs(meant).max()
        return
    np.testing.assert_array_equal(found, meant)
    kind = opened(tmp_path).stored(f"{Q0}.weight", (128, 128)).kind
    assert kind == ("Q8_0" if bits == 8 else "Q4_0" if middle or bits < 4 else "Q5_0")


def test_packed_compressed_tensors_in_act_order(tmp_path: Path, ops: Ops) -> None:
    how = {"bits": 4, "group": 32, "shuffled": 3}
    packed = model("compressed-tensors", compressed_config(4, 32, False, actorder="group"), **how)
    assert f"{Q0}.weight_g_idx" in packed.files
    found, meant = pair(packed, tmp_path, ops)
    assert np.abs(found - meant).max() < 1e-5 * np.abs(meant).max()


@pytest.mark.parametrize(("change", "words"), [
    ({"num_bits": 5}, "'num_bits': 5"), ({"type": "float"}, "'type': 'float'"), ({"strategy": "tensor"}, "'strategy': 'tensor'"),
])  # fmt: skip
def test_compressed_tensors_of_other_kinds(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    packed = model("compressed-tensors", compressed_config(4, 32, True), group=32, middle=True)
    packed.quantization = compressed_config(4, 32, True, **change)
    with pytest.raises(BadModel, match=words):
        opened(packed.write(tmp_path))


def test_compressed_tensors_that_do_not_fit(tmp_path: Path) -> None:
    whole = model("compressed-tensors", compressed_config(4, 32, False), group=32)
    for part, change, words in (
        ("weight_scale", lambda a: a[:5], "weight_scale has shape"),
        ("weight_scale", lambda a: a[:, :3], "do not share evenly"),
        ("weight_zero_point", lambda a: a[:3], "weight_zero_point has shape"),
        ("weight_packed", lambda a: a.astype(np.float32), "not I32"),
    ):
        files = {**whole.files, f"{Q0}.{part}": change(whole.files[f"{Q0}.{part}"])}
        broken = replace(whole, files=files).write(tmp_path / f"{part}{words[:6]}")
        with pytest.raises(BadModel, match=words):
            opened(broken).stored(f"{Q0}.weight")
    both = compressed_config(4, 32, True)["config_groups"]["group_0"]
    other = compressed_config(8, 32, True)["config_groups"]["group_0"]
    whole.quantization["config_groups"] = {"a": both, "b": other}
    with pytest.raises(BadModel, match="in 2 ways"):
        opened(whole.write(tmp_path))
