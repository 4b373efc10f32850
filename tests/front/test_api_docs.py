"""docs/api.md says what the code does: no more, no less."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from radixmill.front.api import meanings
from radixmill.front.api.meanings import MEANINGS, meaning
from radixmill.front.api.reference import MARKER, PAGES, between, limit_of, origin, renewed, type_of
from radixmill.front.api.rows import rows
from tests.data import ROOT, shared
from tests.front.kit import call, make_app
from tests.front.openapi import EXTENSIONS, FILE, properties
from tests.front.schema_requests import BODIES

PAGE = ROOT / "docs" / "api.md"
by_path = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)


def test_the_page_is_current():
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(MARKER) == 1
    assert text == renewed(text), "run python -m radixmill.front.api.reference docs/api.md"


@by_path
def test_every_field_has_a_meaning(page):
    assert not [row.path for row in rows(page.body) if not meaning(row)]


def test_every_meaning_has_a_field():
    found = Counter[str]()
    for row in (row for page in PAGES for row in rows(page.body)):
        name, owned = row.field.encode_name, f"{row.owner.__name__}.{row.field.encode_name}"
        found[owned if owned in MEANINGS else name] += 1
    assert not (unused := set(MEANINGS) - set(found)), unused


def test_no_meaning_hides_another():
    tables = [table for name, table in vars(meanings).items() if name.isupper() and isinstance(table, dict)]
    assert sum(len(table) for table in tables if table is not MEANINGS) == len(MEANINGS)


@by_path
def test_hints_and_refused_fields_are_fields(page):
    paths = {row.path for other in PAGES if other.home == page.home for row in rows(other.body)}
    assert page.hints <= paths and set(page.refused) <= paths
    assert not page.hints & set(page.refused)


@pytest.mark.parametrize("path", BODIES)
def test_the_fields_that_are_openais_are_the_published_ones(path):
    shared(*FILE)
    (page,) = [page for page in PAGES if page.path == path]
    ours = {row.path for row in rows(page.body) if row.path == row.top and origin(page, row) == "OpenAI"}
    assert ours >= properties(BODIES[path])
    shared_with = set().union(*(properties(name) for name in BODIES.values()))
    assert ours <= shared_with, "neither here nor on another route published"


def test_every_body_has_a_page():
    document = call(make_app(), "GET", "/openapi.json").json()
    named = {
        entry["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        for entry in document["paths"].values()
        if "requestBody" in entry.get("post", {})
    }
    assert named == {page.body.__name__ for page in PAGES}


def test_the_openapi_document_says_the_same():
    schemas = call(make_app(), "GET", "/openapi.json").json()["components"]["schemas"]
    for row in (row for page in PAGES for row in rows(page.body)):
        names = [name for name in schemas if name.split(".")[-1] == row.owner.__name__]
        texts = {schemas[name]["properties"].get(row.field.encode_name, {}).get("description") for name in names}
        assert meaning(row).text in texts, row.path


def test_types_and_limits_in_words():
    shown = {row.path: (type_of(row.field.type), limit_of(row.field.type)) for page in PAGES for row in rows(page.body)}
    assert shown["repetition_penalty"] == ("number", "0.01..10")
    assert shown["seed"] == ("integer", "−2^63..2^63−1")
    assert shown["logit_bias"] == ("map to number", "≤ 4096 entries, −100..100")
    assert shown["stop"] == ("string or list of string", "1..4096 characters, ≤ 32 items")
    assert (between(None, 3), between(1, None), between(None, None)) == ("≤ 3", "≥ 1", "")


def test_routes():
    table = PAGE.read_text(encoding="utf-8").split("## Rules")[0]
    named = set(re.findall(r"`(?:GET |POST )?(/[^` ]+)`", table)) - {"/v1", "/docs", "/openapi.json"}
    paths = call(make_app(), "GET", "/openapi.json").json()["paths"]
    both = {"/v1/tokenize": "/tokenize", "/v1/detokenize": "/detokenize", "/v1/models/{model}": "/v1/models/{id}"}
    assert {both.get(path, path) for path in paths} == named


def test_what_answers_have_besides_the_published_is_said():
    text = PAGE.read_text(encoding="utf-8").split(MARKER)[0]
    assert not [name for name in EXTENSIONS if f"`{name}`" not in text]
