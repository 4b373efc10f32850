"""`radixmill pull MODEL` and `radixmill models`, as plain functions that return an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from radixmill.store.files import file_bytes
from radixmill.store.find import cached, find


def pull_command(model: str, *, revision: str | None = None, out: TextIO | None = None) -> int:
    """Fetch `model` unless it is here, and print where it is. Raises CannotStart."""
    files = find(model, revision=revision)
    print(f"{files.name}: {size(file_bytes(files.root))} in {files.root}", file=out or sys.stdout)
    return 0


def models_command(out: TextIO | None = None) -> int:
    """Print the catalogue and what is cached, one line each."""
    rows = [(m.name, size(m.nbytes), m.state, m.kind, m.about) for m in cached()]
    print("\n".join(table(("MODEL", "SIZE", "STATE", "FROM", "ABOUT"), rows)), file=out or sys.stdout)
    return 0


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with left-aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]


def size(nbytes: int) -> str:
    """93 bytes, 1.5 KiB, 93.8 MiB, 12.3 GiB."""
    value = float(nbytes)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
