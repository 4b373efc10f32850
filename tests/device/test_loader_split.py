"""A model in several GGUF files computes the same bits as in one, and is watched in all of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from radixmill.core.config import Config
from radixmill.core.errors import BadModel, ModelChanged
from radixmill.core.spec import Identity
from radixmill.device.executor import open_executor
from radixmill.device.kernels import open_backend
from radixmill.device.loader import open_checkpoint
from radixmill.store import GGUFFile, ModelFiles, digest
from radixmill.store.digest import WeightDigest
from tests.device.gguf_kit import CONFIGS, weights, write_gguf
from tests.device.test_loader_agree import logits
from tests.device.test_runner import HARDWARE, config
from tests.store.split_kit import split


def in_parts(path: Path, name: str, *, first: int | None = None) -> list[Path]:
    """Three, with the same number of tensors in each, or `first` in the first."""
    whole = write_gguf(path, CONFIGS[name], weights(CONFIGS[name]))
    count = len(gguf.GGUFReader(whole).tensors)
    lead = count // 3 if first is None else first
    return split(whole, (lead, (count - lead) // 2, count - lead - (count - lead) // 2))


@pytest.mark.parametrize(("name", "first"), [("llama", 0), ("qwen3moe", None)])
def test_the_same_bits_and_room(name: str, first: int | None, tmp_path: Path) -> None:
    whole = ModelFiles("m", write_gguf(tmp_path / "whole.gguf", CONFIGS[name], weights(CONFIGS[name])))
    parts = in_parts(tmp_path / "m.gguf", name, first=first)
    ops = open_backend("reference", mode="exact", threads=1, isa="auto")
    one, two = open_checkpoint(whole), open_checkpoint(ModelFiles("m", parts[0]))
    assert list(two.lying()) == list(one.lying()) and two.names == one.names and two.config == one.config
    np.testing.assert_array_equal(logits(two, ops), logits(one, ops))


@pytest.mark.parametrize("at", range(3))
def test_the_fingerprint_is_of_every_part(at: int, tmp_path: Path) -> None:
    parts = in_parts(tmp_path / "m.gguf", "llama")
    before = open_checkpoint(ModelFiles("m", parts[0])).fingerprint
    flip(parts[at], parts[at].stat().st_size - 33)  # before the padding at the end
    assert open_checkpoint(ModelFiles("m", parts[0])).fingerprint != before


def test_memory_is_given_back_whichever_part_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = in_parts(tmp_path / "m.gguf", "llama")
    given = list[int]()
    monkeypatch.setattr("radixmill.store.mapped.Lent._give_back", lambda lent: given.append(len(lent._parts)))
    file = GGUFFile(parts[0])
    for name in file.tensors:
        file.data(name)
    assert given[:9] == [0, 1, 2, 3, 4, 5, 6, 7, 8] and set(given[9:]) == {8}


def load(files: ModelFiles, earlier: Identity | None = None) -> Identity:
    return open_executor(stored(), files, replace(HARDWARE, free_bytes=1 << 27), earlier=earlier).spec.identity


def stored() -> Config:
    return replace(config(), model=replace(config().model, load_format="auto"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_part_that_changed_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "cache_folder", lambda: tmp_path / "cache")
    parts = in_parts(tmp_path / "m.gguf", "llama")
    files = ModelFiles("m", parts[0])
    first = load(files)
    assert [mark.name for mark in first.weight_marks] == [part.name for part in parts]
    assert load(files, first) == first
    WeightDigest(files, first.weight_marks).start().result(30)
    kept = parts[1].stat()
    os.utime(parts[1], ns=(kept.st_atime_ns, kept.st_mtime_ns + 10**9))  # touched only, and its hash is known
    second = load(files, first)
    assert second.numerics == first.numerics and second.weight_marks != first.weight_marks
    flip(parts[1], kept.st_size - 33)
    with pytest.raises(ModelChanged, match=r"^m-00002-of-00003\.gguf changed on disk"):
        load(files, first)
    parts[1].unlink()
    with pytest.raises(BadModel, match=r"missing: m-00002-of-00003\.gguf"):
        load(files, first)
