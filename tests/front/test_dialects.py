"""Raw text → content, thoughts, calls: what each text means, and that no cut of it changes that."""

from __future__ import annotations

from itertools import pairwise

import pytest

from radixmill.front.dialects import (
    GENERIC,
    THINKING,
    Called,
    Callee,
    Dialect,
    Passed,
    Piece,
    Rules,
    Said,
    Splitter,
    Thought,
    Thoughts,
    joined,
)
from radixmill.front.dialects.extent import MAX_DEPTH
from radixmill.front.dialects.families import Mistral, Qwen3

TOOLS = {"f": Callee(), "g": Callee(), "note": Callee("input"), "sql": Callee("text")}
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
NO_ARGUMENTS = '<tool_call>\n{"name": "f"}\n</tool_call>'


def split(text: str, cuts: list[int] | None = None, *, dialect=THINKING, tools=TOOLS, **rules) -> list[Piece]:
    """The pieces of a text pushed in parts cut at `cuts`, one behind the other of the same kind joined."""
    splitter = Splitter(dialect, tools, Rules(**rules))
    marks = sorted({0, *(cut % (len(text) + 1) for cut in cuts or ()), len(text)})
    pieces: list[Piece] = []
    for start, stop in pairwise(marks):
        pieces += splitter.push(text[start:stop])
    return joined([*pieces, *splitter.finish()])


def plain(pieces: list[Piece]) -> list[tuple]:
    """Without offsets: ("said", …), ("thought", …), ("call", name, input)."""
    out: list[tuple] = []
    for piece in pieces:
        match piece:
            case Said(text):
                out.append(("said", text))
            case Thought(text):
                out.append(("thought", text))
            case Called(index, name):
                assert index == sum(kind == "call" for kind, *_ in out)
                out.append(("call", name, ""))
            case Passed(_, text):
                out[-1] = (*out[-1][:2], out[-1][2] + text)
    return out


F = ("call", "f", '{"a": 1}')


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("", []),
        ("Hello", [("said", "Hello")]),
        ("<think>why</think>\n\nso", [("thought", "why"), ("said", "\n\nso")]),
        (" \n<think>why</think>so", [("thought", "why"), ("said", "so")]),
        ("<think>\n<think>why</think>", [("thought", "why")]),
        ("<think>\nwhy\n</think>", [("thought", "\nwhy\n")]),
        ("<think></think>so", [("said", "so")]),
        ("<think>never closed", [("thought", "never closed")]),
        ("<think>half a tag </thi", [("thought", "half a tag </thi")]),
        ("<think>a</think>b<think>c</think>", [("thought", "a"), ("said", "b<think>c</think>")]),
        ("<think>a</think><think>c</think>", [("thought", "a"), ("said", "<think>c</think>")]),
        ("so <think>text</think>", [("said", "so <think>text</think>")]),
        ("stray </think> closer", [("said", "stray </think> closer")]),
        ("<thin", [("said", "<thin")]),
        (f"<think>{CALL}</think>x", [("thought", CALL), ("said", "x")]),
        (f"<think>w</think>\n\n{CALL}", [("thought", "w"), F]),
        (CALL, [F]),
        (f"{CALL}\n{CALL}\n", [F, F]),
        (f"Sure.\n{CALL}", [("said", "Sure.\n"), F]),
        (f"{CALL}\n\nDone", [F, ("said", "\n\nDone")]),
        (f"\n {CALL}", [F]),
        ("  \n", [("said", "  \n")]),
        (NO_ARGUMENTS, [("call", "f", "{}")]),
        ('<tool_call>{"arguments": {"z" :[ 1]}, "name":"g"}</tool_call>', [("call", "g", '{"z" :[ 1]}')]),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', [("call", "f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {\n }}</tool_call>', [("call", "f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {"s": "</tool_call>}{"}}</tool_call>', [("call", "f", '{"s": "</tool_call>}{"}')]),
        ('<tool_call>{"name": "\\u0066", "arguments": {}}</tool_call>', [("call", "f", "{}")]),
        ('<tool_call>{"name": "note", "arguments": {"input": "a\\n\\"b\\""}}</tool_call>', [("call", "note", 'a\n"b"')]),
        ('<tool_call>{"name": "note", "arguments": {"input": ""}}</tool_call>', [("call", "note", "")]),
        ('<tool_call>\n{"name": "sql"}\nSELECT "1"\n</tool_call>', [("call", "sql", 'SELECT "1"')]),
        # The end of the text closes what is whole.
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}', [F]),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool', [F]),
    ],
)  # fmt: skip
def test_what_a_text_means(text, pieces):
    assert plain(split(text)) == pieces
    assert plain(split(text, list(range(len(text))))) == pieces


