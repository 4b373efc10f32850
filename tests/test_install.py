"""What a user installs: how much, and what not."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.data import ROOT

LIMIT = 150_000_000  # bytes


def closure(name: str, seen: dict[str, Distribution]) -> dict[str, Distribution]:
    """The packages that installing `name` without extras brings."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key not in seen:
        try:
            found = seen[key] = distribution(name)
        except PackageNotFoundError:
            return seen
        for line in found.requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                closure(wanted.name, seen)
    return seen


def test_the_base_install_is_small_and_has_no_torch() -> None:
    packages = closure("radixmill", {})
    assert {"radixmill", "numpy", "fastapi", "msgspec", "tokenizers"} <= set(packages)
    assert not {"torch", "triton", "transformers", "matplotlib"} & set(packages)
    files = [
        Path(str(d.locate_file(f))) for d in packages.values() for f in d.files or () if not str(f).endswith(".pyc")
    ]
    size = sum(path.stat().st_size for path in files if path.is_file())
    own = sum(
        path.stat().st_size for path in (ROOT / "radixmill").rglob("*") if path.is_file() and path.suffix != ".pyc"
    )
    assert 40_000_000 < size + own <= LIMIT, f"{(size + own) / 1e6:.0f} MB"
