"""The tutorial on thoughts and tools checks its own answers; it is run for real, and its checks are checked."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.data import ROOT
from tests.docs.notebooks import code, load, run

TUTORIAL = ROOT / "docs" / "reasoning_and_tools.ipynb"
SPOILT = {  # what a cell shows → what is done in its place
    "budget": ("completion = ask(question, extra_body=because)", "completion = ask(question, max_thinking_tokens=100)"),
    "off": ('{"enable_thinking": False}', '{"enable_thinking": True}'),
    "streamed": ("stream=True, extra_body=because", 'stream=True, extra_body={**because, "stream_reasoning": False}'),
    "loop": ('choice, words = "required", {}', 'choice, words = "none", {}'),
    "call": ('tool_choice="required", stream=True', 'tool_choice="none", stream=True'),
    "thoughts": ('"reasoning_parser": "deepseek-r1"', '"reasoning_parser": "kimi"'),
    "calls": ('"tool_call_parser": parser}', '"tool_call_parser": "hermes"}'),
}


def test_it_is_a_valid_notebook_that_covers_its_subject() -> None:
    notebook = load(TUTORIAL)
    nbformat.validate(notebook)
    source = code(notebook)
    for word in (
        *("reasoning_content", "max_thinking_tokens", "enable_thinking", "reasoning_effort", "stream=True"),
        *("chat.completions.create", "tool_choice", '"strict": True', "tool_call_id", "jsonschema.validate"),
        *("/separate_reasoning", "/parse_function_call", "kimi_k2", "deepseekv31", "Splitter", "terminate_process"),
    ):
        assert word in source
    told = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "written by hand after the vendors' documentation" in told


@pytest.mark.weights
def test_it_runs_against_the_real_server(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = run(load(TUTORIAL), monkeypatch)
    assert "stopped, exit code 0" in "\n".join(outputs.values())
    assert all(outputs.values()), [source for source, text in outputs.items() if not text]


@pytest.mark.weights
def test_every_cell_that_is_spoilt_fails(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = load(TUTORIAL)
    meant = set()
    for shown, spoilt in SPOILT.values():
        [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and shown in cell.source]
        cell.source = cell.source.replace(shown, spoilt)
        meant.add(cell.id)
    run(notebook, monkeypatch, allow_errors=True)
    failed = {cell.id for cell in notebook.cells if any(o.output_type == "error" for o in cell.get("outputs", []))}
    assert meant <= failed
