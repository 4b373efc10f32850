"""docs/api.md lists what the code does: no more, no less."""

from __future__ import annotations

import re

import pytest
from msgspec import Struct

from radixmill.front.api.openai.chat import ChatBody
from radixmill.front.api.openai.completions import CompletionBody
from radixmill.front.api.openai.fields import HINTS, NEVER, NOT_YET, StreamOptions
from radixmill.front.session.limits import RANGES, SIZES, Range
from tests.data import ROOT
from tests.front.kit import call, make_app

PAGE = ROOT / "docs" / "api.md"


def fields(kind: type[Struct]) -> set[str]:
    inner = {f"stream_options.{name}" for name in StreamOptions.__struct_fields__}
    return {*kind.__struct_fields__, *inner} - {"stream_options"}


def listed(start: str) -> set[str]:
    """The `names` of the paragraph that begins with `start`."""
    (paragraph,) = [p for p in PAGE.read_text(encoding="utf-8").split("\n\n") if p.startswith(start)]
    return set(re.findall(r"`([^`]+)`", paragraph))


def shown(name: str, limits: Range) -> str:
    low, high = limits
    match low, high:
        case _, None:
            return f"{name} ≥ {low:g}"
        case _:
            return f"{name} {low}..{high}" if name != "seed" else "seed -2^63..2^63-1"


@pytest.mark.parametrize("start, kind", [("Chat: ", ChatBody), ("Completions: ", CompletionBody)])
def test_honoured(start, kind):
    assert listed(start) == fields(kind) - HINTS - NEVER.keys() - NOT_YET.keys()


def test_hints():
    assert listed("`metadata`") == HINTS <= fields(ChatBody)


def test_refused():
    assert listed("Not supported: ") == set(NEVER)
    assert listed("Not supported yet: ") == set(NOT_YET)
    assert {*NEVER, *NOT_YET} <= fields(ChatBody) | fields(CompletionBody)


def test_limits():
    assert listed("Numbers: ") == {shown(name, limits) for name, limits in RANGES.items()}
    assert listed("Sizes: ") == {shown(name, limits) for name, limits in SIZES.items()}


def test_routes():
    table = PAGE.read_text(encoding="utf-8").split("## Rules")[0]
    named = set(re.findall(r"`(?:GET |POST )?(/[^` ]+)`", table)) - {"/v1", "/docs", "/openapi.json"}
    paths = call(make_app(), "GET", "/openapi.json").json()["paths"]
    both = {"/v1/tokenize": "/tokenize", "/v1/detokenize": "/detokenize", "/v1/models/{model}": "/v1/models/{id}"}
    assert {both.get(path, path) for path in paths} == named
