"""Structural tags: every format, the older form, control tokens as begins and ends, and what is refused."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from tests.engine.grammar_kit import TOOL, UNTOOL, allowed, encode, matcher, refusal, takes

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
JSON = {"type": "json_schema", "json_schema": OBJECT}
ANY = {"type": "any_text"}


def tag(begin: Any, content: dict[str, Any], end: Any) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


TWO = [tag("<f=a>", JSON, "</f>"), tag("<f=b>", ANY, "</f>")]
UNTYPED = [{key: value for key, value in one.items() if key != "type"} for one in TWO]
CALL = tag("<|tool|>\n", JSON, "\n</|tool|>")
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer"}, "unit": {"enum": ["c", "f"]}},
    "required": ["city"],
}
XML = {"type": "qwen_xml_parameter", "json_schema": PARAMETERS}


def text(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


def triggered(**options: Any) -> dict[str, Any]:
    return {"type": "triggered_tags", "triggers": ["<f="], "tags": TWO, **options}


def separated(**options: Any) -> dict[str, Any]:
    return {"type": "tags_with_separator", "separator": ",", "tags": TWO, **options}


def sequence(*elements: dict[str, Any]) -> dict[str, Any]:
    return {"type": "sequence", "elements": list(elements)}


FORMATS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "const_string": (text("hi <|tool|>x"), ["hi <|tool|>x"], ["hi ", "hi <"]),
    "json_schema": (JSON, ['{"a":1}', '{\n    "a": 1\n}'], ["{}", ""]),
    "json_schema, little white space": (
        {**JSON, "max_whitespace_cnt": 1},
        ['{"a":1}', '{"a": 1}', '{\n"a":1}'],
        ['{"a":  1}', '{\n "a":1}'],
    ),
    "regex": ({"type": "regex", "pattern": "[a-z]+|/"}, ["abc", "/"], ["1", "a/"]),
    "grammar": ({"type": "grammar", "grammar": 'root ::= "(" root ")" | "x"'}, ["((x))"], ["(x"]),
    "any_text": (ANY, ["", "any <thing>\n"], ["<|tool|>"]),
    "any_text without": ({**ANY, "excludes": ["no", "<x>"]}, ["yes <x"], ["no", "a<x>b"]),
    "token": ({"type": "token", "token": "<think>"}, ["<think>"], ["", "x"]),
    "token by id": ({"type": "token", "token": TOOL}, ["<|tool|>"], ["", "<think>"]),
    "sequence": (sequence({"type": "regex", "pattern": "[a-z]+"}, text("x1")), ["axx1", "xx1"], ["x1", "ax"]),
    "sequence of text and tag": (sequence(ANY, tag("<r>", JSON, "</r>")), ['x<r>{"a":1}</r>'], ["x", "<r></r>"]),
    "or": ({"type": "or", "elements": [text("yes"), JSON]}, ["yes", '{"a":2}'], ["no", ""]),
    "optional": (sequence({"type": "optional", "content": text("ab")}, text("c")), ["c", "abc"], ["ab", "ababc"]),
    "star": ({"type": "star", "content": tag("<i>", ANY, "</i>")}, ["", "<i>a</i><i></i>"], ["<i>"]),
    "plus": ({"type": "plus", "content": text("ab")}, ["ab", "abab"], ["", "a"]),
    "repeat": ({"type": "repeat", "min": 1, "max": 2, "content": text("ab")}, ["ab", "abab"], ["", "ababab"]),
    "repeat for ever": ({"type": "repeat", "min": 1, "max": -1, "content": JSON}, ['{"a":1}{"a":2}'], [""]),
    "tag of text": (tag("<a>", ANY, "</a>"), ["<a>x<b</a>", "<a></a>"], ["<a></a></a>", "<a>x"]),
    "tag of tokens": (tag("<|tool|>", JSON, "</|tool|>"), ['<|tool|>{"a":1}</|tool|>'], ['{"a":1}', "<|tool|>"]),
    "tag of lines": (tag("<a>\n", JSON, "\n</a>"), ['<a>\n{"a":1}\n</a>'], ['<a>\n{"a":1}</a>']),
    "tag of regex": (tag("<a>", {"type": "regex", "pattern": "[a-z<]+"}, "</a>"), ["<a>x<</a>"], ["<a></a>x"]),
    "tag with ends": (tag("<a>", ANY, ["</a>", "</b>"]), ["<a>x</b>", "<a>x</a>"], ["<a>x"]),
    "tag of a grammar": (
        tag("<a>", {"type": "grammar", "grammar": 'root ::= "(" root ")" | [a-z</>]+'}, ["</a>", "!"]),
        ["<a>(x)</a>", "<a>x</a></a>", "<a>x!", "<a></a>!"],
        ["<a>", "<a>(x</a>"],
    ),
    "tag by token format": (
        tag({"type": "token", "token": "<think>"}, ANY, {"type": "token", "token": UNTOOL}),
        ["<think>x</|tool|>"],
        ["<think>x", "x"],
    ),
    "triggered_tags": (
        triggered(),
        ["", "hello", 'x <f=a>{"a":1}</f> y', '<f=b>zz</f><f=a>{"a":1}</f>', "<f <f=b></f>"],
        ["<f=", "a<f=c>", "<f=b>z", "<|tool|>"],
    ),
    "at least one": (triggered(at_least_one=True), ["<f=b>z</f>", "<f=b></f>a<f=b></f>x"], ["", "x", "x<f=b>z</f>"]),
    "one at most": (triggered(stop_after_first=True), ["", "free", "x<f=b>z</f>"], ["x<f=b>z</f>y", "<f="]),
    "just one": (triggered(at_least_one=True, stop_after_first=True), ["<f=b>z</f>"], ["", "x", "<f=b></f>y"]),
    "triggers within a tag": (tag("<r>", triggered(), "</r>"), ["<r>x<f=b>y</f>z</r>", "<r></r>"], ["<r>x</r></r>"]),
    "triggers before a text": (sequence(triggered(), text("!!")), ["x<f=b>y</f>z!!", "!!"], ["x", "!!!"[:1]]),
    "triggers without": (triggered(excludes=["no"]), ["x<f=b>no</f>n"], ["no", "no<f=b></f>", "<f=b></f>no"]),
    "triggered by a token": (
        {"type": "triggered_tags", "triggers": ["<|tool|>"], "tags": [CALL]},
        ["hi", 'x<|tool|>\n{"a":1}\n</|tool|>y', '<|tool|>\n{"a":1}\n</|tool|>' * 2],
        ["<|tool|>", '<|tool|>{"a":1}'],
    ),
    "triggered, without a type": (
        {**triggered(at_least_one=True), "tags": UNTYPED},
        ["<f=b>z</f>", '<f=a>{"a":1}</f>x'],
        ["x", "<f=b>z"],
    ),
    "separated, without a type": ({**separated(), "tags": UNTYPED}, ["", "<f=b>z</f>,<f=b></f>"], ["x", "<f=b>z"]),
    "tags_with_separator": (
        separated(),
        ["", "<f=b>z</f>", '<f=b>z</f>,<f=a>{"a":1}</f>'],
        ["x", "<f=b>z</f>,", ",", "<f=b>z</f> <f=b>z</f>"],
    ),
    "separated, at least one": (separated(at_least_one=True), ["<f=b>z</f>"], [""]),
    "separated, one at most": (separated(stop_after_first=True), ["", "<f=b>z</f>"], ["<f=b>z</f>,<f=b>z</f>"]),
    "separator and what follows begin alike": (
        tag(
            "(",
            {**separated(at_least_one=True), "separator": "\n", "tags": [*TWO, tag("<f=c>", text(""), "</f>")]},
            "\n</>",
        ),
        ["(<f=b>z</f>\n</>", "(<f=b>z</f>\n<f=c></f>\n<f=b></f>\n</>", '(<f=a>{"a":1}</f>\n<f=a>{"a":1}</f>\n</>'],
        ["(<f=c></f></>", "(<f=c></f>\n\n</>"],
    ),
    "qwen_xml_parameter, some left out": (
        {
            "type": "qwen_xml_parameter",
            "json_schema": {"properties": {"s": {"type": "string"}, "t": {"type": "string"}, "n": {"type": "integer"}}},
        },
        [
            "",
            "<parameter=n>\n1\n</parameter>",
            "<parameter=s>\nx\n</parameter><parameter=n>\n1\n</parameter>",
            "<parameter=s>\nx\n</parameter><parameter=t>\n1\n</parameter>\n<parameter=n>\n1\n</parameter>",
        ],
        ["<parameter=n>\n1\n</parameter><parameter=s>\nx\n</parameter>"],
    ),
    "tags_in_order": (
        tag(
            "(",
            {"type": "tags_in_order", "tags": [*TWO, tag("<f=c>", ANY, "</f>")], "required": [False, True, False]},
            ")",
        ),
        ['(<f=a>{"a":1}</f><f=b>x</f>)', "(<f=b></f>)", "(<f=b></f><f=c>)</f>)"],
        ["()", "(<f=c></f>)", "(<f=b></f><f=b></f>)", '(<f=b></f><f=a>{"a":1}</f>)'],
    ),
    "raw_string": (
        tag("<s>", {"type": "raw_string", "json_schema": {"minLength": 1}, "excludes": ["</s>", "no"]}, "</s>"),
        ['<s>"\n\\</s>', "<s>n</s>", "<s></</s>", "<s>é\u2028</s>"],
        ["<s></s>", "<s>no</s>", "<s>a</s></s>"],
    ),
    "qwen_xml_parameter": (
        XML,
        [
            "<parameter=city>\nParis\nx\n</parameter>",
            "<parameter=city>\nx\n</parameter>\n<parameter=unit>\nf\n</parameter>",
            "<parameter=city>\n\n</parameter>\n<parameter=n>\n12\n</parameter>\n<parameter=unit>\nf\n</parameter>",
        ],
        [
            "",
            "<parameter=n>\n12\n</parameter>",
            "<parameter=city>\nx",
            "<parameter=city>\nx\n</parameter><parameter=q>",
        ],
    ),
    "style qwen_xml": (
        tag("<function=g>\n", {"type": "json_schema", "style": "qwen_xml", "json_schema": PARAMETERS}, "</function>"),
        ["<function=g>\n<parameter=city>\nParis\n</parameter>\n</function>"],
        ["<function=g>\n</function>"],
    ),
    "other parameters": (
        {"type": "qwen_xml_parameter", "json_schema": {"type": "object", "additionalProperties": {"type": "integer"}}},
        ["", "<parameter=x>\n1\n</parameter>\n<parameter=y>\n2\n</parameter>"],
        ["<parameter=x>\na\n</parameter>"],
    ),
}


@pytest.mark.parametrize("case", FORMATS)
def test_a_format_takes_its_texts_and_no_others(case: str) -> None:
    form, good, bad = FORMATS[case]
    whole = {"type": "structural_tag", "format": form}
    assert [output for output in good if not takes("structural_tag", whole, output)] == []
    assert [output for output in bad if takes("structural_tag", whole, output)] == []


RAW: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"type": "string"}, ["", '"q"', "a\n\\u0041"], ["x</s>y"]),
    ({"enum": ["a", "", "</s>", 1]}, ["a", ""], ["b", "1", "</s>"]),
    ({"const": 'x"y'}, ['x"y'], ["x"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["éé", "abc", "\n\n"], ["é", "abcd"]),
    ({"type": "string", "pattern": "^a/[^x]*$"}, ["a/", 'a/b"\n'], ["a", "ba/", "a/x"]),
    ({"type": "string", "pattern": "b"}, ["abc"], ["ac"]),
    ({"type": "string", "not": {"pattern": "x"}}, ["a", ""], ["axb"]),
    ({"type": "string", "not": {"enum": ["x", "yy"]}}, ["", "xx"], ["x", "yy"]),
    ({"type": "string", "pattern": "^[ab]*$", "maxLength": 2, "not": {"const": "ab"}}, ["", "ba"], ["ab", "aaa", "c"]),
    ({"anyOf": [{"const": "a"}, {"type": "string", "minLength": 3}, {"type": "null"}]}, ["a", "abc"], ["b", ""]),
    ({"$ref": "#/$defs/d", "$defs": {"d": {"type": "string", "pattern": "^z$"}}}, ["z"], ["y"]),
    ({"type": "string", "format": "date"}, ["2024-02-29", "2000-02-29", "2023-12-31"], ["2023-02-29", "1900-02-29", "2023-04-31"]),
    ({"type": "string", "format": "date-time"}, ["2024-02-29T23:59:00.5Z", "2024-01-01t00:00:00+01:00"], ["2024-02-29", "2024-01-01T24:00:00Z"]),
    ({"type": "string", "format": "time"}, ["00:00:00z"], ["00:00:00", "1:00:00Z"]),
    ({"type": "string", "format": "duration"}, ["P1DT2H", "PT3S", "P2W", "P1Y2M3D"], ["P", "PT", "P1DT", "P1Y3D2M"]),
    ({"type": "string", "format": "email"}, ["a.b@c.d"], ["a", "a@", "a..b@c"]),
    ({"type": "string", "format": "hostname"}, ["a-b.c", "x"], ["-a", "a_b", ""]),
    ({"type": "string", "format": "ipv4"}, ["127.0.0.1", "255.249.199.9"], ["256.0.0.1", "1.2.3", "01.2.3.4"]),
    ({"type": "string", "format": "ipv6"}, ["::", "::1", "1:2:3:4:5:6:7:8"], ["1", "1::2::3", ":::"]),
    ({"type": "string", "format": "uuid"}, ["01234567-89ab-cdef-0123-456789abcdef"], ["0123"]),
    ({"type": "string", "format": "uri"}, ["http://a/b?c#d", "urn:x:y"], ["a b", "/a"]),
    ({"type": "string", "format": "uri-reference"}, ["/a", "b#c"], ["a b"]),
    ({"type": "string", "format": "unknown"}, ["anything"], []),
]  # fmt: skip


@pytest.mark.parametrize("schema, good, bad", RAW, ids=lambda case: str(case)[:60])
def test_strings_outside_json(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    raw = {"type": "raw_string", "json_schema": schema, "excludes": ["</s>"]}
    whole = {"type": "structural_tag", "format": tag("<s>", raw, "</s>")}
    assert [output for output in good if not takes("structural_tag", whole, f"<s>{output}</s>")] == []
    assert [output for output in bad if takes("structural_tag", whole, f"<s>{output}</s>")] == []
    if "format" not in schema:
        valid = [output for output in good + bad if jsonschema.Draft202012Validator(schema).is_valid(output)]
        assert [output for output in valid if "</s>" not in output] == good


def test_the_older_form() -> None:
    structures = [{"begin": "<function=f>", "schema": OBJECT, "end": "</function>"}]
    whole = {"type": "structural_tag", "structures": structures, "triggers": ["<function="]}
    assert takes("structural_tag", whole, "hi") and takes("structural_tag", whole, 'a<function=f>{"a":1}</function>b')
    assert not takes("structural_tag", whole, "<function=g>")


def test_a_literal_that_is_a_control_token_is_that_token_alone() -> None:
    match = matcher("structural_tag", {"format": tag("<|tool|>", JSON, "</|tool|>")})
    assert allowed(match) == {TOOL}
    assert match.forced() == TOOL
    for token in encode('<|tool|>{"a":1}'):
        match.push(token)
    assert match.forced() == encode("</|tool|>")[0]


REFUSED: dict[str, tuple[Any, str, str]] = {
    "no JSON": ("{", "not valid JSON", ""),
    "no object": ("[]", "an object", ""),
    "another type": ({"type": "x"}, '"structural_tag"', ""),
    "no format": ({"type": "structural_tag"}, '"format"', ""),
    "unknown format": ({"format": {"type": "nope"}}, "'nope' is not supported", "/format"),
    "format of no kind": ({"format": sequence({"type": []})}, "not supported", "/format/elements/0"),
    "missing field": ({"format": {"type": "regex"}}, 'needs "pattern"', "/format"),
    "wrong type": ({"format": {"type": "sequence", "elements": {}}}, "an array", "/format/elements"),
    "tag in no trigger": ({"format": triggered(triggers=["q"])}, "none of the triggers", "/format/tags/0/begin"),
    "no tags": ({"format": triggered(tags=[])}, "at least one tag", "/format/tags"),
    "no trigger": ({"format": triggered(triggers=[])}, "at least one trigger", "/format/triggers"),
    "unknown token": ({"format": {"type": "token", "token": "zz"}}, "no control token", "/format/token"),
    "bad grammar": (
        {"format": tag("a", {"type": "grammar", "grammar": "root ::= x"}, "b")},
        "no rule named x",
        "/format/content/grammar: line 1, column 10",
    ),
    "bad structure": ({"structures": [{"begin": "x"}], "triggers": ["a"]}, '"begin"', "/structures/0"),
    "limits on text": ({"format": {**ANY, "max_tokens": 3}}, "max_tokens", "/format/max_tokens"),
    "white space": ({"format": {**JSON, "max_whitespace_cnt": -1}}, "whole number", "/format/max_whitespace_cnt"),
    "any order": ({"format": {**JSON, "any_order": True}}, "any_order", "/format/any_order"),
    "other style": ({"format": {**JSON, "style": "glm_xml"}}, "glm_xml", "/format/style"),
    "no string": (
        {"format": {"type": "raw_string", "json_schema": {"type": "null"}}},
        "no string",
        "/format/json_schema",
    ),
    "order of some": (
        {"format": {"type": "tags_in_order", "tags": TWO, "required": [True]}},
        "each tag",
        "/format/required",
    ),
    "repeat backwards": ({"format": {"type": "repeat", "min": 2, "max": 1, "content": ANY}}, "below min", "/format"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_structural_tag_is_refused_with_its_place(case: str) -> None:
    value, reason, place = REFUSED[case]
    error = refusal("structural_tag", value)
    assert error is not None and reason in error.reason and error.place == place, error


def test_formats_within_formats_end_somewhere() -> None:
    form: dict[str, Any] = ANY
    for _ in range(100):
        form = {"type": "optional", "content": form}
    error = refusal("structural_tag", {"format": form})
    assert error is not None and "nested" in error.reason
