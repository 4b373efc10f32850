"""The GGUF reader: agreement with the `gguf` package, and damaged files."""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.errors import BadModel
from radixmill.store.gguf import BLOCKS, KINDS, GGUFFile, _short_strings
from tests.data import shared

TOKENS = ["<s>", "", "a", "é", "x" * 255, "y" * 256, "z" * 300, "日本語", "\n"] * 3


def write(path: Path, **extra: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_token_list(TOKENS)
    writer.add_token_types([1, 3] * 13 + [1])
    writer.add_array("mixed.nested", [[1, 2], [3, 4]])
    writer.add_bool("a.flag", True)
    for key, value in extra.items():
        writer.add_key_value(key, value, gguf.GGUFValueType.UINT32)
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("half", np.arange(4, dtype=np.float16))
    q8 = gguf.quants.quantize(np.arange(128, dtype=np.float32).reshape(2, 64), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("gguf") / "good.gguf").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "damaged.gguf"


def read(path: Path) -> GGUFFile | None:
    """The file, or None where it is refused as it should be."""
    try:
        return GGUFFile(path)
    except BadModel as error:
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 600
        return None


def test_block_sizes_are_those_of_the_package() -> None:
    assert {int(t): (t.name, *gguf.GGML_QUANT_SIZES[t]) for t in gguf.GGMLQuantizationType} == KINDS
    assert BLOCKS["Q4_1"] == (32, 20)


def test_reads_what_the_package_writes(tmp_path: Path) -> None:
    file = GGUFFile(write(tmp_path / "m.gguf"))
    assert file.version == 3 and file.architecture == "llama"
    assert file.get("{arch}.block_count") == 2 and file.get("absent", 7) == 7
    assert file.metadata["tokenizer.ggml.tokens"] == TOKENS
    assert file.metadata["tokenizer.ggml.token_type"].tolist() == [1, 3] * 13 + [1]
    assert [list(a) for a in file.metadata["mixed.nested"]] == [[1, 2], [3, 4]]
    assert file.metadata["a.flag"] is True
    assert file.tensors["one"].shape == (2, 3) and file.data("one").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert file.data("half").dtype == np.float16
    packed = file.tensors["packed"]
    assert (packed.kind, packed.shape, file.data("packed").shape) == ("Q8_0", (2, 64), (2, 68))


def test_agrees_with_the_package_on_a_real_header() -> None:
    path = shared("vocab", "ggml-vocab-bert-bge.gguf")
    ours = GGUFFile(path).metadata
    for key, field in gguf.GGUFReader(path).fields.items():
        if key.startswith("GGUF."):
            continue
        theirs = field.contents() if len(field.data) < 2000 else [field.contents(i) for i in (0, 500, -1)]
        mine = ours[key] if len(field.data) < 2000 else [ours[key][i] for i in (0, 500, -1)]
        assert mine == theirs if not isinstance(mine, np.ndarray) else mine.tolist() == theirs


def test_views_outlive_the_file(tmp_path: Path) -> None:
    file = GGUFFile(write(tmp_path / "m.gguf"))
    view = file.data("one")
    file.close()
    del file
    assert view.sum() == 15


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=40))
def test_fast_strings_are_the_slow_ones(strings: list[bytes]) -> None:
    chunk = b"".join(struct.pack("<Q", len(s)) + s for s in strings)
    plain = all(len(s) < 256 and 0 not in s for s in strings)
    for tail in (b"", b"\xff" * 40, b"\0" * 40):
        found = _short_strings(chunk + tail, len(strings)) if strings else ([], 0)
        assert found == (([str(s, "utf-8", "surrogateescape") for s in strings], len(chunk)) if plain else None)


