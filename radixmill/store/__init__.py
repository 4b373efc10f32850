"""Where model files are: names → local files, and what stands in their headers. Knows no arrays of weights.

Both the front (tokenizer, template) and the device (weights) start from these files, so this is the one place that both import.
"""

from __future__ import annotations

from radixmill.store.catalogue import pull
from radixmill.store.files import ModelFiles
from radixmill.store.find import cached, find
from radixmill.store.gguf import GGUFFile
from radixmill.store.side import eos_ids, generation_defaults

__all__ = ["GGUFFile", "ModelFiles", "cached", "eos_ids", "find", "generation_defaults", "pull"]
