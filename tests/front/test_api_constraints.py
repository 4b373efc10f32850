"""The fields that bind an answer's text: each becomes one constraint of the request, or is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from radixmill.core.request import Constraint
from tests.fakes import EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, answer, error, make_app, post
from tests.front.test_api_bad_input import refused

SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {}}}
WRITTEN = json.dumps(SCHEMA, separators=(",", ":"))
BY_SCHEMA = Constraint(kind="json_schema", text=WRITTEN)
FORMAT = {"type": "const_string", "value": "x"}
OLDER = {"structures": [{"begin": "<f>", "schema": {}, "end": "</f>"}], "triggers": ["<f"]}


def tag(value: Any) -> Constraint:
    text = json.dumps({"type": "structural_tag", **value}, separators=(",", ":"))
    return Constraint(kind="structural_tag", text=text)


CASES = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, Constraint(kind="json_object")),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}, BY_SCHEMA),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}},
        BY_SCHEMA,
    ),
    ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, BY_SCHEMA),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}, "schema": SCHEMA}}, BY_SCHEMA),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, Constraint(kind="json_object")),
    ({"response_format": {"type": "structural_tag", "format": FORMAT}}, tag({"format": FORMAT})),
    ({"response_format": {"type": "structural_tag", **OLDER}}, tag(OLDER)),
    ({"regex": "a+"}, Constraint(kind="regex", text="a+")),
    ({"ebnf": "root ::= x"}, Constraint(kind="ebnf", text="root ::= x")),
    ({"json_schema": SCHEMA}, BY_SCHEMA),
    ({"json_schema": WRITTEN}, BY_SCHEMA),
    ({"json_schema": "$$ANY$$"}, Constraint(kind="json_schema", text="true")),
    ({"guided_json": SCHEMA}, BY_SCHEMA),
    ({"guided_regex": "a+"}, Constraint(kind="regex", text="a+")),
    ({"guided_grammar": "root ::= x"}, Constraint(kind="ebnf", text="root ::= x")),
    (
        {"guided_choice": ["yes", "n\"o", "yes"]},
        tag({"format": {"type": "or", "elements": [{"type": "const_string", "value": v} for v in ("yes", 'n"o')]}}),
    ),
    ({"guided_choice": ["yes"]}, tag({"format": {"type": "const_string", "value": "yes"}})),
    ({"structured_outputs": {"json": SCHEMA}}, BY_SCHEMA),
    ({"structured_outputs": {"json": WRITTEN}}, BY_SCHEMA),
    ({"structured_outputs": {"regex": "a+"}}, Constraint(kind="regex", text="a+")),
    ({"structured_outputs": {"choice": ["x"]}}, tag({"format": FORMAT})),
    ({"structured_outputs": {"grammar": "root ::= x"}}, Constraint(kind="ebnf", text="root ::= x")),
    ({"structured_outputs": {"json_object": True}}, Constraint(kind="json_object")),
    ({"structured_outputs": {"structural_tag": {"format": FORMAT}}}, tag({"format": FORMAT})),
    ({"structured_outputs": {"structural_tag": json.dumps(OLDER)}}, tag(OLDER)),
    # Nothing is asked.
    ({}, None),
    ({"regex": "", "ebnf": "", "json_schema": "", "guided_json": "", "guided_regex": "", "guided_grammar": ""}, None),
    ({"regex": None, "guided_choice": None, "structured_outputs": None, "response_format": None}, None),
    ({"structured_outputs": {}}, None),
    ({"structured_outputs": {"regex": "", "json_object": False, "structural_tag": ""}}, None),
    ({"regex": "a+", "ebnf": "", "response_format": {"type": "text"}}, Constraint(kind="regex", text="a+")),
]  # fmt: skip


@pytest.mark.parametrize("fields, constraint", CASES, ids=lambda value: str(value)[:70])
def test_what_a_field_becomes(fields, constraint):
    client = EchoClient()
    app = make_app(client)
    answer(app, CHAT, {**HELLO, **fields})
    answer(app, TEXT, {"prompt": "x", **fields})
    assert [request.constraint for request in client.requests] == [constraint, constraint]
    assert client.controls == (["grammar"] * 2 if constraint else [])


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"regex": "a", "ebnf": "b"}, "ebnf"),
        ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"regex": "a"}, "json_schema": {}}, "structured_outputs.regex"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "two words"}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": []}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": "yes"}}},
            "response_format.json_schema.strict",
        ),
        ({"response_format": {"type": "structural_tag"}}, "response_format.format"),
        ({"response_format": {"type": "structural_tag", "structures": []}}, "response_format.format"),
        ({"json_schema": "{"}, "json_schema"),
        ({"json_schema": "[]"}, "json_schema"),
        ({"json_schema": "[" * 100_000}, "json_schema"),
        ({"json_schema": 3}, "json_schema"),
        ({"guided_json": "nothing"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [""]}, "guided_choice[0]"),
        ({"guided_choice": "yes"}, "guided_choice"),
        ({"structured_outputs": {"structural_tag": "["}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"structural_tag": {"type": "x"}}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": "["}}, "structured_outputs.json"),
        ({"structured_outputs": []}, "structured_outputs"),
    ],
    ids=lambda value: str(value)[:70],
)
def test_refused(fields, param):
    refused(CHAT, {**HELLO, **fields}, param)
    refused(TEXT, {"prompt": "x", **fields}, param)


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {"grammar": "b"}}, "structured_outputs.grammar"),
    ],
)
def test_what_the_engine_refuses(fields, param):
    client = EchoClient(refuse=lambda kind, text: {"reason": "it has no end", "place": "line 1, column 3"})
    for path, body in ((CHAT, HELLO), (TEXT, {"prompt": "x"})):
        for stream in (False, True):
            fault = error(post(make_app(client), path, {**body, **fields, "stream": stream}), 400)
            assert (fault["type"], fault["param"]) == ("invalid_request_error", param)
            assert "it has no end" in fault["message"] and "line 1, column 3" in fault["message"]
    assert not client.requests


def test_a_grammar_that_cannot_go_on_is_the_request_s_fault() -> None:
    """Before the first byte a 400 that names the field; later an error in the stream."""
    body = {**HELLO, "regex": "a*"}
    early = EchoClient(lambda request, choice: [], broken="grammar")
    fault = error(post(make_app(early), CHAT, body), 400)
    assert fault["param"] == "regex" and fault["message"].startswith("regex can't be followed any further: kernel 7")
    late = EchoClient(lambda request, choice: [*b"aaa"], cuts=(1,), broken="grammar")
    told = post(make_app(late), CHAT, {**body, "stream": True}).text
    assert '"param":"regex"' in told and told.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "format, param",
    [
        ({"json_schema": {"name": "n", "schema": SCHEMA}}, "response_format.json_schema.schema"),
        ({"schema": SCHEMA}, "response_format.schema"),
    ],
)
def test_a_refused_schema_is_named_where_it_stands(format, param):
    app = make_app(EchoClient(refuse=lambda kind, text: {"reason": "no", "place": "/x"}))
    fault = error(post(app, CHAT, {**HELLO, "response_format": {"type": "json_schema", **format}}), 400)
    assert fault["param"] == param and fault["message"].startswith(param)


def test_an_empty_list_is_called_one():
    fault = error(post(make_app(), CHAT, {**HELLO, "guided_choice": []}), 400)
    assert "not an empty list" in fault["message"]
