"""Hashes of weights: right, remembered, and never of files that are not what was loaded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from radixmill.store import ModelFiles, digest
from radixmill.store.digest import DUMMY, Unhashed, WeightDigest, marks, write_whole


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RADIXMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / f"{name}.safetensors").write_bytes(name.encode() * 1000)
    return folder


def hash_of(files: ModelFiles) -> str:
    return WeightDigest(files).start().result(30)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are really hashed from now on."""
    real, seen = digest._sha256, []
    monkeypatch.setattr(digest, "_sha256", lambda path: seen.append(path) or real(path))
    return seen


def test_a_file_has_its_own_hash_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "m.gguf", reads(monkeypatch)
    path.write_bytes(b"weights" * 3_000_000)
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [hash_of(ModelFiles("m", path)) for _ in range(3)] == [wanted] * 3 and seen == [path]


def test_a_folder_has_the_hash_that_sha256sum_gives(folder: Path) -> None:
    shown = subprocess.run("LC_ALL=C sha256sum *.safetensors | sha256sum", shell=True, cwd=folder, capture_output=True)
    assert hash_of(ModelFiles("m", folder)) == shown.stdout.split()[0].decode()


def test_what_the_catalogue_vouches_for_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = reads(monkeypatch)
    assert hash_of(ModelFiles("m", tmp_path / "gone.gguf", "abc")) == "abc"
    assert WeightDigest(ModelFiles("m", tmp_path / "gone"), dummy=True).start().result() == DUMMY
    assert not seen


def test_another_file_at_the_same_path_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = hash_of(ModelFiles("m", folder)), reads(monkeypatch)
    path = folder / "a.safetensors"
    old = path.stat()
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    assert hash_of(ModelFiles("m", folder)) != before and seen == [path]


def test_files_that_changed_since_the_model_was_loaded_have_no_hash(folder: Path) -> None:
    weights = WeightDigest(ModelFiles("m", folder))
    (folder / "a.safetensors").write_bytes(b"other")
    with pytest.raises(Unhashed, match=r"a\.safetensors has changed since"):
        weights.start().result(30)


def test_marks_that_were_taken_when_the_files_were_loaded_outlive_who_asks(folder: Path) -> None:
    loaded = marks(ModelFiles("m", folder))
    assert WeightDigest(ModelFiles("m", folder), loaded).start().result(30) == hash_of(ModelFiles("m", folder))
    (folder / "b.safetensors").write_bytes(b"z" * 1000)
    for known, why in ((loaded, r"b\.safetensors has changed since"), ((), "not known which files")):
        with pytest.raises(Unhashed, match=why):
            WeightDigest(ModelFiles("m", folder), known).start().result(30)


def test_a_file_that_changes_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, real = WeightDigest(ModelFiles("m", folder)), digest._sha256

    def slow(path: Path) -> str:
        found = real(path)
        path.write_bytes(b"other")
        return found

    monkeypatch.setattr(digest, "_sha256", slow)
    with pytest.raises(Unhashed, match="while it was read"):
        weights.start().result(30)


def test_a_failure_is_not_for_ever(folder: Path) -> None:
    path = folder / "a.safetensors"
    weights, aside = WeightDigest(ModelFiles("m", folder)), folder / "aside"
    path.rename(aside)
    with pytest.raises(Unhashed, match="cannot be read"):
        weights.start().result(30)
    aside.rename(path)
    assert len(weights.start().result(30)) == 64
    assert weights.start() is weights.start()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"x": 1}', b"[" * 100_000, b"\xff"])
def test_a_damaged_cache_is_no_cache(folder: Path, cache: Path, damage: bytes) -> None:
    wanted = hash_of(ModelFiles("m", folder))
    entries = json.loads((cache / "digests.json").read_bytes())
    (cache / "digests.json").write_bytes(damage)
    assert hash_of(ModelFiles("m", folder)) == wanted
    assert json.loads((cache / "digests.json").read_bytes()).items() >= entries.items()
    odd = {key: {"mark": None, "sha256": 7} for key in entries}
    (cache / "digests.json").write_text(json.dumps(odd))
    assert hash_of(ModelFiles("m", folder)) == wanted


def test_a_cache_that_cannot_be_written(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_bytes(b"a file where the folder should be")
    assert len(hash_of(ModelFiles("m", folder))) == 64

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache.unlink()
    monkeypatch.setattr(digest, "write_whole", full)
    assert len(hash_of(ModelFiles("m", folder))) == 64


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x" / "y.json"
    write_whole(path, b"one")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_whole(path, b"two")
    assert [p.name for p in path.parent.iterdir()] == ["y.json"] and path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o600
