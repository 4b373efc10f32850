"""A sequence's place in its grammar: masks, forced tokens, ends, the text before the match, and the record."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import llguidance
import numpy as np
import pytest

from radixmill.core.request import Constraint
from radixmill.engine.grammar import GrammarError, Matcher, Vocabulary
from radixmill.engine.grammar import matcher as module
from radixmill.engine.grammar.compile import to_grammar
from radixmill.engine.grammar.matcher import Start, only_bit
from tests.engine.grammar_kit import (
    CONTROL,
    EOS,
    THINK,
    TOKENIZER,
    TOOL,
    UNTOOL,
    VOCABULARY,
    allowed,
    encode,
    matcher,
    refusal,
    start,
)

AB, ABC = 260, 261
CALL = {"format": {"type": "tag", "begin": "<|tool|>", "content": {"type": "any_text"}, "end": "</|tool|>"}}
GRAMMARS: list[tuple[str, Any]] = [
    ("json_schema", '{"properties": {"abc": {"enum": ["abab", "abcd"]}}, "required": ["abc"], "type": "object"}'),
    ("json_object", ""),
    ("regex", "(abc|ab|a){1,4}x?"),
    ("ebnf", 'root ::= "(" root ")" | "ab" root | "abc"'),
    ("structural_tag", CALL),
]


def walk(match: Matcher, chance: random.Random, steps: int = 30) -> Iterator[int]:
    """Push random tokens of the mask, and say which."""
    for _ in range(steps):
        if match.ended:
            return
        token = chance.choice(sorted(allowed(match)))
        match.push(token)
        yield token


@pytest.mark.parametrize("kind, text", GRAMMARS, ids=[kind for kind, _ in GRAMMARS])
@pytest.mark.parametrize("seed", range(6))
def test_forced_is_the_only_token_of_the_mask(kind: str, text: Any, seed: int) -> None:
    match, twin = matcher(kind, text), matcher(kind, text)
    chance, some = random.Random(seed), 0
    for _ in range(40):
        forced, mask = match.forced(), allowed(twin)  # the twin's mask is filled without asking first
        assert forced is None or mask == {forced}
        assert allowed(match) == mask
        some += forced is not None
        if twin.ended:
            break
        token = chance.choice(sorted(mask))
        match.push(token)
        twin.push(token)
    assert some or kind in ("json_object", "structural_tag", "regex")


def test_what_is_certain_is_forced() -> None:
    match = matcher("regex", "xyz")
    for token in b"xyz":
        assert match.forced() == token
        match.push(token)
    assert match.finished and match.forced() == EOS
    match.push(EOS)
    assert match.ended


def test_a_token_of_several_bytes_keeps_its_first_byte_from_being_forced() -> None:
    match = matcher("regex", "abx")
    assert allowed(match) == {ord("a"), AB}
    assert match.forced() is None


def test_asking_for_what_is_forced_does_not_get_slower_with_the_output() -> None:
    match = matcher("json_schema", {"type": "array", "items": {"type": "integer"}})
    row, spent = np.zeros(VOCABULARY.words, np.uint32), []
    match.push(ord("["))
    for i in range(6_000):
        match.push(ord("1,"[i % 2]))
        began = time.thread_time()
        assert match.forced() is None
        match.fill(row)
        spent.append(time.thread_time() - began)
    assert np.median(spent[-100:]) < 10 * np.median(spent[100:200]), "a copy of the parser: 40 times"


def test_forced_is_as_sure_behind_a_long_output() -> None:
    match = matcher("structural_tag", CALL)
    match.push(TOOL)
    for _ in range(1_000):
        match.push(ord("x"))
    assert match.forced() is None
    match.push(UNTOOL)
    assert match.forced() == EOS


@pytest.mark.parametrize("kind, text", GRAMMARS, ids=[kind for kind, _ in GRAMMARS])
def test_a_matcher_rebuilt_from_the_record_has_the_same_masks(kind: str, text: Any) -> None:
    match, output = matcher(kind, text), []
    chance = random.Random(5)
    for token in walk(match, chance):
        output.append(token)
        again = matcher(kind, text, output)
        assert again.ended == match.ended and allowed(again) == allowed(match)
        assert again.forced() == match.forced()


def test_ends_are_allowed_where_the_grammar_may_end_and_nowhere_else() -> None:
    stop = ord("b")
    match = matcher("regex", "a{2,3}", ends=frozenset({stop, EOS}))
    assert allowed(match) == {ord("a")}
    match.push(ord("a"))
    match.push(ord("a"))
    assert allowed(match) == {ord("a"), stop, EOS}
    match.push(stop)
    assert match.ended and match.finished
    assert allowed(match) == {stop, EOS}


def test_a_stop_token_is_no_text_of_the_grammar() -> None:
    match = matcher("regex", "[ab]x", ends=frozenset({ord("b")}))
    assert allowed(match) == {ord("a")}
    match = matcher("regex", "[b]x", ends=frozenset({ord("b")}))
    with pytest.raises(GrammarError, match="nothing but a stop token"):
        allowed(match)
    assert match.forced() is None


def test_a_stop_token_that_the_grammar_names_is_the_grammar_s() -> None:
    match = matcher("structural_tag", CALL, ends=frozenset({UNTOOL}))
    match.push(TOOL)
    assert UNTOOL in allowed(match) and EOS not in allowed(match)


def test_control_tokens_are_no_text_and_padding_is_nothing() -> None:
    assert allowed(matcher("regex", "(?s:.*)")) & set(CONTROL.values()) == {EOS}
    assert max(allowed(matcher("regex", "(?s:.*)"))) < len(VOCABULARY.tokens)


def test_what_the_grammar_does_not_take_is_an_error() -> None:
    match = matcher("regex", "ab")
    with pytest.raises(GrammarError, match="does not match"):
        match.push(ord("x"))


# --- after


def test_until_the_text_has_come_everything_but_an_end_is_allowed() -> None:
    match = matcher("regex", "yes", after="</think>", ends=frozenset({TOOL}))
    everything = set(range(VOCABULARY.size)) - {EOS, TOOL, VOCABULARY.tokens.index(b"</think>\n")}
    for token in encode("some </thin thought </think>"):
        assert allowed(match) == everything
        assert match.forced() is None and not match.finished
        match.push(token)
    assert allowed(match) == {ord("y")}
    assert match.forced() == ord("y")


def test_the_text_may_be_a_control_token_or_begin_in_one() -> None:
    match = matcher("regex", "yes", after="x<think>")
    match.push(THINK)
    assert match.forced() is None
    match.push(ord("x"))
    match.push(THINK)
    assert match.forced() == ord("y")


def test_a_control_token_in_the_text_is_found_by_its_id_alone() -> None:
    match = matcher("regex", "yes", after="</|tool|>")
    everything = set(range(VOCABULARY.size)) - {EOS}
    for token in [*b"</|tool|>", TOOL, *b"</|tool|", TOOL, ord(">")]:
        assert allowed(match) == everything, "no token strays: letters never complete it"
        match.push(token)
    match.push(UNTOOL)
    assert match.forced() == ord("y")


def test_other_control_tokens_are_not_in_the_text() -> None:
    match = matcher("regex", "yes", list(b"</thi"), after="</think>")
    match.push(THINK)
    for token in b"nk>":
        match.push(token)
    assert match.forced() == ord("y")


def test_what_was_said_last_may_be_forgotten() -> None:
    match = matcher("regex", "ab(c|d)", list(b"ab"))
    match.forget(1)
    assert match.forced() == ord("b") and allowed(match) == {ord("b")}
    match.push(ord("b"))
    assert allowed(match) == {ord("c"), ord("d")}


def test_what_the_completing_token_has_behind_the_text_goes_to_the_grammar_if_it_takes_it() -> None:
    token = VOCABULARY.tokens.index(b"</think>\n")
    match = matcher("regex", r"\nyes", [token], after="</think>")
    assert match.forced() == ord("y")
    match = matcher("regex", "yes", [token], after="</think>")
    assert match.forced() == ord("y")
    match = matcher("regex", "[^y]*yes", [*b"<", ABC], after="<a")
    assert allowed(match) == allowed(matcher("regex", "[^y]*yes", list(b"bc")))


def test_a_token_that_goes_on_behind_the_text_with_what_the_grammar_does_not_take_is_not_allowed() -> None:
    token = VOCABULARY.tokens.index(b"</think>\n")
    assert token not in allowed(matcher("regex", "yes", after="</think>"))
    assert token in allowed(matcher("regex", r"\nyes", after="</think>"))
    assert token in allowed(matcher("regex", "yes", after="</think>!")), "it doesn't complete it"
    for text, free in [("yes", False), ("bc", True), ("bx", False), ("[^y]*yes", True)]:
        match = matcher("regex", text, after="<a")
        assert {AB, ABC} <= allowed(match), "nothing of it has come"
        match.push(ord("<"))
        assert (ABC in allowed(match)) == free and ord("a") in allowed(match)
        match.push(ord("<"))
        match.push(ord("x"))
        assert {AB, ABC} <= allowed(match)
    match = matcher("regex", "yes", list(b"xaa"), after="aab")
    assert AB in allowed(match) and ABC not in allowed(match)


def test_the_text_may_overlap_itself() -> None:
    match = matcher("regex", "yes", after="aab")
    for token in b"aaab":
        assert match.forced() is None
        match.push(token)
    assert match.forced() == ord("y")


# --- limits, vocabularies


@pytest.mark.parametrize(("limit", "value"), [("step_max_items", 100), ("max_items_in_row", 6)])
def test_a_mask_beyond_its_limits_is_an_error_of_its_sequence_alone(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    tight = llguidance.LLParserLimits(verbose_errors=False, **{limit: value})
    monkeypatch.setattr(module, "LIMITS", tight)
    monkeypatch.setattr(module, "SCHEMA_LIMITS", tight)
    grammar = 'root ::= "b" root | a | "q"\na ::= [a-z] a | "x" b\nb ::= [a-z] b | "y"'
    many = Start(TOKENIZER, start("ebnf", grammar)._text)
    other, match = Matcher(VOCABULARY, many), Matcher(VOCABULARY, many)
    with pytest.raises(GrammarError, match=r"too many ways|[iI]tems"):
        for token in b"abx" * 40:
            assert token in allowed(match)
            match.push(token)
    assert match.forced() is None
    other.push(ord("q"))
    assert EOS in allowed(other)


@pytest.mark.parametrize("grammar", ['root ::= x x\nx ::= "a" | x x', "root ::= x x\nx ::= [a-z] | x x | x x x"])
@pytest.mark.parametrize("tagged", [False, True])
def test_an_ambiguous_grammar_ends_before_it_gets_slow(grammar: str, tagged: bool) -> None:
    """With the limits as they are, and tokens of up to 32 of its letters."""
    tokens = VOCABULARY.tokens + tuple(b"a" * n for n in range(2, 33))
    vocabulary = Vocabulary(tokens=tokens, control=VOCABULARY.control, eos_ids=(EOS,), size=len(tokens))
    text = grammar
    if tagged:  # beside a schema, whose limits are wider
        schema = {"type": "json_schema", "json_schema": {"type": "boolean"}}
        parts = [{"type": "const_string", "value": "a"}, {"type": "grammar", "grammar": grammar}]
        text = json.dumps({"format": {"type": "or", "elements": [schema, {"type": "sequence", "elements": parts}]}})
    kind: Any = "structural_tag" if tagged else "ebnf"
    begun = Start(vocabulary.tokenizer(), to_grammar(Constraint(kind=kind, text=text), vocabulary))
    match, row, spent = Matcher(vocabulary, begun), np.zeros(vocabulary.words, np.uint32), [0.0]
    with pytest.raises(GrammarError, match=r"too many ways|[iI]tems"):
        for _ in range(300):
            began = time.thread_time()
            match.fill(row)
            match.push(ord("a"))
            spent.append(time.thread_time() - began)
    assert float(np.median(sorted(spent)[-5:])) < 0.04


def test_a_full_lexer_is_replaced_and_the_place_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies share the lexer: what some have made it learn must not end the others."""
    tight = llguidance.LLParserLimits(max_lexer_states=600, verbose_errors=False)
    monkeypatch.setattr(module, "LIMITS", tight)
    monkeypatch.setattr(module, "SCHEMA_LIMITS", tight)
    shared = Start(TOKENIZER, start("regex", "(a|b)*a(a|b){9}")._text)
    first = shared.matcher
    for seed in range(12):
        chance = random.Random(seed)
        match, output = Matcher(VOCABULARY, shared), []
        for _ in range(60):
            token = chance.choice([ord("a"), ord("b")])
            assert token in allowed(match)
            match.push(token)
            output.append(token)
        assert (EOS in allowed(match)) == (output[-10] == ord("a"))
    assert shared.matcher is not first


