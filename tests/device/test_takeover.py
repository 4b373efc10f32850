"""An engine that takes over from another serves what that one served, or does not come up."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from array import array
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace as replaced
from safetensors.numpy import save_file

from radixmill.core.config import Config
from radixmill.core.errors import BadModel, ModelChanged
from radixmill.core.spec import FileMark, Identity
from radixmill.device.executor import open_executor
from radixmill.store import ModelFiles, digest
from radixmill.store.digest import WeightDigest
from tests.device.test_loader_agree import weights
from tests.device.test_runner import HARDWARE, TINY, config


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    tensors = weights({**TINY, "vocab_size": 40000})  # larger than what its fingerprint looks at
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "vocab_size": 40000}))
    save_file(tensors, tmp_path / "model.safetensors")
    return ModelFiles("tiny", tmp_path)


def stored() -> Config:
    return replace(config(), model=replace(config().model, load_format="auto"))


def load(files: ModelFiles, earlier: Identity | None = None) -> Identity:
    return open_executor(stored(), files, HARDWARE, earlier=earlier).spec.identity


def test_what_has_not_changed_is_taken_over(files: ModelFiles, tmp_path: Path) -> None:
    first = load(files)
    assert [mark.name for mark in first.weight_marks] == ["model.safetensors"]
    assert load(files, first) == first
    path = tmp_path / "model.safetensors"
    shutil.copy2(path, tmp_path / "copy")  # put back: another inode, the same time
    os.replace(tmp_path / "copy", path)
    assert load(files, first).numerics == first.numerics


def test_weights_that_changed_are_not_though_the_numerics_id_is_the_same(files: ModelFiles, tmp_path: Path) -> None:
    first, path = load(files), tmp_path / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 + 5000)
        file.write(b"\1\2\3\4")
    assert load(files).numerics == first.numerics
    with pytest.raises(ModelChanged, match=r"model\.safetensors changed on disk.*POST /admin/reload"):
        load(files, first)


def test_files_that_cant_be_looked_at_have_not_changed(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for a moment ends no deployment for good: the next engine may find it well."""
    first = load(files)

    def fails(_: ModelFiles) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("radixmill.device.executor.marks", fails)
        assert load(files, first).numerics == first.numerics
    (files.root / "model.safetensors").unlink()
    with pytest.raises(BadModel):
        load(files, first)


@pytest.mark.parametrize("at", [0, 1])
def test_one_look_at_them_is_enough(files: ModelFiles, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    first, looks = load(files), itertools.count()
    changed = (replaced(first.weight_marks[0], mtime_ns=1),)

    def look(_: ModelFiles) -> tuple[FileMark, ...]:
        if next(looks) == at:
            raise OSError(5, "Input/output error")
        return changed

    monkeypatch.setattr("radixmill.device.executor.marks", look)
    with pytest.raises(ModelChanged, match=r"model\.safetensors changed on disk"):
        load(files, first)


def test_weights_that_were_only_touched_are_taken_over_where_their_hash_is_known(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "cache_folder", lambda: tmp_path / "cache")
    first, path = load(files), tmp_path / "model.safetensors"
    vouched = replace(files, sha256=WeightDigest(files, first.weight_marks).start().result(30))
    also = load(vouched)
    kept = path.stat()
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns + 10**9))
    word = memoryview(array("Q", [0]))
    for _ in range(2):  # whoever takes over from the second is told of the first as well
        second = open_executor(stored(), files, HARDWARE, earlier=first, beats=word).spec.identity
        assert second.numerics == first.numerics and second.weight_marks != first.weight_marks
    assert word[0]
    assert load(vouched, also) == replaced(also, weight_marks=second.weight_marks)

    with path.open("r+b") as file:  # the same size, but not the same
        file.seek(path.stat().st_size // 2 + 5000)
        file.write(b"\1\2\3\4")
    for each, earlier in ((files, first), (vouched, also)):
        with pytest.raises(ModelChanged, match="changed on disk"):
            load(each, earlier)


def test_weights_that_were_touched_and_have_no_known_hash_are_refused(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "cache_folder", lambda: tmp_path / "cache")
    first = load(files)
    os.utime(tmp_path / "model.safetensors", ns=(0, 10**18))
    with pytest.raises(ModelChanged):
        load(files, first)


def test_another_configuration_is_not_taken_over(files: ModelFiles) -> None:
    first = load(files)
    (files.root / "config.json").write_text(json.dumps({**TINY, "vocab_size": 40000, "rms_norm_eps": 1e-3}))
    other = load(files)
    with pytest.raises(ModelChanged, match=r"config\.json changed on disk"):
        load(files, first)
    with pytest.raises(ModelChanged, match=f"{first.numerics} became {other.numerics}"):
        load(files, msgspec.structs.replace(first, text_marks=()))
