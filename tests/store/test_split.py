"""Models in several GGUF files: all parts are found from any, read as one, and refused where they are not parts of one."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import gguf
import huggingface_hub
import numpy as np
import pytest

from radixmill.core.config import ModelOptions
from radixmill.core.errors import BadModel
from radixmill.store import GGUFFile, ModelFiles, find, generation_defaults
from radixmill.store.cli import pull_command
from radixmill.store.digest import WeightDigest, marks
from radixmill.store.split import part_names, whole_name
from radixmill.store.texts import text_marks
from tests.store.split_kit import split
from tests.store.test_find import FakeHub, use
from tests.store.test_gguf import TOKENS, write

NAMES = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADIXMILL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return split(write(tmp_path / "m.gguf"), (0, 2, 1))


def test_names() -> None:
    assert part_names("Q4/m-00002-of-00003.gguf") == [f"Q4/{name}" for name in NAMES]
    for alone in ("m.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-0001-of-0003.gguf", ".", ""):
        assert part_names(alone) == [alone]
    assert whole_name("a/m-00002-of-00003.gguf") == "a/m.gguf" and whole_name("a/m") == "a/m"


@pytest.mark.parametrize("counts", [(0, 2, 1), (1, 1, 1), (2, 1, 0)])
@pytest.mark.parametrize("named", range(3))
def test_parts_read_as_the_whole_does(counts: tuple[int, ...], named: int, tmp_path: Path) -> None:
    whole = GGUFFile(write(tmp_path / "whole.gguf"))
    paths = split(write(tmp_path / "m.gguf"), counts)
    file = GGUFFile(paths[named])
    assert file.path == paths[0] and [path.name for path in paths] == NAMES
    assert file.size == sum(path.stat().st_size for path in paths)
    assert file.architecture == "llama" and file.metadata["tokenizer.ggml.tokens"] == TOKENS
    assert list(file.tensors) == list(whole.tensors)
    for name, info in whole.tensors.items():
        mine = file.tensors[name]
        assert (mine.kind, mine.shape, mine.nbytes) == (info.kind, info.shape, info.nbytes)
        assert np.array_equal(file.data(name), whole.data(name))
    assert [path for path, _ in file.heads()] == paths
    for (path, head), count in zip(file.heads(), counts, strict=True):
        assert path.read_bytes().startswith(head) and head.count(b"split.no") == 1
        assert len(head) == path.stat().st_size or count
    view = file.data("one")
    file.close()
    assert view.sum() == 15


def test_what_the_package_splits(tmp_path: Path) -> None:
    """Its writer is llama.cpp's own, of the converters."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=1, small_first_shard=True)
    writer.add_token_list(TOKENS)
    for name in ("one", "two"):
        writer.add_tensor(name, np.full(3, len(name), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    file = GGUFFile(tmp_path / NAMES[2])
    assert sorted(file.tensors) == ["one", "two"] and file.data("two").tolist() == [3, 3, 3]


@pytest.mark.parametrize("gone", range(3))
@pytest.mark.parametrize("named", range(3))
def test_a_part_that_is_missing_is_named(parts: list[Path], gone: int, named: int) -> None:
    parts[gone].unlink()
    with pytest.raises(BadModel, match=f"of which 1 are missing: {parts[gone].name}"):
        GGUFFile(parts[named])
    with pytest.raises(BadModel, match=f"of which 1 are missing: {parts[gone].name}"):
        find(str(parts[named]))
    with pytest.raises(BadModel, match=f"of which 1 are missing: {parts[gone].name}"):
        find(str(parts[named].parent))
    with pytest.raises(BadModel, match=parts[gone].name):
        marks(ModelFiles("m", parts[0]))


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({1: {"split.no": 2}}, r"00002-of-00003.gguf is part 2 of 3 by its name, and part 3 of 3 by its header"),
        ({0: {"split.no": 1}}, r"00001-of-00003.gguf is part 1 of 3 by its name, and part 2 of 3 by its header"),
        ({2: {"split.count": 4}}, r"part 3 of 3 by its name, and part 3 of 4 by its header"),
        ({0: {"split.count": None, "split.no": None}}, r"has no split\.no and split\.count.*is in one file"),
        ({1: {"split.no": None}}, r"00002-of-00003.gguf .*has no split\.no"),
        ({0: {"split.tensors.count": 4}}, r"00001-of-00003.gguf.* hold 3 tensors, and split\.tensors\.count is 4"),
        ({2: {"split.tensors.count": 2}}, r"00003-of-00003.gguf.* hold 3 tensors, and split\.tensors\.count is 2"),
        ({0: {"split.tensors.count": None}}, r"split\.tensors\.count is None"),
    ],
)
def test_headers_that_say_otherwise(says: dict[int, dict[str, int | None]], words: str, tmp_path: Path) -> None:
    paths = split(write(tmp_path / "m.gguf"), (1, 1, 1), says)
    for path in paths:
        with pytest.raises(BadModel, match=words):
            GGUFFile(path)


