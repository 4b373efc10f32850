"""The one way in."""

from __future__ import annotations

from radixmill.core.errors import BadModel
from radixmill.device.loader.checkpoint import Checkpoint
from radixmill.device.loader.dummy import DummyCheckpoint
from radixmill.device.loader.folder import FolderCheckpoint, folder_config
from radixmill.device.loader.gguf import GGUFCheckpoint, gguf_config
from radixmill.store import GGUFFile, ModelFiles, eos_ids


def open_checkpoint(files: ModelFiles, *, load_format: str = "auto", seed: int = 0) -> Checkpoint:
    """Open a model's weights. `load_format`: auto, safetensors, gguf, or dummy (random weights drawn from `seed`).

    Reads headers only. Raises BadModel where files are missing or damaged, or of an unknown architecture.
    """
    if load_format == "dummy":
        return _dummy(files, seed)
    if load_format not in ("auto", "gguf" if files.is_gguf else "safetensors"):
        kind = "a GGUF file" if files.is_gguf else "a folder of safetensors"
        raise BadModel(f"{files.root} is {kind}, and --load-format says {load_format}", "Leave --load-format out")
    return GGUFCheckpoint(files) if files.is_gguf else FolderCheckpoint(files)


def _dummy(files: ModelFiles, seed: int) -> Checkpoint:
    """Without tensors: their shapes follow from the architecture."""
    if not files.is_gguf:
        config = folder_config(files.root)
        config.pop("quantization_config", None)  # how the files are packed, which nobody reads
        return DummyCheckpoint(config, {}, seed, eos_ids(files))
    file = GGUFFile(files.root)
    return DummyCheckpoint(gguf_config(file), {}, seed, eos_ids(files, file))
