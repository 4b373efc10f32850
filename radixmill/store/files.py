"""The files of one model, found; and the folder that keeps what we fetched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from radixmill.store.split import present


@dataclass(frozen=True)
class ModelFiles:
    """A model on this disk: a Hugging Face folder, or a GGUF file with, if it is split, its other parts."""

    name: str  # how the API shows it: catalogue name, hub id, folder or file name
    root: Path  # the folder, or the .gguf file, of several parts the first
    sha256: str | None = None  # of the weights file, where a catalogue vouches for it

    @property
    def is_gguf(self) -> bool:
        return self.root.suffix == ".gguf"

    @property
    def folder(self) -> Path:
        """Where side files (tokenizer.json, chat_template.jinja, generation_config.json) lie."""
        return self.root.parent if self.is_gguf else self.root


def cache_folder() -> Path:
    """$RADIXMILL_CACHE, else $XDG_CACHE_HOME/radixmill, else ~/.cache/radixmill."""
    if own := os.environ.get("RADIXMILL_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "radixmill"


def models_folder() -> Path:
    return cache_folder() / "models"


def bench_record() -> Path:
    """Where `radixmill bench` leaves its latest figures, and `radixmill doctor` looks for them."""
    return cache_folder() / "bench.json"


def file_bytes(path: Path) -> int:
    """Bytes of a file and the other parts of a split one, or of all files under a folder."""
    if path.is_file():
        return sum(part.stat().st_size for part in present(path))
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