@pytest.mark.parametrize("size", [259, 288, 300, 321])
def test_masks_of_any_width(size: int) -> None:
    vocabulary = Vocabulary(tokens=VOCABULARY.tokens, control=VOCABULARY.control, eos_ids=(EOS,), size=size)
    whole = Start(vocabulary.tokenizer(), start("regex", "a?")._text)
    row = np.full(vocabulary.words, 0xFFFFFFFF, np.uint32)
    Matcher(vocabulary, whole).fill(row)
    assert np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist() == [ord("a"), EOS]
    waiting = Matcher(vocabulary, whole, after="x")
    waiting.fill(row)
    assert np.unpackbits(row.view(np.uint8)).sum() == size - 1


def test_a_model_without_an_end_token_ends_by_the_request_s() -> None:
    vocabulary = Vocabulary(tokens=VOCABULARY.tokens, control=VOCABULARY.control, eos_ids=(), size=300)
    whole = Start(vocabulary.tokenizer(), start("regex", "a")._text)
    match = Matcher(vocabulary, whole, ends=frozenset({TOOL}), output=[ord("a")])
    assert match.finished and match.forced() == TOOL


def test_equal_tokens_are_all_allowed() -> None:
    vocabulary = Vocabulary(tokens=(*VOCABULARY.tokens, b"a"), control=VOCABULARY.control, eos_ids=(EOS,), size=300)
    match = Matcher(vocabulary, Start(vocabulary.tokenizer(), start("regex", "a")._text))
    assert allowed(match) == {ord("a"), len(VOCABULARY.tokens)}
    assert match.forced() is None


