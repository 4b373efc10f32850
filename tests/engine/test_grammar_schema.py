"""Schemas rewritten for the grammar library: what it accepts afterwards is what the schema says, or it is refused."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import hypothesis
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radixmill.engine.grammar import GrammarError
from radixmill.engine.grammar.schema import MAX_BYTES, MAX_DEPTH, normalise, without
from radixmill.engine.grammar.schema.regex import Judge
from tests.engine.schema_kit import Grammar

NAMES = ("a", "b", "ab")
CONSTANTS = (
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    1.5,
    "",
    "a",
    "ab",
    "b",
    [],
    [1],
    ["a", 1],
    {},
    {"a": 1},
    {"a": "a", "b": 1},
)
SCALARS = (None, True, False, 0, 1, 2, 3, -1, -2, 1.5, 0.5, -0.5, 2.5, "", "a", "b", "ab", "ba", "aab", "c")
MEMBERS = (None, True, 1, 1.5, "", "a", "ab", [], [1], {}, {"a": 1})
INSTANCES: tuple[Any, ...] = (
    *SCALARS,
    *([], [1], ["a"], [1, 1], [1, "a"], ["a", 1], [None], [[]], [1, 2, 3], ["a", "b", "ab"], [{"a": 1}], [1.5, 2]),
    {},
    *({name: value} for name in (*NAMES, "c", "ba") for value in MEMBERS),
    *({one: 1, other: value} for one, other in itertools.permutations((*NAMES, "c"), 2) for value in (1, "a", [])),
    *({"a": 1, "b": 1, "ab": 1}, {"a": "a", "b": 1, "ab": "a"}, {"a": 1, "b": "a", "c": 1}, {"a": {"a": {"a": "a"}}}),
)


# ── the property: the grammar accepts what the validator accepts ────────────────────────────────────────────────────


def _keywords(below: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    types = st.sampled_from(("null", "boolean", "integer", "number", "string", "array", "object"))
    numbers = st.sampled_from((-1, 0, 1, 2, 0.5, 1.5))
    counts = st.integers(0, 2)
    patterns = st.sampled_from(("^a", "b", "^a?$", "^[ab]*$", "a$", "^(a|b)$", "[^a]", "^.{2}$", "(^|b)a"))
    names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)
    schemas = st.lists(below, min_size=1, max_size=3)
    values = st.sampled_from(CONSTANTS)
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": types | st.lists(types, min_size=1, max_size=3, unique=True),
        "const": values,
        "enum": st.lists(values, min_size=1, max_size=4),
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), numbers),
        "multipleOf": st.sampled_from((1, 2, 0.5, 1.5)),
        **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), counts),
        "pattern": patterns,
        "uniqueItems": st.just(True),
        **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), schemas),
        **dict.fromkeys(("not", "if", "then", "else", "items", "contains", "additionalProperties"), below),
        "properties": st.dictionaries(st.sampled_from(NAMES), below, min_size=1, max_size=3),
        "patternProperties": st.dictionaries(st.sampled_from(("a", "^b", "b$", "^a$")), below, min_size=1, max_size=2),
        "propertyNames": st.sampled_from(({"pattern": "^a"}, {"enum": ["a", "b"]}, {"maxLength": 1})) | below,
        "required": names,
        "dependentRequired": st.dictionaries(st.sampled_from(NAMES), names, max_size=2),
        "dependentSchemas": st.dictionaries(st.sampled_from(NAMES), below, max_size=2),
        "$ref": st.sampled_from(("#", "#/$defs/x", "#/$defs/y")),
    }
    chosen = st.lists(st.sampled_from(sorted(keywords)), min_size=1, max_size=4, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: keywords[key] for key in keys}))


LEAVES = st.booleans() | st.sampled_from(
    [
        {},
        {"type": "string"},
        {"type": "integer"},
        {"type": "object"},
        {"type": "array"},
        *({"const": v} for v in CONSTANTS),
    ]
)
SCHEMAS = st.recursive(LEAVES, _keywords, max_leaves=8)


@given(schema=SCHEMAS, x=SCHEMAS, y=SCHEMAS)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_grammar_accepts_what_the_validator_does(schema: Any, x: Any, y: Any) -> None:
    schema = {**schema, "$defs": {"x": x, "y": y}} if isinstance(schema, dict) else schema
    try:
        grammar = Grammar(schema)
    except GrammarError as error:
        assert error.reason
        return
    for value in INSTANCES:
        assert grammar.accepts(value) == _is_valid(schema, value), (schema, grammar.text, value)


def _is_valid(schema: Any, value: Any) -> bool:
    try:
        return jsonschema.Draft202012Validator(schema).is_valid(value)
    except RecursionError:  # an `if` that leads back to itself and decides nothing: the validator asks it all the same
        hypothesis.reject()


# ── rules, one by one ───────────────────────────────────────────────────────────────────────────────────────────────

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
CIRCLE = {"type": "object", "properties": {"kind": {"const": "circle"}, "r": INTEGER}, "required": ["kind"]}
SQUARE = {"type": "object", "properties": {"kind": {"enum": ["square", "box"]}, "w": INTEGER}, "required": ["kind"]}
CLOSED = {"type": "object", "properties": {"a": STRING, "b": INTEGER, "c": {}}, "additionalProperties": False}
TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"value": {"oneOf": [INTEGER, {"$ref": "#/$defs/tree"}]}, "next": {"$ref": "#/$defs/tree"}},
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}

RULES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "unknown format": ({**STRING, "format": "phone"}, ["", "x"], [1]),
    "known format": ({**STRING, "format": "date"}, ["2024-02-29"], ["2024-13-01", "x"]),
    "format by pattern": ({**STRING, "format": "json-pointer"}, ["", "/a~1b"], ["a", "/~2"]),
    "oneOf types": ({"oneOf": [STRING, INTEGER, {"type": "null"}]}, ["a", 1, None], [1.5, True, []]),
    "oneOf tags": ({"oneOf": [CIRCLE, SQUARE]}, [{"kind": "circle", "r": 1}, {"kind": "box"}], [{"kind": "x"}, {}]),
    "oneOf overlap": ({"oneOf": [{"minimum": 0}, {"maximum": 9}], "type": "integer"}, [-1, 10], [0, 5, 9]),
    "oneOf required": (
        {**CLOSED, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": ""}, {"b": 1, "c": 1}],
        [{}, {"a": "", "b": 1}, {"c": 1}],
    ),
    "oneOf formats": ({**STRING, "oneOf": [{"format": "ipv4"}, {"format": "uuid"}]}, ["1.2.3.4"], ["x"]),
    "oneOf patterns": ({**STRING, "oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ["ac", "cb"], ["ab", "c"]),
    "not enum": ({**STRING, "not": {"enum": ["a", "ab"]}}, ["", "b", "abc", "aa"], ["a", "ab", 1]),
    "not type": ({"not": {"type": ["object", "array"]}}, ["a", None, 1], [{}, []]),
    "not pattern": ({**STRING, "not": {"pattern": r"^\s+$"}}, ["", "a", " a"], [" ", "  "]),
    "not required": ({"type": "object", "not": {"required": ["a"]}}, [{}, {"b": 1}], [{"a": 1}, 1]),
    "not numbers": ({**INTEGER, "minimum": 0, "not": {"enum": [2, 3]}}, [0, 1, 4], [2, 3, -1]),
    "dependencies": (
        {**CLOSED, "dependencies": {"a": ["b"], "c": {"properties": {"b": {"minimum": 5}}}}},
        [{}, {"b": 1}, {"a": "", "b": 1}, {"b": 5, "c": 0}],
        [{"a": ""}, {"b": 1, "c": 0}],
    ),
    "if then else": (
        {**CLOSED, "if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
        [{"a": "", "b": 1}, {"c": 1}],
        [{"a": ""}, {"b": 1}],
    ),
    "minProperties": ({**CLOSED, "minProperties": 2}, [{"a": "", "c": 1}, {"a": "", "b": 1, "c": 1}], [{}, {"b": 1}]),
    "maxProperties": ({**CLOSED, "maxProperties": 1}, [{}, {"c": 1}], [{"a": "", "c": 1}]),
    "old exclusiveMinimum": ({**INTEGER, "minimum": 1, "exclusiveMinimum": True}, [2], [1, 0]),
    "required, not declared": ({"type": "object", "required": ["x"]}, [{"x": 1, "y": 2}], [{}, {"y": 1}]),
    "names and patterns": (
        {
            "type": "object",
            "properties": {"ab": {"minimum": 3}},
            "patternProperties": {"^a": INTEGER, "b$": {"maximum": 5}},
        },
        [{"ab": 4}, {"aa": 9}, {"b": 5}, {"c": []}],
        [{"ab": 2}, {"ab": 6}, {"aa": ""}, {"b": 6}, {"axb": 6}],
    ),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^x-"}}, [{}, {"x-a": 1}], [{"a": 1}]),
    "uniqueItems, one": ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[], [1]], [[1, 1], [1, 2]]),
    "uniqueItems, few": (
        {"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}},
        [[], [2, 1]],
        [[1, 1], [3]],
    ),
    "uniqueItems, alike": (
        {"type": "array", "uniqueItems": True, "items": {"enum": [1, True, "1", None]}},
        [[1, True], ["1", 1, None, True]],
        [[1, 1], [True, True]],
    ),
    "large limits": ({"type": "string", "maxLength": 2**31 - 1}, ["a"], [1]),
    "contains": ({"type": "array", "contains": STRING, "maxItems": 3}, [["a"], [1, "a", 2]], [[], [1], [1, 2, 3, "a"]]),
    "old items": (
        {"type": "array", "items": [STRING, INTEGER], "additionalItems": False},
        [["a", 1]],
        [["a", 1, 2], [1]],
    ),
    "nullable is no keyword": ({**STRING, "nullable": True}, ["a"], [None]),
    "multipleOf": ({"type": "number", "multipleOf": 0.01, "minimum": 0}, [0.25, 3], [0.255, -1]),
    "int64": ({**INTEGER, "minimum": 0, "maximum": 2**63 - 1}, [2**63 - 1], [2**63, -1]),
    "recursion": (
        TREE,
        [{"value": 1}, {"value": {"value": 2}, "next": {"value": 3}}],
        [{}, {"value": {}}, {"value": ""}],
    ),
    "an end is found": (
        {
            "$defs": {"n": {"anyOf": [INTEGER, {**CIRCLE, "properties": {"kind": {"$ref": "#/$defs/n"}}}]}},
            "$ref": "#/$defs/n",
        },
        [1, {"kind": {"kind": 2}}],
        ["a", {}],
    ),
    "embedded $id": (
        {
            "$id": "http://x.test/root",
            "$defs": {"p": {"$id": "part", "$anchor": "here", **STRING}},
            "items": {"$ref": "part#here"},
        },
        [["a"], 1],
        [[1]],
    ),
    "old $ref": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$ref": "#/definitions/s",
            "definitions": {"s": STRING},
            "maxLength": 1,
        },
        ["abc"],
        [1],
    ),
    "lenient is not for clients": (
        {"x-guidance": {"lenient": True, "coerce_one_of": True}, "oneOf": [{}, STRING]},
        [1],
        ["a"],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule(rule: str) -> None:
    schema, good, bad = RULES[rule]
    grammar = Grammar(schema)
    assert [value for value in good if not grammar.accepts(value)] == [], grammar.text
    assert [value for value in bad if grammar.accepts(value)] == [], grammar.text


def test_members_come_in_the_order_of_the_schema() -> None:
    grammar = Grammar({**CLOSED, "allOf": [{"properties": {"d": {}, "a": {}}}]} | {"additionalProperties": {}})
    assert grammar.accepts_text('{"a":"","b":1,"c":1,"d":1}')
    assert not grammar.accepts_text('{"b":1,"a":""}')


def test_both_usual_spellings_of_json_are_accepted() -> None:
    grammar = Grammar(CLOSED)
    value = {"a": "é", "b": 1, "c": [1, {"x": None}]}
    assert grammar.accepts_text(json.dumps(value, ensure_ascii=False))
    assert grammar.accepts_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def test_an_escaped_name_is_the_same_name() -> None:
    """The library alone takes \\u0061 for a name that isn't declared, and then its value may be anything."""
    grammar = Grammar({"type": "object", "properties": {"a": STRING}, "patternProperties": {"^b": STRING}})
    assert not grammar.accepts_text('{"\\u0061": 5}')
    assert not grammar.accepts_text('{"\\u0062x": 5}')
    assert grammar.accepts_text('{"c": 5}')