def test_a_tensor_in_two_parts(tmp_path: Path) -> None:
    paths = split(write(tmp_path / "m.gguf"), (1, 1, 1), names={"packed": "one"})
    with pytest.raises(BadModel, match=r"'one' stands in m-00001-of-00003\.gguf and in .*m-00003-of-00003\.gguf"):
        GGUFFile(paths[0])


def test_a_part_under_another_name(parts: list[Path]) -> None:
    for part in parts:
        alone = part.rename(part.with_name("alone.gguf"))
        with pytest.raises(BadModel, match=r"split into 3 files.*NAME-00001-of-00003\.gguf"):
            GGUFFile(alone)


def test_one_file_may_be_numbered(tmp_path: Path) -> None:
    path = write(tmp_path / "m-00001-of-00001.gguf")
    assert len(GGUFFile(path).tensors) == 3 and find(str(path)).name == "m"
    says = split(path, (3,))
    assert [p.name for p in says] == ["m-00001-of-00001-00001-of-00001.gguf"] and len(GGUFFile(says[0]).tensors) == 3


@pytest.mark.parametrize("named", range(3))
def test_any_part_or_their_folder_is_the_model(parts: list[Path], named: int) -> None:
    found = ModelFiles("m", parts[0])
    assert find(str(parts[named])) == found == find(str(parts[named].parent))
    assert generation_defaults(found) == {}
    out = io.StringIO()
    pull_command(str(parts[named]), out=out)
    nbytes = sum(part.stat().st_size for part in parts)
    assert out.getvalue() == f"m: {nbytes / 1024:.1f} KiB in {parts[0]}\n"


def test_a_folder_of_several_lists_each_once(parts: list[Path]) -> None:
    write(parts[0].with_name("n.gguf"))
    with pytest.raises(BadModel, match=r"2 GGUF files: m-00001-of-00003\.gguf, n\.gguf\. Name one: .*m-00001"):
        find(str(parts[0].parent))


def test_marks_and_hash_are_of_all_parts(parts: list[Path]) -> None:
    files = ModelFiles("m", parts[0])
    before = marks(files)
    assert [mark.name for mark in before] == NAMES
    shown = subprocess.run("sha256sum m-*.gguf | sha256sum", shell=True, cwd=parts[0].parent, capture_output=True)
    first = WeightDigest(files).start().result(30)
    assert first == shown.stdout.split()[0].decode()
    assert [mark.name for mark in text_marks(files, ModelOptions())] == NAMES[:1]
    other = ModelOptions(tokenizer=str(parts[1]))
    assert [mark.name for mark in text_marks(ModelFiles("x", parts[0].parent / "x.gguf"), other)] == NAMES[:1]
    data = bytearray(parts[1].read_bytes())
    data[-1] ^= 1
    parts[1].write_bytes(data)
    assert [a.same_as(b) for a, b in zip(before, marks(files), strict=True)] == [True, False, True]
    assert WeightDigest(files).start().result(30) != first


@pytest.mark.parametrize("named", range(3))
def test_a_hub_id_with_a_file_takes_all_its_parts(named: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"Q4/{name}" for name in NAMES]
    use(monkeypatch, FakeHub(tmp_path / "snap", *names, "Q8/m-00001-of-00003.gguf", "README.md"))
    found = find(f"owner/model/{names[named]}")
    assert found == ModelFiles("owner/model/Q4/m.gguf", tmp_path / "snap" / names[0])
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == NAMES


def test_a_hub_id_with_one_model_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeHub(tmp_path / "snap", *NAMES, "mmproj.gguf"))
    wanted = ModelFiles("owner/model", tmp_path / "snap" / NAMES[0])
    assert find("owner/model") == wanted
    (tmp_path / "snap" / NAMES[1]).unlink()  # a pull was interrupted
    assert find("owner/model") == wanted and (tmp_path / "snap" / NAMES[1]).exists()
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *a, **k: pytest.fail("asked the hub"))
    assert find("owner/model") == wanted


def test_a_hub_id_with_several_models_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{kind}/{name}" for kind in ("Q4", "Q8") for name in NAMES]
    use(monkeypatch, FakeHub(tmp_path / "snap", *names))
    with pytest.raises(BadModel, match=r"2 GGUF files: Q4/m-00001-of-00003.gguf, Q8/m-00001-of-00003.gguf\. Name one"):
        find("owner/model")
    with pytest.raises(BadModel, match="2 are missing"):
        use(monkeypatch, FakeHub(tmp_path / "less", names[1]))
        find(f"owner/model/{names[0]}")
