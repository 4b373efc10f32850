"""The tutorial on structured outputs checks its own answers; it is run for real, and its checks are checked."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.data import ROOT
from tests.docs.notebooks import code, load, run

TUTORIAL = ROOT / "docs" / "structured_outputs.ipynb"
UNBOUND = {  # what binds an answer → what is sent in its place
    "films": ('response_format={"type": "json_schema", "json_schema": {"name": "film", "schema": film}},', ""),
    "regex": ('extra_body={"regex": date}', "extra_body={}"),
    "grammar": ('extra_body={"ebnf": query}', "extra_body={}"),
    "choice": ('extra_body={"guided_choice": verdicts}', "extra_body={}"),
    "tag": ("response_format=tags, ", ""),
    "stream": ("    response_format=bound,\n", ""),
    "tool": ('tool_choice="required"', 'tool_choice="none"'),
    "generate": (', "json_schema": json.dumps(planet)', ""),
    "offline": ('regex=r" 1\\d{3}\\.", ', ""),
}


def test_it_is_a_valid_notebook_that_covers_its_subject() -> None:
    notebook = load(TUTORIAL)
    nbformat.validate(notebook)
    source = code(notebook)
    for word in (
        *("chat.completions.parse", "responses.parse", '"json_schema"', '"json_object"', '"structural_tag"'),
        *('"regex"', '"ebnf"', '"guided_choice"', "stream=True", "pydantic_function_tool", "tool_choice"),
        *(
            "/generate",
            "BadRequestError",
            "from radixmill import LLM, Params",
            "jsonschema.validate",
            "terminate_process",
        ),
    ):
        assert word in source


@pytest.mark.weights
def test_it_runs_against_the_real_server(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = run(load(TUTORIAL), monkeypatch)
    assert "stopped, exit code 0" in "\n".join(outputs.values())
    empty = [source for source, text in outputs.items() if not text]
    assert not empty


@pytest.mark.weights
def test_every_cell_whose_answer_is_not_bound_fails(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = load(TUTORIAL)
    meant = set()
    for bound, unbound in UNBOUND.values():
        [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and bound in cell.source]
        cell.source = cell.source.replace(bound, unbound)
        meant.add(cell.id)
    run(notebook, monkeypatch, allow_errors=True)
    failed = {cell.id for cell in notebook.cells if any(o.output_type == "error" for o in cell.get("outputs", []))}
    assert failed == meant
