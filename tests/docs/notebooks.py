"""Runs a tutorial as its reader would: every cell, in a Jupyter kernel, at the repository's root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.data import ROOT

TUTORIALS = sorted((ROOT / "docs").glob("*.ipynb"))
CLEAN_UP = "if 'server_process' in globals(): terminate_process(server_process)"


def load(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def run(notebook: NotebookNode, monkeypatch: pytest.MonkeyPatch, *, allow_errors: bool = False) -> dict[str, str]:
    """Execute every cell; the text each code cell put out, by its source. The server ends whatever happens.

    Raises CellExecutionError where a cell fails; with `allow_errors` the error is one of the cell's outputs.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    where = {"metadata": {"path": str(ROOT)}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where, allow_errors=allow_errors)
    with client.setup_kernel():
        try:
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number)
        finally:
            notebook.cells.append(nbformat.v4.new_code_cell(CLEAN_UP))
            client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
    return {
        cell.source: text_of(cell) for cell in notebook.cells if cell.cell_type == "code" and cell.source != CLEAN_UP
    }


def text_of(cell: NotebookNode) -> str:
    parts: list[Any] = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts.append(
            output.get("text") or re.sub("<[^>]+>", "", data.get("text/html", "")) or data.get("text/plain", "")
        )
    return "".join(parts).strip()
