"""Structural tags: every format, the older form, control tokens as begins and ends, and what is refused."""

from __future__ import annotations

from typing import Any

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
    "qwen_xml_parameter": (
        XML,
        [
            "<parameter=city>\nParis\nx\n</parameter>",
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
