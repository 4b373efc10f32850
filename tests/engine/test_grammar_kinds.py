"""Each kind of constraint: texts that it takes and texts that it doesn't, and what it refuses to be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from radixmill.engine.grammar import GrammarError
from radixmill.engine.grammar.regex import copies, to_lexeme
from tests.engine.grammar_kit import refusal, takes

KINDS: dict[str, tuple[str, Any, list[str], list[str]]] = {
    "schema": (
        "json_schema",
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        ['{"a":1}', '{ "a" : -12 , "b": [true]}'],
        ["", "{}", '{"a":"1"}', "[]", '{"a":1}}'],
    ),
    "any": ("json_schema", "$$ANY$$", ["1", "[]", '"x"', '{"a":[null]}'], ["{", "", "x"]),
    "object": ("json_object", "", ["{}", '{"a":1}'], ["[]", "1", ""]),
    "strings hold no control token": ("json_schema", {"type": "string"}, ['"<a>"'], ['"<|tool|>"', '"<eos>"']),
    "regex": ("regex", "a+|abc", ["a", "aaa", "abc"], ["", "ab", "abca"]),
    "anchors": ("regex", "^ab$", ["ab"], ["a", "abb"]),
    "classes": ("regex", r"\d+/[\w-]\s", ["12/a ", "1/_\n"], ["١/a ", "1/é "]),
    "empty": ("regex", "", [""], ["a"]),
    "star": ("regex", "x*", ["", "xx"], ["y"]),
    "lines and quotes": ("regex", 'a\n"b"[/]', ['a\n"b"/'], ["a"]),
    "dot": ("regex", ".", ["é", "\U0001f600"], ["\n", "ab"]),
    "lazy is greedy for a whole": ("regex", "a+?b", ["ab", "aab"], ["a"]),
    "named": ("regex", "(?P<x>a)(?i:b)", ["ab", "aB"], ["Ab"]),
    "any text": ("structural_tag", '{"format": {"type": "any_text"}}', ["", "a\n"], ["<|tool|>", "a<think>"]),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_kind_takes_its_texts_and_no_others(case: str) -> None:
    kind, text, good, bad = KINDS[case]
    assert [output for output in good if not takes(kind, text, output)] == []
    assert [output for output in bad if takes(kind, text, output)] == []


REFUSED: dict[str, tuple[str, Any, str, str]] = {
    "look-ahead": ("regex", "a/(?=b)", "look-around", "`(?=`"),
    "look-behind": ("regex", "(?<!a)b", "look-around", "`(?<!`"),
    "back-reference": ("regex", r"(a)\1", "backreferences", "`\\1`"),
    "word boundary": ("regex", r"\bab", "not supported", ""),
    "inner anchor": ("regex", "a$b", "not supported", ""),
    "open group": ("regex", "a(b", "unclosed group", "`(`"),
    "no character": ("regex", "a\0", "NUL", "character 1"),
    "nothing matches": ("regex", r"[^\x00-\x{10ffff}]", "no text matches", ""),
    "no schema": ("json_schema", '{"type":', "JSON", "line 1, column 9"),
    "schema of nothing": ("json_schema", "false", "no value", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_had_is_refused_with_reason_and_place(case: str) -> None:
    kind, text, reason, place = REFUSED[case]
    error = refusal(kind, text)
    assert error is not None
    assert reason in error.reason and error.place == place
    assert "\n" not in error.reason and "start:" not in error.reason, "the library's own text is not the client's"


def test_a_refusal_within_a_tag_points_into_the_tag() -> None:
    tag = {"format": {"type": "tag", "begin": "<a>", "end": "</a>", "content": {"type": "json_schema"}}}
    tag["format"]["content"]["json_schema"] = {"properties": {"x": {"type": "nope"}}}  # type: ignore[index]
    error = refusal("structural_tag", json.dumps(tag))
    assert error is not None and error.place == "/format/content/json_schema/properties/x/type"


@pytest.mark.parametrize(
    ("pattern", "atoms"),
    [
        ("", 0),
        ("abc", 3),
        ("a{3}", 3),
        ("a{2,5}b", 6),
        ("a{2,}", 2),
        ("(ab){4}", 8),
        ("(ab|c{3}){2}", 10),
        ("((a{10}){10}){10}", 1000),
        (r"\(a{9}\)", 11),
        ("[(]{7}", 7),
        ("[]a]{2}", 2),
        ("a+?b*", 2),
    ],
)
def test_copies_of_a_regular_expression(pattern, atoms):
    assert copies(pattern) == atoms


def test_repetitions_of_repetitions_are_refused():
    with pytest.raises(GrammarError, match="more than 100000 copies"):
        to_lexeme("((a{1,1000}){1,1000}){1,1000}")
    assert to_lexeme("a{1,1000}")
