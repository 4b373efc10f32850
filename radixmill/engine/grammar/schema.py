"""JSON Schema as the grammar library takes it."""

from __future__ import annotations


def normalise(text: str) -> str:
    """The schema `text`."""
    return text
