"""Every line of the threat model has a test, and every flag in it is one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from radixmill.core.config import Config, walk

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security.md"


class Line(NamedTuple):
    threat: str
    holds: str
    limits: str
    test: str


def table() -> list[Line]:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    return [Line(*(cell.strip() for cell in row.strip("|").split(" | "))) for row in map(padded, rows)]


def padded(row: str) -> str:
    """With a blank in every empty cell."""
    return row.replace("| |", "|  |").replace("| |", "|  |")


@cache
def functions_of(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("line", table(), ids=lambda line: line.threat[:40])
def test_a_line_names_a_test_that_is_there(line):
    file, _, name = line.test.partition("::")
    assert line.threat and file.startswith("tests/") and name.startswith("test_"), line
    assert name in functions_of(ROOT / file), f"{line.test} does not exist"


def test_the_table_is_read():
    lines = table()
    assert len(lines) > 40 and len({line.threat for line in lines}) == len(lines)
    assert not any(line.threat.startswith("-") for line in lines)


def test_flags_are_flags():
    known = {"--" + field.name.replace("_", "-") for _, _, field in walk(Config)}
    known |= {flag for _, _, field in walk(Config) for flag in field.metadata["flags"]}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE.read_text()))
    assert named and named <= known, named - known


@pytest.mark.slow
def test_the_tests_are_collected():
    wanted = sorted({line.test for line in table()})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *wanted],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    collected = {line.partition("[")[0] for line in done.stdout.splitlines()}
    assert set(wanted) <= collected
