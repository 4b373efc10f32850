"""config.json as these models publish it: sizes, and the keys one stumbles over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radixmill.device.models import DecoderConfig, family

CONFIGS = {
    path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "configs").glob("*.json"))
}


def read(hf: Mapping[str, Any], **flags: Any) -> Any:
    """Of the family's own class."""
    config: DecoderConfig = family(hf).config.from_hf(hf, **flags)
    return config


def published(name: str) -> Any:
    return read(CONFIGS[name])
