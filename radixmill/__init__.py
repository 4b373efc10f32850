"""RadixMill: open-weight language models behind the OpenAI API."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["LLM", "Engine", "Params", "__version__"]

_LATE = {"LLM": "radixmill.llm", "Params": "radixmill.llm", "Engine": "radixmill.native"}


def __getattr__(name: str) -> Any:
    """What is offered here but loaded only when it is asked for: a server's processes need none of it."""
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
