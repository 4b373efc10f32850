"""Shared test data, read in place; absent on a user's machine, then the test skips and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared(*parts: str) -> Path:
    """A file or folder under ../shared/data, or a skip."""
    path = ROOT.parent / "shared" / "data" / Path(*parts)
    if not path.exists():
        pytest.skip(f"test data not found: {path}")
    return path
