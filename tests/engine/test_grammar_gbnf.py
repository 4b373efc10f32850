"""GBNF: what is read, what is refused and where, and that lexemes change nothing about what a grammar matches."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.engine.grammar import GrammarError
from radixmill.engine.grammar.compile import HEAD
from radixmill.engine.grammar.gbnf import Alt, Chars, Expr, Ref, Repeat, Rules, Seq, Text, parse
from radixmill.engine.grammar.lexemes import to_lark
from radixmill.engine.grammar.matcher import Start
from tests.engine.grammar_kit import EOS, TOKENIZER, VOCABULARY, Matcher, allowed, refusal, takes

JSON = r"""
# any JSON value, with little white space
root   ::= value
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value
                    ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,3})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""

SAMPLES: dict[str, tuple[str, list[str], list[str]]] = {
    "json": (
        JSON,
        ['{"a": [1, -2.5e3, "x\\"\\u00e9"]}', "[\n  true,\n\t null]\n", '"é"'],
        ['{"a": }', "[1,]", "01", '"\\x"', "[1", "  1"],
    ),
    "left recursion": (
        'root ::= sum\nsum ::= sum "+" term | term\nterm ::= [0-9]+ | "(" sum ")"',
        ["1", "1+22", "(1+2)+3"],
        ["1+", "+1", "(1", "1+()"],
    ),
    "right recursion": ('root ::= "a" root | "b"', ["b", "aab"], ["a", "ba"]),
    "escapes": (r'root ::= "\x41\u00e9\U0001F600\n\"\\" [\]\-a\x62]', ['Aé😀\n"\\b', 'Aé😀\n"\\]'], ["Aé😀"]),
    "negated class": ('root ::= [^a-y"] "z"', ["zz", "éz", "\nz"], ["az", '"z', "z"]),
    "any character": ("root ::= . .", ["ab", "é\n"], ["a", "abc"]),
    "repetitions": ("root ::= [a]{2} [b]{1,2} [c]{0,1} [d]{2,} [e]{,1}", ["aabdd", "aabbcddde"], ["abdd", "aabd"]),
    "groups": ('root ::= ("a" | "b" ("c" | "d"))+ "e"?', ["a", "bc", "abde"], ["", "b", "ae e"]),
    "empty parts": ('root ::= a "x" ()\na ::= | "y" | ""', ["x", "yx"], ["yyx", ""]),
    "lines": ('root ::=\n  "a" # one\n  | "b"\n  "c"\nd-_1.x ::= "d"', ["a", "bc"], ["b", "d"]),
    "one name is the other's beginning": ('root ::= "if" | "ifx" ("(" root ")")?', ["if", "ifx(if)"], ["if(if)"]),
    "longest cut": ('root ::= "(" root ")" | "a" "b" "c" | "ab" "d"', ["abc", "abd", "((abc))"], ["ab", "ac"]),
    "longest cut in a loop": (
        'root ::= "(" root ")" | word "x"\nword ::= [a-z]+',
        ["ax", "(abxx)"],
        ["x", "a", "(ab)"],
    ),
    "longest cut before a rule": ('root ::= [a-z]+ tail\ntail ::= "x" root | "."', ["axb.", "axx."], ["ax", "x."[1:]]),
    "branch without end": ('root ::= "a" | "b" trap\ntrap ::= "x" trap', ["a"], ["b", "bx"]),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_samples(case: str) -> None:
    grammar, good, bad = SAMPLES[case]
    assert [text for text in good if not takes("ebnf", grammar, text)] == []
    assert [text for text in bad if takes("ebnf", grammar, text)] == []


REFUSED = {
    "root ::= root": ("adds nothing", "line 1, column 1"),
    'root ::= "x"\nroot ::= "y"': ("two rules named root", "line 2, column 1"),
    'root ::= a | "y"\na ::= b?\nb ::= a "" | "x"': ("adds nothing", "line 2, column 1"),
    "root ::= root root | [a]?": ("adds nothing", "line 1, column 1"),
    'root ::= "a" root': ("goes on for ever", ""),
    'start ::= "a"': ("no rule named root", ""),
    "root ::= x": ("no rule named x", "line 1, column 10"),
    'root ::= "a" (': ("without `)`", "line 1, column 14"),
    'root ::= "a" )': ("without `(`", "line 1, column 14"),
    'root ::= "a': ("closing quote", "line 1, column 10"),
    "root ::= [a": ("closing bracket", "line 1, column 10"),
    "root ::= [b-a]": ("ends before it begins", "line 1, column 11"),
    r'root ::= "ab\q"': (r"\q is unknown", "line 1, column 13"),
    r'root ::= "\ud800"': ("no character", "line 1, column 11"),
    "root ::= 'a'": ("single quotes", "line 1, column 10"),
    'root ::= "a" (= "b")': ("look-ahead", "line 1, column 14"),
    "root ::= <think>": ("angle brackets", "line 1, column 10"),
    "root ::= * [a]": ("nothing to repeat", "line 1, column 10"),
    "root ::= [a]{3,2}": ("ends before it begins", "line 1, column 13"),
    "root ::= [a]{9999999}": ("repeats more than", "line 1, column 13"),
    "root ::= " + "(" * 101 + "[a]" + ")" * 101: ("nested more than", "line 1, column 110"),
    '"a"': ("a rule", "line 1, column 1"),
    "": ("no rule named root", ""),
}


@pytest.mark.parametrize("grammar", REFUSED)
def test_what_is_no_grammar_is_refused_with_its_place(grammar: str) -> None:
    reason, place = REFUSED[grammar]
    error = refusal("ebnf", grammar)
    assert error is not None
    assert (reason in error.reason, error.place) == (True, place), error


# --- against a recogniser that knows nothing of lexemes


def recognises(rules: Rules, text: str) -> bool:
    """Whether `text` matches `root`: the spans of every rule, grown until nothing is added."""
    spans: dict[str, set[tuple[int, int]]] = {name: set() for name in rules}

    def ends(expr: Expr, at: int) -> set[int]:
        match expr:
            case Chars(ranges):
                fits = at < len(text) and any(low <= ord(text[at]) <= high for low, high in ranges)
                return {at + 1} if fits else set()
            case Text(part):
                return {at + len(part)} if text.startswith(part, at) else set()
            case Ref(name):
                return {end for begin, end in spans[name] if begin == at}
            case Seq(items):
                reached = {at}
                for item in items:
                    reached = {end for begin in reached for end in ends(item, begin)}
                return reached
            case Alt(items):
                return {end for item in items for end in ends(item, at)}
            case Repeat(item, low, high):
                return repeated(item, low, high, at)

    def repeated(item: Expr, low: int, high: int | None, at: int) -> set[int]:
        found, reached = ({at} if low == 0 else set()), {at}
        for number in range(1, (len(text) + low + 1 if high is None else high) + 1):
            reached = {end for begin in reached for end in ends(item, begin)}
            found |= reached if number >= low else set()
        return found

    before = -1
    while before != (before := sum(map(len, spans.values()))):
        for name, expr in rules.items():
            spans[name] |= {(begin, end) for begin in range(len(text) + 1) for end in ends(expr, begin)}
    return (0, len(text)) in spans["root"]


def alike(grammar: str) -> list[str]:
    """Texts over a, b up to a length that the grammar's Lark takes and the recogniser does not, or the reverse."""
    rules = parse(grammar)
    lark = to_lark(rules)
    whole = Start(TOKENIZER, HEAD + "\n".join([f"start: {lark.name}", *lark.lines, ""]))
    wrong = []
    for text in ("".join(chars) for size in range(6) for chars in product("ab", repeat=size)):
        try:
            taken = EOS in allowed(Matcher(VOCABULARY, whole, output=list(text.encode())))
        except GrammarError:
            taken = False
        if taken != recognises(rules, text):
            wrong.append(text)
    return wrong


@cache
def expressions() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(['"a"', '"b"', '"ab"', '"ba"', '"aab"', "[ab]", "[a]", "x", "y", "root"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({' '.join(parts)})"),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' | '.join(parts)})"),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}"])).map("".join),
        ),
        max_leaves=5,
    )


@given(st.tuples(expressions(), expressions(), expressions()))
@settings(max_examples=60, deadline=None)
def test_lexemes_change_nothing(bodies: tuple[str, str, str]) -> None:
    grammar = 'root ::= {} | "b"\nx ::= {} | "a"\ny ::= {} | "ab"'.format(*bodies)
    try:
        assert alike(grammar) == [], grammar
    except GrammarError as error:
        assert "adds nothing" in error.reason, grammar


@pytest.mark.parametrize("case", SAMPLES)
def test_samples_are_taken_apart_rightly(case: str) -> None:
    assert alike(SAMPLES[case][0]) == []
