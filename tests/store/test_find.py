"""Names → files: paths, catalogue names, hub ids, and what is said where there is nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from radixmill.core.errors import BadModel, CannotStart
from radixmill.store import ModelFiles, cached, find, hub
from radixmill.store.cli import models_command, pull_command, size, table


@pytest.fixture(autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the network or the user's own caches."""
    monkeypatch.setenv("RADIXMILL_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))


def folder(path: Path, *names: str) -> Path:
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_text("{}")
    return path


def test_a_folder_in_hugging_face_layout(tmp_path: Path) -> None:
    model = folder(tmp_path / "My-Model", "config.json", "model.safetensors")
    assert find(str(model)) == ModelFiles("My-Model", model)
    assert find(f"{model}/").name == "My-Model"


def test_a_folder_with_only_a_configuration(tmp_path: Path) -> None:
    assert find(str(folder(tmp_path / "m", "config.json"))).root == tmp_path / "m"


def test_a_gguf_file(tmp_path: Path) -> None:
    model = folder(tmp_path / "m", "Some.Q4_K.gguf")
    found = find(str(model / "Some.Q4_K.gguf"))
    assert found == ModelFiles("Some.Q4_K", model / "Some.Q4_K.gguf") and found.is_gguf and found.folder == model


@pytest.mark.parametrize("others", [(), ("config.json",), ("mmproj-f16.gguf", "README.md")])
def test_a_folder_with_one_gguf(tmp_path: Path, others: tuple[str, ...]) -> None:
    assert find(str(folder(tmp_path / "m", "a.gguf", *others))).root == tmp_path / "m" / "a.gguf"


def test_a_folder_with_several_gguf_lists_them(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"2 GGUF files: a\.gguf, b\.gguf"):
        find(str(folder(tmp_path / "m", "a.gguf", "b.gguf")))


@pytest.mark.parametrize("names", [(), ("README.md",), ("model.safetensors",)])
def test_a_folder_without_a_model(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(BadModel, match=r"neither config\.json nor a \.gguf file"):
        find(str(folder(tmp_path / "m", *names)))


def test_another_file(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"not a \.gguf file"):
        find(str(folder(tmp_path / "m", "model.safetensors") / "model.safetensors"))


@pytest.mark.parametrize(
    "name", ["no-such-model", "/no/such/path", "./x/y", "absent.gguf", "folder/absent.gguf", "a/b/c", ""]
)
def test_nothing_of_that_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(tmp_path / "empty"))
    with pytest.raises(BadModel, match="no such file or folder, catalogue name or hub id") as caught:
        find(name)
    assert "radixmill models" in str(caught.value)


def test_a_slip_of_the_pen_gets_a_hint() -> None:
    with pytest.raises(BadModel, match="Did you mean smollm2-135m-instruct"):
        find("smollm2-135m-instrct")


def test_a_revision_of_a_local_path(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="--revision is for hub ids"):
        find(str(folder(tmp_path / "m", "config.json")), revision="main")


class FakeHub:
    """`snapshot_download` that fills a folder with what the patterns let through."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root, self.names, self.asked = root, names, list[dict[str, Any]]()

    def snapshot_download(self, repo: str, **options: Any) -> str:
        self.asked.append({"repo": repo, **options})
        kept = huggingface_hub.utils.filter_repo_objects(
            self.names, allow_patterns=options["allow_patterns"], ignore_patterns=options["ignore_patterns"]
        )
        self.root.mkdir(exist_ok=True)
        for name in kept:
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_text("{}")
        return str(self.root)


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeHub) -> FakeHub:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo, revision=None: list(fake.names))
    return fake


def test_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model-00001-of-00001.safetensors",
        "pytorch_model.bin",
    ]
    fake = use(
        monkeypatch,
        FakeHub(tmp_path / "snap", *names, "original/consolidated.00.pth", "onnx/model.onnx", "x/a.safetensors"),
    )
    found = find("owner/model", revision="v1", progress=False)
    assert found == ModelFiles("owner/model", tmp_path / "snap")
    assert {p.name for p in (tmp_path / "snap").iterdir()} == set(names) - {"pytorch_model.bin"}
    assert [(a["repo"], a["revision"]) for a in fake.asked] == [("owner/model", "v1")]


def test_a_hub_id_with_one_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeHub(tmp_path / "snap", "README.md", "m.Q4_0.gguf", "mmproj.gguf"))
    assert find("owner/model-GGUF") == ModelFiles("owner/model-GGUF", tmp_path / "snap" / "m.Q4_0.gguf")


def test_a_hub_id_with_several_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeHub(tmp_path / "snap", "a.gguf", "b.gguf"))
    with pytest.raises(BadModel, match=r"2 GGUF files: a\.gguf, b\.gguf\. Name one: owner/model/a\.gguf"):
        find("owner/model")
    assert find("owner/model/b.gguf").root == tmp_path / "snap" / "b.gguf"


def test_a_hub_id_without_weights_we_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeHub(tmp_path / "snap", "pytorch_model.bin"))
    with pytest.raises(BadModel, match="neither safetensors nor GGUF"):
        find("owner/model")


def _response() -> Any:
    import httpx

    return httpx.Response(404, request=httpx.Request("GET", "https://example.invalid"))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (lambda: errors.GatedRepoError("x", response=_response()), "is gated.*hf auth login"),
        (
            lambda: errors.RepositoryNotFoundError("x", response=_response()),
            "no such file or folder, catalogue name or hub id: o/m",
        ),
        (lambda: errors.RevisionNotFoundError("x", response=_response()), "has no revision r"),
        (lambda: errors.LocalEntryNotFoundError("x"), "hub cannot be reached.*Check the network"),
        (lambda: errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (lambda: errors.HfHubHTTPError("500 Server Error\nmore", response=_response()), "failed: 500 Server Error"),
        (lambda: ConnectionError("refused"), "failed: refused"),
    ],
)
def test_what_the_hub_says_becomes_one_line(monkeypatch: pytest.MonkeyPatch, error: Any, says: str) -> None:
    def fail(*args: Any, **options: Any) -> str:
        raise error()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CannotStart, match=says) as caught:
        find("o/m", revision="r")
    assert "\n" not in str(caught.value)


def hub_cache(root: Path, repo: str = "owner/model") -> Path:
    """The layout in which the hub's client keeps a snapshot."""
    base = root / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / ("a" * 40)
    for path in (snapshot, base / "refs", base / "blobs"):
        path.mkdir(parents=True)
    (base / "refs" / "main").write_text("a" * 40)
    for name in ("config.json", "model.safetensors"):
        (base / "blobs" / name).write_text(json.dumps({}))
        (snapshot / name).symlink_to(base / "blobs" / name)
    return snapshot


def test_a_snapshot_in_the_cache_serves_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, which must not need the network for what it has."""
    snapshot = hub_cache(tmp_path)
    monkeypatch.undo()
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo, **o: real(repo, **o, cache_dir=tmp_path, local_files_only=True),
    )
    assert find("owner/model").root == snapshot
    with pytest.raises(CannotStart, match="not in the cache"):
        find("owner/other")


def test_what_is_cached_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_cache(tmp_path)
    real = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: real(tmp_path))
    lines = cached()
    assert [(m.name, m.kind, m.state) for m in lines] == [
        ("smollm2-135m-instruct", "catalogue", "not fetched"),
        ("owner/model", "hub", "ready"),
    ]
    out = io.StringIO()
    assert models_command(out) == 0
    rows = out.getvalue().splitlines()
    assert rows[0].split() == ["MODEL", "SIZE", "STATE", "FROM", "ABOUT"] and "owner/model" in rows[2]
    assert "93.8 MiB" in rows[1] and "Apache-2.0" in rows[1]


def test_no_hub_cache_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: real(tmp_path / "absent"))
    assert hub.cached() == []


def test_pull_says_where(tmp_path: Path) -> None:
    out = io.StringIO()
    assert pull_command(str(folder(tmp_path / "m", "config.json")), out=out) == 0
    assert out.getvalue() == f"m: 2 bytes in {tmp_path / 'm'}\n"


def test_table_and_sizes() -> None:
    assert table(("A", "BB"), [("xxx", "y")]) == ["A    BB", "xxx  y"]
    assert [size(n) for n in (93, 1536, 98_362_432, 5 << 30, 3 << 42)] == [
        "93 bytes",
        "1.5 KiB",
        "93.8 MiB",
        "5.0 GiB",
        "12288.0 GiB",
    ]
