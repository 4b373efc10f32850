"""Models of the Hugging Face hub, through its own client: its cache, its token, its progress bars."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from radixmill.core.errors import BadModel, CannotStart
from radixmill.store.split import lacking, part_names

_PATTERNS = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]
_IGNORED = ["*/*", "consolidated*", "*.bin.index.json"]
_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+\.gguf)?")


class HubModel(NamedTuple):
    """A model in the hub's cache on this disk."""

    name: str
    path: Path
    nbytes: int


def is_hub_id(model: str) -> bool:
    """`owner/name`, or `owner/name/file.gguf` for one model of a repository that has several; any part of a split one."""
    return _ID.fullmatch(model) is not None and not model.startswith((".", "-")) and ".." not in model


def fetch(model: str, *, revision: str | None = None, progress: bool = True) -> Path:
    """The folder (or .gguf file, of several parts the first) of hub id `model`, downloaded unless cached.

    Raises BadModel when there is no such model or revision, CannotStart when it cannot be had now.
    """
    repo, file = _split(model)
    with _explained(model, revision), _bars(progress):
        if file is not None:
            return _parts(repo, revision, file)
        folder = _snapshot(repo, revision, _PATTERNS)
        ggufs = list(folder.glob("*.gguf"))
        if any(folder.glob("*.safetensors")) or (ggufs and not any(map(lacking, ggufs))):
            return folder
        return _only_gguf(repo, revision, folder)


def cached() -> list[HubModel]:
    """Models in the hub's cache that have weights we read."""
    from huggingface_hub import scan_cache_dir  # 0.3 s, for this command only
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = []
    for repo in sorted(repos, key=lambda r: str(r.repo_id)):
        names = {file.file_name for revision in repo.revisions for file in revision.files}
        if repo.repo_type == "model" and any(name.endswith((".safetensors", ".gguf")) for name in names):
            found.append(HubModel(repo.repo_id, Path(repo.repo_path), repo.size_on_disk))
    return found


def _split(model: str) -> tuple[str, str | None]:
    owner, name, *rest = model.split("/", 2)
    return f"{owner}/{name}", rest[0] if rest else None


def _snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download  # 0.3 s that only hub ids pay

    ignored = None if patterns is not _PATTERNS else _IGNORED
    return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))


def _parts(repo: str, revision: str | None, file: str) -> Path:
    """One GGUF file and, if it is split, all others that belong to it; the first of them."""
    names = part_names(file)
    return _snapshot(repo, revision, names) / names[0]


def _only_gguf(repo: str, revision: str | None, folder: Path) -> Path:
    """A repository without safetensors: its one GGUF file, or an error that lists them. Parts of one model are one."""
    from huggingface_hub import list_repo_files  # 0.3 s that only hub ids pay

    ggufs = [n for n in list_repo_files(repo, revision=revision) if n.endswith(".gguf") and "mmproj" not in n.lower()]
    names = sorted({part_names(name)[0] for name in ggufs})
    if not names:
        if (folder / "config.json").exists():
            return folder  # enough for random weights; the loader says what is missing for others
        raise BadModel(f"hub id {repo} has neither safetensors nor GGUF weights", "Other formats are not read")
    if len(names) > 1:
        raise BadModel(f"hub id {repo} has {len(names)} GGUF files: {', '.join(names)}", f"Name one: {repo}/{names[0]}")
    return _parts(repo, revision, names[0])


@contextmanager
def _bars(progress: bool) -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    restore: Callable[[], None] | None = None
    if not progress and not are_progress_bars_disabled():
        disable_progress_bars()
        restore = enable_progress_bars
    try:
        yield
    finally:
        if restore:
            restore()


@contextmanager
def _explained(model: str, revision: str | None) -> Iterator[None]:
    """The hub client's exceptions as one line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise CannotStart(
            f"hub id {model} is gated",
            f"Accept its terms at https://huggingface.co/{_split(model)[0]} and run `hf auth login`",
        ) from None
    except errors.RepositoryNotFoundError:
        raise BadModel(
            f"no such file or folder, catalogue name or hub id: {model}",
            "See `radixmill models`; for a private model run `hf auth login` first",
        ) from None
    except errors.RevisionNotFoundError:
        raise BadModel(
            f"hub id {model} has no revision {revision}", "Give a branch, tag or commit that it has"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise CannotStart(
            f"hub id {model} is not in the cache, and the hub cannot be reached",
            "Check the network, HF_ENDPOINT and HF_HUB_OFFLINE; or give a local folder or .gguf file",
        ) from None
    except errors.EntryNotFoundError:
        raise BadModel(f"hub id {model}: there is no such file in the repository") from None
    except errors.HFValidationError:
        raise BadModel(f"no such file or folder, and not a valid hub id: {model}") from None
    except (errors.HfHubHTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise CannotStart(f"fetching hub id {model} failed: {reason}", "Check the network and try again") from None