def test_bytes_that_are_not_text_survive(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    data = path.read_bytes().replace("日本語".encode(), b"\xff\xfe\xe6\x97\xa5\x80\x80\x80\x80", 1)
    path.write_bytes(data)
    assert (
        GGUFFile(path).metadata["tokenizer.ggml.tokens"][7].encode("utf-8", "surrogateescape").startswith(b"\xff\xfe")
    )


def test_cuts_are_refused(good: bytes, scratch: Path) -> None:
    scratch.write_bytes(good)
    end = max(
        info.offset + info.nbytes for info in GGUFFile(scratch).tensors.values()
    )  # after it there is only padding
    for at in (*range(600), *range(600, end, 7), end - 1):
        scratch.write_bytes(good[:at])
        assert read(scratch) is None, at


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_headers_are_refused_or_read(good: bytes, scratch: Path, data: st.DataObject) -> None:
    """Whatever is overwritten, there is no other exception, and no view beyond the file."""
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good) - 8))
        value = data.draw(
            st.one_of(
                st.integers(0, 255).map(lambda b: bytes([b])),
                st.integers(0, 2**64 - 1).map(lambda n: struct.pack("<Q", n)),
            )
        )
        damaged[at : at + len(value)] = value
    scratch.write_bytes(damaged)
    if file := read(scratch):
        for name in file.tensors:
            file.data(name).sum()


@pytest.mark.parametrize("count", [2**63, 2**40, 2**32, 10**7, 10**5])
@pytest.mark.parametrize("at", [8, 16])
def test_absurd_counts_are_refused_at_once(good: bytes, scratch: Path, at: int, count: int) -> None:
    scratch.write_bytes(good[:at] + struct.pack("<Q", count) + good[at + 8 :])
    started = time.process_time()
    assert read(scratch) is None
    assert time.process_time() - started < 1


@pytest.mark.parametrize("kind", [8, 9, 4, 7])
def test_absurd_arrays_in_a_large_file_are_refused(scratch: Path, kind: int) -> None:
    """A count that the file's size allows, but no model has."""
    key = struct.pack("<Q", 1) + b"k"
    with scratch.open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<IIQ", 9, kind, 1 << 29))
        out.truncate(1 << 36)  # sparse
    started = time.process_time()
    assert read(scratch) is None
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), "version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "big-endian"),
    ],
)
def test_other_files_are_named(scratch: Path, head: bytes, says: str) -> None:
    scratch.write_bytes(head)
    with pytest.raises(BadModel, match=says):
        GGUFFile(scratch)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(BadModel, match="cannot be read"):
            GGUFFile(path)


def test_a_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", **{"split.count": 3, "split.no": 1})
    with pytest.raises(BadModel, match="split into 3 files"):
        GGUFFile(path)


def overlapping(good: bytes) -> Iterator[tuple[bytes, str]]:
    """Files whose second tensor lies on the first, or has an offset beyond the end."""
    at = good.index(b"half") + 4 + 4 + 8 + 4
    yield good[:at] + struct.pack("<Q", 0) + good[at + 8 :], "overlap"
    yield good[:at] + struct.pack("<Q", 1 << 40) + good[at + 8 :], "damaged or cut short"


def test_lying_offsets(good: bytes, scratch: Path) -> None:
    for damaged, says in overlapping(good):
        scratch.write_bytes(damaged)
        with pytest.raises(BadModel, match=says):
            GGUFFile(scratch)


@pytest.mark.weights
def test_the_embedded_model(smollm2: Path, tmp_path: Path) -> None:
    file = GGUFFile(smollm2)
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49152 and len(file.metadata["tokenizer.ggml.merges"]) == 48900
    assert file.tensors["token_embd.weight"].kind == "Q8_0" and len(file.tensors) == 272
    best = min(_seconds(lambda: GGUFFile(smollm2)) for _ in range(5))
    assert best < 0.25  # 0.04 on an idle machine; the package's reader takes seconds
    cut = tmp_path / "cut.gguf"
    shutil.copy(smollm2, cut)
    with cut.open("r+b") as out:
        out.truncate(50_000_000)
    with pytest.raises(BadModel, match="damaged or cut short"):
        GGUFFile(cut)


def _seconds(what: Any) -> float:
    """Of the processor: what else the machine does is no matter."""
    started = time.process_time()
    what()
    return time.process_time() - started
