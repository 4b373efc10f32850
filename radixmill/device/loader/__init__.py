"""Model files → tensors under their Hugging Face names, whatever the file format. Knows no model's architecture."""

from __future__ import annotations

from radixmill.device.loader.checkpoint import Checkpoint
from radixmill.device.loader.dummy import DummyCheckpoint
from radixmill.device.loader.open import open_checkpoint

__all__ = ["Checkpoint", "DummyCheckpoint", "open_checkpoint"]