@pytest.mark.parametrize(
    ("bits", "only"), [([], None), ([0], 0), ([31], 31), ([32], 32), ([70], 70), ([3, 4], None), ([3, 68], None)]
)
def test_only_bit(bits: list[int], only: int | None) -> None:
    row = np.zeros(3, np.uint32)
    for bit in bits:
        row[bit // 32] |= np.uint32(1 << bit % 32)
    assert only_bit(row) == only


def test_of_several_end_tokens_the_first_is_certain_once_nothing_else_may_follow() -> None:
    """A sequence under a grammar needs no forward pass to end, however many end tokens its model has."""
    vocabulary = Vocabulary(
        tokens=VOCABULARY.tokens, control=VOCABULARY.control, eos_ids=(TOOL, EOS), size=VOCABULARY.size
    )
    whole = Start(vocabulary.tokenizer(), start("regex", "ab?")._text)
    match = Matcher(vocabulary, whole, ends=frozenset({ord("z")}))
    match.push(ord("a"))
    assert allowed(match) == {ord("b"), EOS, TOOL, ord("z")} and match.forced() is None
    match.push(ord("b"))
    assert allowed(match) == {min(EOS, TOOL)} and match.forced() == min(EOS, TOOL)
    match.push(max(EOS, TOOL))
    assert match.ended


def test_reasons_are_short_and_ours() -> None:
    patterns = [{"pattern": f"(a|b)*a(a|b){{{n}}}"} for n in range(8, 14)]
    error = refusal("json_schema", {"type": "string", "allOf": patterns})
    assert error is not None and error.reason == "the patterns together are too complex"
    assert len(module.told("something new: " + "(And " * 1_000)[0]) == 200