BROKEN = [
    "<tool_call>no JSON</tool_call>",
    '<tool_call>{"name": "f", "arguments": {"a": tru}}</tool_call>',
    '<tool_call>{"name": "unknown", "arguments": {"s": "<tool_call>"}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": "a string"}</tool_call>',
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
    '<tool_call>{"name": "f", "name": "g"}</tool_call>',
    '<tool_call>{"name": "f"} and more</tool_call>',
    '<tool_call>{"name": "f"}{"name": "g"}</tool_call>',
    '<tool_call>{"name": 1}</tool_call>',
    '<tool_call>["f"]</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"s": "\n"}}</tool_call>',
    '<tool_call>{"name": "note", "arguments": {"text": "a"}}</tool_call>',
    '<tool_call>{"name": "note"}</tool_call>',
    '<tool_call>{"name": "f", "arguments": ' + '{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1) + "}</tool_call>",
    "<tool_call></tool_call>",
    "<tool_call>}</tool_call>",
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_call_stays_as_it_was_written(broken):
    for text, pieces in (
        (broken, [("said", broken)]),
        (f"{broken}\n{CALL}", [("said", f"{broken}\n"), F]),
        (f"{CALL}{broken}", [F, ("said", broken)]),
        (f"<think>a</think>{broken}", [("thought", "a"), ("said", broken)]),
    ):
        assert plain(split(text)) == pieces
        assert plain(split(text, list(range(len(text))))) == pieces


def test_a_call_that_never_ends_is_text():
    for end in range(len("<tool_call>"), CALL.index("}}") + 2):
        assert plain(split(CALL[:end])) == [("said", CALL[:end])]


def test_a_broken_call_does_not_swallow_the_next():
    assert plain(split(f'<tool_call>{{"name": "f", {CALL}')) == [("said", '<tool_call>{"name": "f", '), F]


def test_without_tools_calls_are_text():
    assert plain(split(CALL, tools={})) == [("said", CALL)]


def test_without_thoughts_their_tags_are_text():
    text = f"<think>a</think>{CALL}"
    assert plain(split(text, dialect=GENERIC)) == [("said", "<think>a</think>"), F]


def test_a_block_that_the_prompt_opened():
    assert plain(split("why</think>so", opened=True)) == [("thought", "why"), ("said", "so")]
    assert plain(split("\n<think>\nwhy</think>so", opened=True)) == [("thought", "\nwhy"), ("said", "so")]
    assert plain(split("why", opened=True)) == [("thought", "why")]


def test_thoughts_may_stay_in_the_content():
    text = f" <think>{CALL}</think>\n{CALL}"
    assert plain(split(text, separate=False)) == [("said", f" <think>{CALL}</think>"), F]
    assert plain(split("a</think>b", separate=False, opened=True)) == [("said", "a</think>b")]


@pytest.mark.parametrize("separate", [True, False])
def test_what_is_a_call_does_not_depend_on_where_thoughts_go(separate):
    pieces = plain(split(f"<think>a{CALL}b</think>c", dialect=Qwen3(), separate=separate))
    assert pieces == [("thought", "a") if separate else ("said", "<think>a"), F, ("said", "b</think>c")]


def test_before_another_call_the_closing_tag_may_be_missing():
    open_call = CALL.removesuffix("</tool_call>")
    assert plain(split(open_call + CALL)) == [F, F]
    text = "<tool_call>x</tool_call>"
    assert plain(split(open_call + text)) == [F, ("said", open_call[len(open_call.rstrip()) :] + text)]
    assert plain(split(open_call + "x")) == [("said", open_call + "x")]


def test_half_a_character_ends_in_no_text():
    tools = {"note": Callee("input"), "g": Callee()}
    noted = '<tool_call>{"name": "note", "arguments": {"input": "a\\ud800b"}}</tool_call>'
    assert plain(split(noted, tools=tools)) == [("call", "note", "a\ufffdb")]
    escaped = '<tool_call>{"name": "g", "arguments": {"a": "\\ud800"}}</tool_call>'
    assert plain(split(escaped, tools=tools)) == [("call", "g", '{"a": "\\ud800"}')]
    named = '[TOOL_CALLS][{"name": "g", "arguments": {}, "id": "\\ud800"}]'
    assert plain(split(named, tools=tools, dialect=Mistral())) == [("said", named)]


def test_thoughts_may_come_in_one_piece():
    splitter = Splitter(THINKING, rules=Rules(whole_thoughts=True))
    pieces = [piece for char in "<think>why not</think>so" for piece in splitter.push(char)]
    assert pieces[0] == Thought("why not", 14) and [type(p) for p in pieces[1:]] == [Said, Said]
    splitter = Splitter(THINKING, rules=Rules(whole_thoughts=True, opened=True))
    assert splitter.push("why ") + splitter.push("not") == [] and splitter.finish() == [Thought("why not", 7)]


def test_guaranteed_arguments_come_while_they_are_written():
    splitter = Splitter(THINKING, TOOLS, Rules(guaranteed=True))
    pieces = [piece for char in CALL for piece in splitter.push(char)]
    assert pieces[0][:3] == (0, "f", False)
    assert [p.text for p in pieces[1:]] == ['{"', *'a": 1}']
    assert not splitter.inside_call and splitter.calls == 1 and splitter.finish() == []


def test_a_guaranteed_call_that_is_cut_off_keeps_what_it_said():
    splitter = Splitter(THINKING, TOOLS, Rules(guaranteed=True))
    assert plain(joined(splitter.push(CALL[: CALL.index("}}")]) + splitter.finish())) == [("call", "f", '{"a": 1')]
    assert splitter.inside_call


def test_where_thoughts_end():
    for text, end in (("<think>a</think>b", 16), ("b", 0), ("<think>a", 8), ("", 0), (CALL, 0)):
        splitter = Splitter(THINKING, TOOLS)
        splitter.push(text)
        splitter.finish()
        assert splitter.thought_spans() == ([(0, end)] if end else [])


BLANK = "\n \t"


@pytest.mark.parametrize("broken", [*BROKEN, "<tool_call>", "<tool_ca"])
def test_white_space_before_what_is_no_call_stays(broken):
    for text, pieces in (
        (f"{BLANK}{broken}", [("said", f"{BLANK}{broken}")]),
        (f"<think>w</think>{BLANK}{broken}", [("thought", "w"), ("said", f"{BLANK}{broken}")]),
        (f"{CALL}{BLANK}{broken}", [F, ("said", f"{BLANK}{broken}")]),
    ):
        assert plain(split(text)) == pieces
        assert plain(split(text, list(range(len(text))))) == pieces


def test_white_space_at_the_end_goes_with_calls_only():
    again = Dialect(think=Thoughts(interleaved=True))
    for text, pieces in (
        (f"{CALL} \n", [F]),
        (f"{CALL}x \n", [F, ("said", "x \n")]),
        (f"{CALL}<think> \n", [F, ("thought", " \n")]),
        (f"{CALL}<think>x</think> \n", [F, ("thought", "x"), ("said", " \n")]),
    ):
        assert plain(split(text, dialect=again)) == pieces
        assert plain(split(text, list(range(len(text))), dialect=again)) == pieces
