"""The files of one model, found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFiles:
    """A model on this disk: a Hugging Face folder or one GGUF file."""

    name: str  # how the API shows it: catalogue name, hub id, folder or file name
    root: Path  # the folder, or the .gguf file
    sha256: str | None = None  # of the weights file, where a catalogue vouches for it

    @property
    def is_gguf(self) -> bool:
        return self.root.suffix == ".gguf"

    @property
    def folder(self) -> Path:
        """Where side files (tokenizer.json, chat_template.jinja, generation_config.json) lie."""
        return self.root.parent if self.is_gguf else self.root
