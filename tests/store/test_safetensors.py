"""The safetensors reader: agreement with the package that writes them, and damaged files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from radixmill.core.errors import BadModel
from radixmill.store.safetensors import SafetensorsFile, SafetensorsFolder

RNG = np.random.default_rng(0)
TENSORS = {
    "a": RNG.standard_normal((3, 4)).astype(np.float32),
    "b": RNG.standard_normal(5).astype(np.float16),
    "c": np.arange(6, dtype=np.int64).reshape(2, 3),
    "d": np.array([True, False, True]),
    "scalar": np.array(2.5, np.float64),
    "none": np.zeros((0, 4), np.float32),
}


def raw(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("st") / "m.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "damaged.safetensors"


def read(path: Path) -> SafetensorsFile | None:
    try:
        return SafetensorsFile(path)
    except BadModel as error:
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 600
        return None


def test_reads_what_the_package_writes(good: bytes, scratch: Path) -> None:
    scratch.write_bytes(good)
    file = SafetensorsFile(scratch)
    assert file.metadata == {"format": "pt"} and set(file.tensors) == set(TENSORS)
    for name, values in TENSORS.items():
        assert file.data(name).dtype == values.dtype
        np.testing.assert_array_equal(file.data(name), values)


def test_bfloat16_is_its_bits(scratch: Path) -> None:
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    scratch.write_bytes(raw({"w": entry("BF16", [3], [0, 6])}, bits.tobytes()))
    found = SafetensorsFile(scratch).data("w")
    np.testing.assert_array_equal((found.astype(np.uint32) << 16).view(np.float32), values)


def test_every_cut_is_refused(good: bytes, scratch: Path) -> None:
    for at in range(len(good)):
        scratch.write_bytes(good[:at])
        assert read(scratch) is None, at


@settings(max_examples=400, deadline=None)
@given(at=st.integers(0, 2000), value=st.binary(min_size=1, max_size=8))
def test_damaged_files_are_refused_or_read(good: bytes, scratch: Path, at: int, value: bytes) -> None:
    at %= len(good)
    scratch.write_bytes(good[:at] + value + good[at + len(value) :])
    if file := read(scratch):
        for name in file.tensors:
            file.data(name).sum()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(
    header=st.dictionaries(st.text(max_size=3), json_values | st.builds(entry, json_values, json_values, json_values))
)
@example(header={"beyond": entry(shape=[1 << 20], offsets=[0, 1 << 22])})
@example(header={"before": entry(offsets=[-8, 0])})
@example(header={"other": entry(shape=[1 << 20], offsets=[0, 8])})
def test_any_json_header_is_refused_or_read(scratch: Path, header: dict[str, Any]) -> None:
    scratch.write_bytes(raw(header, bytes(16)))
    if file := read(scratch):
        assert all(file.data_start <= t.offset <= t.offset + t.nbytes <= file.size for t in file.tensors.values())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"1234", "no header"),
        (struct.pack("<Q", 2**63) + b"{}", "damaged or cut short"),
        (raw(b"{" * 100_000), "not JSON"),
        (raw(b"[" * 100_000), "not JSON"),
        (raw([1]), "not a JSON object"),
        (raw({"w": 3}), "no dtype"),
        (raw({"w": entry("F33")}, bytes(8)), "dtype"),
        (raw({"w": entry(shape=[-2], offsets=[0, 8])}, bytes(8)), "impossible"),
        (raw({"w": entry(shape=[2**61, 8], offsets=[0, 8])}, bytes(8)), "but its place has 8"),
        (raw({"w": entry(shape=[True], offsets=[0, 4])}, bytes(8)), "impossible"),
        (raw({"w": entry(offsets=[8, 0])}, bytes(8)), "but its place has -8"),
        (raw({"w": entry(offsets=[8, 16])}, bytes(8)), "cut short"),
        (raw({"v": entry(), "w": entry(offsets=[4, 12])}, bytes(12)), "overlap"),
    ],
)
def test_what_is_wrong_is_said(scratch: Path, content: bytes, says: str) -> None:
    scratch.write_bytes(content)
    with pytest.raises(BadModel, match=says):
        SafetensorsFile(scratch)


def shards(folder: Path) -> None:
    save_file({"a": TENSORS["a"]}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": TENSORS["b"]}, folder / "model-00002-of-00002.safetensors")
    where = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_sharded(tmp_path: Path) -> None:
    shards(tmp_path)
    folder = SafetensorsFolder(tmp_path)
    assert set(folder.where) == {"a", "b"} and len(folder.files) == 2
    np.testing.assert_array_equal(folder.data("b"), TENSORS["b"])
    assert folder.info("a").shape == (3, 4)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadModel, match=r"lacks 1 of 2 weight files: model-00002-of-00002\.safetensors"):
        SafetensorsFolder(tmp_path)


def test_an_index_that_lies(tmp_path: Path) -> None:
    shards(tmp_path)
    save_file({"other": TENSORS["b"]}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(BadModel, match="'b' is in"):
        SafetensorsFolder(tmp_path)


def test_the_same_tensor_twice(tmp_path: Path) -> None:
    shards(tmp_path)
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(BadModel, match="stands in"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {}}']
)
def test_a_damaged_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BadModel, match="weight_map"):
        SafetensorsFolder(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="no safetensors"):
        SafetensorsFolder(tmp_path)
