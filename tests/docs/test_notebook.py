"""The tutorial is run for real: by a Jupyter kernel, against a live server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.data import ROOT

TUTORIAL = ROOT / "docs" / "openai_api_completions.ipynb"
COMMAND = "python -m radixmill.launch_server --model-path smollm2"
CLEAN_UP = "if 'server_process' in globals(): terminate_process(server_process)"


def load() -> NotebookNode:
    return nbformat.read(TUTORIAL, as_version=4)


def run(notebook: NotebookNode, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Execute every cell; the text each code cell put out, by its source. The server ends whatever happens."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
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


def test_the_tutorial_is_a_valid_notebook_that_covers_its_subject() -> None:
    notebook = load()
    nbformat.validate(notebook)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for word in (
        *("launch_server_cmd", "wait_for_server", "print_highlight", "terminate_process"),
        *("chat.completions.create", "client.completions.create", "stream=True", "stop=["),
        *("temperature", "max_tokens", "top_p", "presence_penalty", "frequency_penalty", "n=2", "seed"),
    ):
        assert word in source
    assert source.count(COMMAND) == 1


def test_the_saved_outputs_show_nobodys_machine() -> None:
    text = TUTORIAL.read_text()
    assert not re.search(r"/home/|/root/|/tmp/|Traceback", text)


def test_the_code_of_the_tutorial_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against canned answers: the helpers, the client's calls and the kernel, without a model."""
    notebook = load()
    for cell in notebook.cells:
        cell.source = cell.source.replace(COMMAND, f"python {Path('tests/docs/fake_openai.py')}")
    outputs = run(notebook, monkeypatch)
    assert all(outputs.values()), [source for source, text in outputs.items() if not text]
    assert "Once upon\n\n2 tokens" in outputs.values()


@pytest.mark.weights
def test_the_tutorial_runs_against_the_real_server(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = run(load(), monkeypatch)
    assert all(outputs.values()), [source for source, text in outputs.items() if not text]
    cached = next(text for text in outputs.values() if "of which cached" in text)
    prompt, found = (int(n) for n in re.findall(r"(?:prompt|cached) (\d+)", cached))
    assert 0.8 * prompt < found < prompt
    assert list(outputs.values())[-1] == "stopped, exit code 0"
