"""A model's name, as a user gives it, → its files on this disk."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from radixmill.core.errors import BadModel, CannotStart
from radixmill.store import catalogue, hub
from radixmill.store.files import ModelFiles
from radixmill.store.split import parts, present, whole_name


@dataclass(frozen=True)
class Cached:
    """A line of `radixmill models`."""

    name: str
    kind: str  # "catalogue" or "hub"
    state: str  # "ready" or "not fetched"
    nbytes: int  # on disk, or to be there once fetched
    path: Path
    about: str = ""


def find(model: str, *, revision: str | None = None, progress: bool = True) -> ModelFiles:
    """The files of `model`: a local folder or .gguf file, a catalogue name, or a hub id; fetched if need be.

    What is on disk wins over names. Raises BadModel when there is no such thing, CannotStart when it cannot be fetched.
    """
    path = Path(model).expanduser()
    if model and any(part.exists() for part in parts(path)):
        if revision is not None:
            raise CannotStart(f"--revision is for hub ids, and {model} is a local path", "Leave it out")
        return _local(path)
    if catalogue.entry(model):
        return catalogue.pull(model, revision=revision, progress=progress)
    if _may_be_hub(model):
        found = _local(hub.fetch(model, revision=revision, progress=progress))
        return ModelFiles(whole_name(model), found.root)
    raise BadModel(f"no such file or folder, catalogue name or hub id: {model}", _hint(model))


def cached() -> list[Cached]:
    """Every model of the catalogue, fetched or not, and those in the hub's cache."""
    lines = []
    for entry in catalogue.CATALOGUE:
        state = "ready" if catalogue.verified(entry) else "not fetched"
        lines.append(
            Cached(entry.name, "catalogue", state, entry.source.nbytes, entry.path, f"{entry.about}, {entry.licence}")
        )
    return lines + [Cached(m.name, "hub", "ready", m.nbytes, m.path) for m in hub.cached()]


def _local(path: Path) -> ModelFiles:
    if any(part.is_file() for part in parts(path)):
        return _file(path)
    ggufs = sorted({parts(p)[0] for p in path.glob("*.gguf") if not p.name.startswith("mmproj")})
    has_config = (path / "config.json").is_file()
    if has_config and (not ggufs or any(path.glob("*.safetensors"))):
        return ModelFiles(_name(path), path)
    if len(ggufs) == 1:
        return _file(ggufs[0])
    if ggufs:
        raise BadModel(
            f"{path} has {len(ggufs)} GGUF files: {', '.join(p.name for p in ggufs)}", f"Name one: {ggufs[0]}"
        )
    raise BadModel(
        f"{path} has neither config.json nor a .gguf file",
        "Give a model folder in Hugging Face layout, or a .gguf file",
    )


def _file(path: Path) -> ModelFiles:
    if path.suffix != ".gguf":
        raise BadModel(f"{path} is not a .gguf file", "Give a model folder in Hugging Face layout, or a .gguf file")
    return ModelFiles(Path(whole_name(path.name)).stem, present(path)[0])


def _name(folder: Path) -> str:
    return folder.resolve().name or str(folder)


def _may_be_hub(model: str) -> bool:
    return hub.is_hub_id(model) and not (model.endswith(".gguf") and model.count("/") < 2)


def _hint(model: str) -> str:
    near = get_close_matches(model.lower(), [n.lower() for n in catalogue.names()], n=1, cutoff=0.5)
    meant = f"Did you mean {near[0]}? " if near else ""
    return meant + "`radixmill models` lists what there is"