@pytest.mark.parametrize(
    "bounds", [("exclusiveMinimum", "maximum", 0, 0.5, "0"), ("minimum", "exclusiveMaximum", -0.5, 0, "-0")]
)
def test_an_excluded_integer_close_to_the_other_limit_is_refused(bounds: tuple[str, str, float, float, str]) -> None:
    """The library alone would let the integer through."""
    low, high, least, most, _ = bounds
    with pytest.raises(GrammarError, match="exclusiveM"):
        normalise(json.dumps({"type": "number", low: least, high: most}))


# ── patterns ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("b", ["b", "abc", "b\n"], ["", "a"]),
        ("^a|b$", ["ax", "xb"], ["xax", "ba"]),
        ("^(a|b$)", ["ax", "b"], ["bx", "xa"]),
        ("(^|,)a(,|$)", ["a", "x,a", "a,x"], ["xa", "ax"]),
        ("^.$", ["a", "é", "😀"], ["", "ab", "\n", "\r", "\u2028"]),
        (r"^\s$", [" ", "\t", "\u00a0", "\ufeff"], ["a", "\u0085"]),
        (r"^\d+$", ["09"], ["٣", ""]),
        (r"^[\w.-]+$", ["a-b.c_1"], ["é", " "]),
        (r"^[^\n\d]$", ["a"], ["1", "\n"]),
        (r"^\u0041\x42\/\-$", ["AB/-"], ["ab/-"]),
        ("^(?:ab){1,2}?$", ["ab", "abab"], ["", "ababab"]),
        ("^(?<year>a)$", ["a"], ["b"]),
        ("^[a-c-e]$", ["b", "-", "e"], ["d"]),
    ],
)
def test_a_pattern_means_what_ecma_262_says(pattern: str, good: list[str], bad: list[str]) -> None:
    grammar = Grammar({"type": "string", "pattern": pattern})
    assert [text for text in good if not grammar.accepts(text)] == [], grammar.text
    assert [text for text in bad if grammar.accepts(text)] == [], grammar.text


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?=a)",
        r"(?!a)b",
        r"(?<=a)b",
        r"\bword\b",
        r"(a)\1",
        r"(?i)a",
        r"\p{L}",
        "a**",
        "(a",
        "a)",
        "[a",
        "[b-a]",
        "a{2,1}",
        "[]",
        "*",
        r"\Z",
        "a^b",
        "(^a)+",
        "\\",
        "(" * 2000,
    ],
)
def test_a_pattern_that_has_no_exact_reading_is_refused(pattern: str) -> None:
    with pytest.raises(GrammarError, match=r"^pattern ") as caught:
        normalise(json.dumps({"properties": {"a/b": {"pattern": pattern}}}))
    assert caught.value.place == "/properties/a~1b/pattern"


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────

LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}
REFUSED: dict[str, tuple[Any, str, str]] = {
    "root to itself": ({"$ref": "#"}, r"\$ref", ""),
    "two in a loop": (LOOP, r"\$ref", "/$defs/a"),
    "needs itself": ({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}, r"\$ref", ""),
    "remote": ({"items": {"$ref": "http://x.test/y.json"}}, r"\$ref .*remote", "/items/$ref"),
    "dangling": ({"$ref": "#/$defs/none"}, r"\$ref .*nothing stands there", "/$ref"),
    "dynamic": ({"$dynamicRef": "#x"}, r"\$dynamicRef", "/$dynamicRef"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "uniqueItems", "/uniqueItems"),
    "contains": ({"contains": STRING}, "contains", "/contains"),
    "not integer": ({"type": "number", "not": INTEGER}, "type", "/not/type"),
    "not format": ({"type": "string", "not": {"format": "uri"}}, "format", "/not/format"),
    "not multipleOf": ({"type": "number", "not": {"multipleOf": 2}}, "multipleOf", "/not/multipleOf"),
    "unevaluated": (
        {"type": "object", "unevaluatedProperties": False},
        "unevaluatedProperties",
        "/unevaluatedProperties",
    ),
    "two of any name": ({"type": "object", "minProperties": 2}, "minProperties", ""),
    "nothing": ({"type": "string", "enum": [1]}, "enum contradicts", "/enum"),
    "false": (False, "false", ""),
    "not anything": ({"not": {}}, "not contradicts", "/not"),
    "wrong type": ({"type": "any"}, "type must be", "/type"),
    "draft 3": ({"properties": {"a": {"required": True}}}, "required must be", "/properties/a/required"),
    "no schema": ({"items": 3}, "a schema must be", "/items"),
    "negative": ({"minItems": -1}, "minItems must be", "/minItems"),
    "fraction": ({"maxLength": 1.5}, "maxLength must be", "/maxLength"),
    "empty anyOf": ({"anyOf": []}, "anyOf must not be empty", "/anyOf"),
    "maxItems 2^63": ({"maxItems": 2**63}, "maxItems is above", "/maxItems"),
    "minItems huge": ({"minItems": 10**9}, "minItems is above", "/minItems"),
    "big integer": ({"type": "integer", "minimum": -(2**63)}, "minimum", ""),
    "big number": ({"type": "number", "maximum": 1.7976931348623157e308}, "maximum", ""),
    "fine step": ({"type": "number", "multipleOf": 1e-12}, "multipleOf", ""),
    "step of zero": ({"multipleOf": 0}, "multipleOf must be", "/multipleOf"),
    "anyOf products": (
        {"allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(30)]},
        "anyOf makes",
        "",
    ),
    "oneOf products": (
        {"allOf": [{"oneOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(30)]},
        "oneOf makes",
        "",
    ),
    "many dependencies": (
        {"dependentRequired": {f"a{i}": [f"b{i}"] for i in range(40)}},
        "dependentRequired makes",
        "",
    ),
    "control character": (
        {"properties": {"a": {"const": "\x01"}}, "required": ["a"]},
        "enum or const: a control character",
        "",
    ),
    "many members": ({"properties": {f"p{i}": {} for i in range(3000)}}, "properties", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exact_is_refused_by_name(case: str) -> None:
    schema, reason, place = REFUSED[case]
    with pytest.raises(GrammarError, match=reason) as caught:
        normalise(json.dumps(schema))
    assert place == "" or caught.value.place == place


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "a schema must be"),
        ('{"maximum": NaN}', "NaN"),
        ('{"maximum": 1e400000000}', "digits"),
        ('{"maximum": ' + "9" * 100_000 + "}", "digits"),
        (r'{"const": "\ud800"}', "surrogate"),
        (r'{"properties": {"\udfff": {}}}', "surrogate"),
        ('{"enum": ["' + "x" * 5_000_000 + '"]}', f"larger than {MAX_BYTES}"),
        ('{"items":' * 10_000 + "true" + "}" * 10_000, f"deeper than {MAX_DEPTH}"),
        ("[" * 100_000, f"deeper than {MAX_DEPTH}"),
        ("[" + "0," * 200_000 + "0]", "more than"),
    ],
)
def test_text_that_is_no_schema_is_refused(text: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        normalise(text)


def _chain(link: str) -> dict[str, Any]:
    """Twenty definitions, each using the one before twice."""
    twice = {f"d{i}": {link: [{"$ref": f"#/$defs/d{i - 1}"}] * 2} for i in range(1, 21)}
    return {"$ref": "#/$defs/d20", "$defs": {"d0": STRING, **twice}}


BOMBS = {
    "allOf doubling": _chain("allOf"),
    "anyOf doubling": _chain("anyOf"),
    "prefixItems doubling": _chain("prefixItems"),
    "400 alternatives": {"oneOf": [{**CIRCLE, "properties": {"kind": {"const": str(i)}}} for i in range(400)]},
    "heavy patterns": {"oneOf": [{"pattern": f"^(a|b)*{i}(a|b){{{i}}}$"} for i in range(60)]},
    "patterns together": {"allOf": [{"pattern": "(a|b)*a(a|b){20}"}, {"pattern": "^(a|b)*b(a|b){21}$"}]},
    "pattern left out": {"not": {"pattern": "(a|b)*a(a|b){20}"}},
    "names by patterns": {"patternProperties": {f"(a|b)*a(a|b){{{i}}}": {"const": i} for i in range(3, 40)}},
    "counts in counts": {"pattern": "((a{1,1000}){1,1000}){1,1000}"},
    "choices of members": {
        "properties": {f"p{i}": {} for i in range(30)},
        "additionalProperties": False,
        "minProperties": 15,
    },
    "long prefix": {"prefixItems": [{"const": i} for i in range(20_000)]},
    "many words": {"enum": [f"word {i}" for i in range(40_000)]},
    "many words not": {"type": "string", "not": {"enum": [f"word {i}" for i in range(5_000)]}},
    "contains everywhere": {"maxItems": 32, "allOf": [{"contains": {"const": i}} for i in range(6)]},
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_costs_little_time(bomb: str) -> None:
    text = json.dumps(BOMBS[bomb])
    start = time.process_time()
    try:
        out = normalise(text)
    except GrammarError as error:
        assert error.reason
    else:
        assert len(out) < 4 * MAX_BYTES
    assert time.process_time() - start < 3  # about 1 s at most on a quiet machine


def test_white_space_is_bounded() -> None:
    """Every layout in use passes; an answer of nothing but empty lines does not."""
    value = {"a": [1, {"b": [2, [3]]}], "c": {}}
    grammar = Grammar(True)
    for layout in ({}, {"separators": (",", ":")}, {"indent": 2}, {"indent": 8}, {"indent": "\t"}):
        assert grammar.accepts_text(json.dumps(value, **layout)), layout
        assert grammar.accepts_text(json.dumps(value, **layout).replace("\n", "\r\n")), layout
    assert not grammar.accepts_text("[1,\n\n2]")
    assert not grammar.accepts_text("[1," + " " * 65 + "2]")
    assert grammar.accepts_text("[1,\n" + " " * 64 + "2]")
    assert not grammar.accepts_text("[1," + " " * 3 + "2]"), "indentation stands behind a line end"


@pytest.mark.parametrize(
    "limits", [{"minimum": 0}, {"maximum": 99.5}, {"exclusiveMinimum": -33.15, "maximum": 2.149999999999999}]
)
def test_digits_of_a_number_with_limits_are_bounded(limits: dict[str, float]) -> None:
    """Beyond that they would be rounded when they are read, perhaps to the very limit that is excluded."""
    grammar = Grammar({"type": "number", **limits})
    assert grammar.accepts_text("1.0123456789") and not grammar.accepts_text("1.01234567890")
    assert not grammar.accepts_text("-33.1499999999999999999")


@pytest.mark.parametrize(("pattern", "what"), [(r"^\p{L}+$", r"\p{L}"), (r"\Px", r"\P"), (r"\k", r"\k")])
def test_an_escape_that_is_not_there_is_named(pattern: str, what: str) -> None:
    with pytest.raises(GrammarError) as caught:
        normalise(json.dumps({"pattern": pattern}))
    assert f": {what} is not supported" in str(caught.value)


@given(st.sampled_from(["a", "ab", "abc", "abb", "<b>"]), st.text("abc<>", max_size=8))
def test_texts_without_a_word(word: str, text: str) -> None:
    assert Judge().matches(without(word), text) is (word not in text)


def test_texts_without_a_word_that_overlaps_itself_have_no_expression() -> None:
    assert without("aba") is None and Judge().possible([without("")]) is False
