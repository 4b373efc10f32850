"""The tutorial is run for real: by a Jupyter kernel, against a live server."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.data import ROOT
from tests.docs.notebooks import TUTORIALS, code, load, run

TUTORIAL = ROOT / "docs" / "openai_api_completions.ipynb"
COMMAND = "python -m radixmill.launch_server --model-path smollm2"


def test_the_tutorial_is_a_valid_notebook_that_covers_its_subject() -> None:
    notebook = load(TUTORIAL)
    nbformat.validate(notebook)
    source = code(notebook)
    for word in (
        *("launch_server_cmd", "wait_for_server", "print_highlight", "terminate_process"),
        *("chat.completions.create", "client.completions.create", "stream=True", "stop=["),
        *("temperature", "max_tokens", "top_p", "presence_penalty", "frequency_penalty", "n=2", "seed"),
    ):
        assert word in source
    assert source.count(COMMAND) == 1


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_saved_outputs_show_nobodys_machine(path: Path) -> None:
    assert not re.search(r"/home/|/root/|/tmp/|Traceback", path.read_text())


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_saved_tutorial_has_run_from_its_first_cell_to_its_last(path: Path) -> None:
    cells = [cell for cell in load(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells), [cell.source for cell in cells if not cell.outputs]
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)


def test_the_code_of_the_tutorial_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against canned answers: the helpers, the client's calls and the kernel, without a model."""
    notebook = load(TUTORIAL)
    for cell in notebook.cells:
        cell.source = cell.source.replace(COMMAND, f"python {Path('tests/docs/fake_openai.py')}")
    outputs = run(notebook, monkeypatch)
    assert all(outputs.values()), [source for source, text in outputs.items() if not text]
    assert "Once upon\n\n2 tokens" in outputs.values()


@pytest.mark.weights
def test_the_tutorial_runs_against_the_real_server(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = run(load(TUTORIAL), monkeypatch)
    assert all(outputs.values()), [source for source, text in outputs.items() if not text]
    cached = next(text for text in outputs.values() if "of which cached" in text)
    prompt, found = (int(n) for n in re.findall(r"(?:prompt|cached) (\d+)", cached))
    assert 0.8 * prompt < found < prompt
    assert list(outputs.values())[-1] == "stopped, exit code 0"
