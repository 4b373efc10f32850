"""Calls as a name and JSON behind it, and as arrays: DeepSeek, Kimi, Mistral, Granite, Intern-S1."""

from __future__ import annotations

import pytest

from radixmill.front.dialects import Called, Callee, Dialect, Said
from radixmill.front.dialects.calls.mistral import MistralArray, MistralNamed
from radixmill.front.dialects.families import (
    DeepSeekR1,
    DeepSeekV31,
    Granite,
    InternS1,
    Kimi,
    KimiK2,
    Mistral,
    MistralCompact,
)
from tests.front.dialect_kit import Case, every_char, plain

TOOLS = {"f": Callee(), "g": Callee(), "functions.h": Callee(), "note": Callee("input"), "sql": Callee("text")}
F, G = ("call", "f", '{"a": 1}'), ("call", "g", "{}")


def read(dialect: Dialect, text: str, **rules) -> list[tuple[str, ...]]:
    """What a text means, however it is cut."""
    case = Case(dialect, text, TOOLS, rules)
    pieces = plain(case.read()[0])
    assert plain(case.read(every_char(text))[0]) == pieces
    for at in range(len(text)):
        assert plain(case.read([at])[0]) == pieces
    return pieces


def ids(dialect: Dialect, text: str) -> list[str]:
    return [piece.id for piece in Case(dialect, text, TOOLS).read()[0] if isinstance(piece, Called)]


def r1(*calls: str) -> str:
    inside = "\n".join(f"<｜tool▁call▁begin｜>{call}<｜tool▁call▁end｜>" for call in calls)
    return f"<｜tool▁calls▁begin｜>{inside}<｜tool▁calls▁end｜>"


def v31(*calls: str) -> str:
    inside = "".join(f"<｜tool▁call▁begin｜>{call}<｜tool▁call▁end｜>" for call in calls)
    return f"<｜tool▁calls▁begin｜>{inside}<｜tool▁calls▁end｜>"


def k2(*calls: str) -> str:
    inside = "".join(f"<|tool_call_begin|>{call}<|tool_call_end|>" for call in calls)
    return f"<|tool_calls_section_begin|>{inside}<|tool_calls_section_end|>"


ARG = "<|tool_call_argument_begin|>"
R1_F = 'function<｜tool▁sep｜>f\n```json\n{"a": 1}\n```'
K2_F = f'functions.f:0{ARG}{{"a": 1}}'
OBJECT_F, OBJECT_G = '{"name": "f", "arguments": {"a": 1}}', '{"name": "g", "arguments": {}}'
PLUGIN_F = '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}\n<|action_end|>'

MEANINGS = [
    (DeepSeekR1, r1(R1_F), [F]),
    (DeepSeekR1, r1(R1_F, "function<｜tool▁sep｜>g\n```json\n{}\n```"), [F, G]),
    (DeepSeekR1, "So.\n" + r1(R1_F) + "\nDone", [("said", "So.\n"), F, ("said", "\nDone")]),
    (DeepSeekR1, r1('function<｜tool▁sep｜> f ```json{"a": 1}```'), [F]),
    (DeepSeekR1, r1("function<｜tool▁sep｜>g\n```json\n\n```"), [G]),
    (DeepSeekR1, r1("function<｜tool▁sep｜>g\n```json\nnull\n```"), [G]),
    (DeepSeekR1, r1('function<｜tool▁sep｜>f\n```json\n{"a": "\\n```<｜tool▁call▁end｜>"}\n```'), [("call", "f", '{"a": "\\n```<｜tool▁call▁end｜>"}')]),
    (DeepSeekR1, r1("function<｜tool▁sep｜>sql\n```json\nSELECT 1\n```"), [("call", "sql", "SELECT 1")]),
    (DeepSeekR1, r1('function<｜tool▁sep｜>note\n```json\n{"input": "a\\nb"}\n```'), [("call", "note", "a\nb")]),
    (DeepSeekR1, f"<think>why</think>{r1(R1_F)}", [("thought", "why"), F]),
    (DeepSeekV31, v31('f<｜tool▁sep｜>{"a": 1}', "g<｜tool▁sep｜>{}"), [F, G]),
    (DeepSeekV31, v31("g<｜tool▁sep｜>", " f <｜tool▁sep｜> {\"a\": 1} "), [G, F]),
    (DeepSeekV31, v31('f<｜tool▁sep｜>{"a": 1}').removesuffix("<｜tool▁calls▁end｜>"), [F]),
    (DeepSeekV31, v31("sql<｜tool▁sep｜>SELECT {"), [("call", "sql", "SELECT {")]),
    (KimiK2, k2(K2_F, f"functions.g:1{ARG}{{}}"), [F, G]),
    (KimiK2, k2(f'f:0{ARG}{{"a": 1}}', f"g{ARG}"), [F, G]),
    (KimiK2, k2(f' functions.f:12 {ARG} {{"a": 1}} '), [F]),
    (KimiK2, k2(f"functions.h:0{ARG}{{}}"), [("call", "functions.h", "{}")]),
    (KimiK2, k2(f"functions.sql:3{ARG}SELECT 1"), [("call", "sql", "SELECT 1")]),
    (KimiK2, f"<think>why {k2(K2_F)}", [("thought", "why "), F]),
    (Kimi, '◁think▷why◁/think▷so<tool_call>{"name": "g"}</tool_call>', [("thought", "why"), ("said", "so"), G]),
    *((family, f"[TOOL_CALLS]{text}", calls) for family in (Mistral, MistralCompact) for text, calls in [
        (f"[{OBJECT_F}]", [F]),
        (f" [ {OBJECT_F} ,{OBJECT_G}\n] ", [F, G]),
        (f"[{OBJECT_F}", [F]),
        (f"[{OBJECT_F}] more", [F, ("said", " more")]),
        ('f[ARGS]{"a": 1}', [F]),
        ('f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', [F, G]),
        ('f[CALL_ID]0a1b2c3d4[ARGS]{"a": 1}\n[TOOL_CALLS] g [ARGS] {} ', [F, G]),
        ('f[ARGS]{"a": 1} more', [F, ("said", " more")]),
        ('f[ARGS]null', [("call", "f", "{}")]),
        ("sql[ARGS]\n<input>\nSELECT 1\n</input>", [("call", "sql", "SELECT 1")]),
    ]),
    (Mistral, f"[THINK]why[/THINK]So [TOOL_CALLS][{OBJECT_F}]", [("thought", "why"), ("said", "So "), F]),
    (Mistral, '[TOOL_CALLS][{"name": "sql"}\n<input>\nSELECT 1\n</input>, ' + f"{OBJECT_F}]", [("call", "sql", "SELECT 1"), F]),
    (Granite, f"<|tool_call|>[{OBJECT_F}, {OBJECT_G}]", [F, G]),
    (Granite, f"<tool_call> [{OBJECT_F}] </tool_call>", [F]),
    (Granite, "<think>why</think>\n<response>so</response>", [("thought", "why"), ("said", "so")]),
    (Granite, f"<think>why</think><response>so</response><|tool_call|>[{OBJECT_F}]", [("thought", "why"), ("said", "so"), F]),
    (InternS1, f"{PLUGIN_F}\n{PLUGIN_F}", [F, F]),
    (InternS1, PLUGIN_F.replace("><|plugin|>", "> <|plugin|>"), [F]),
    (InternS1, PLUGIN_F.replace("parameters", "arguments").replace("><|plugin|>", ">\n<|plugin|>"), [F]),
]  # fmt: skip


@pytest.mark.parametrize("family, text, pieces", MEANINGS)
def test_what_a_text_means(family, text, pieces):
    assert read(family(), text) == pieces


BROKEN = [
    (DeepSeekR1, r1('function<｜tool▁sep｜>f\n```json\n{"a": 1}')),
    (DeepSeekR1, r1('function<｜tool▁sep｜>f\n{"a": 1}')),
    (DeepSeekR1, r1('tool<｜tool▁sep｜>f\n```json\n{"a": 1}\n```')),
    (DeepSeekR1, r1('function<｜tool▁sep｜>unknown\n```json\n{"a": 1}\n```')),
    (DeepSeekR1, r1("function<｜tool▁sep｜>f\n```json\n[1]\n```")),
    (DeepSeekR1, "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"),
    (DeepSeekV31, v31('f<｜tool▁sep｜>{"a": tru}')),
    (DeepSeekV31, v31('f{"a": 1}')),
    (DeepSeekV31, v31('<｜tool▁sep｜>{"a": 1}')),
    (DeepSeekV31, v31('f<｜tool▁sep｜>{"a": 1}').replace("<｜tool▁call▁end｜>", "")),
    (DeepSeekV31, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>"),
    (KimiK2, k2(f"functions.unknown:0{ARG}{{}}")),
    (KimiK2, k2(f"functions.f:0{ARG}x")),
    (KimiK2, k2("functions.f:0")),
    (Mistral, "[TOOL_CALLS]"),
    (Mistral, "[TOOL_CALLS] a word"),
    (Mistral, "[TOOL_CALLS][]"),
    (Mistral, '[TOOL_CALLS][{"name": "unknown", "arguments": {}}]'),
    (MistralCompact, "[TOOL_CALLS]f[ARGS]"),
    (MistralCompact, '[TOOL_CALLS]f[ARGS]{"a": 1'),
    (MistralCompact, "[TOOL_CALLS]unknown[ARGS]{}"),
    (MistralCompact, '[TOOL_CALLS]f{"a": 1}'),
    (Granite, '<|tool_call|>{"name": "f", "arguments": {}}'),
    (Granite, '<|tool_call|>[{"arguments": {}}]'),
    (InternS1, PLUGIN_F.replace("<|plugin|>", "<|interpreter|>")),
    (InternS1, PLUGIN_F.replace('"f"', "f")),
]  # fmt: skip


@pytest.mark.parametrize("family, text", BROKEN)
@pytest.mark.parametrize("before", ["", " \n", "So "])
def test_what_is_no_call_stays_as_it_was_written(family, text, before):
    assert read(family(), before + text) == [("said", before + text)]


def test_what_is_wrong_behind_a_call_is_text_and_others_follow():
    wrong = f"functions.unknown:1{ARG}{{}}"
    said = ("said", f"<|tool_call_begin|>{wrong}<|tool_call_end|>")
    assert read(KimiK2(), k2(K2_F, wrong, K2_F)) == [F, said, F]
    array = f'[TOOL_CALLS][{OBJECT_F}, {{"name": "x"}}, {OBJECT_G}]'
    assert read(Mistral(), array) == [F, ("said", ', {"name": "x"}'), G]


def test_ids_are_those_that_the_model_wrote():
    assert ids(KimiK2(), k2(K2_F, f"g:7{ARG}{{}}", f"g{ARG}{{}}")) == ["functions.f:0", "g:7", ""]
    assert ids(Mistral(), '[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "0a1b2c3d4"}, {"id": "a", "name": "g"}]') == ["0a1b2c3d4", "a"]  # fmt: skip
    assert ids(Mistral(), f"[TOOL_CALLS][{OBJECT_F}]") == [""]
    assert ids(MistralCompact(), "[TOOL_CALLS]f[CALL_ID]0a1b2c3d4[ARGS]{}[TOOL_CALLS]g[ARGS]{}") == ["0a1b2c3d4", ""]


@pytest.mark.parametrize(
    "family, text",
    [
        (DeepSeekR1, r1(R1_F)),
        (DeepSeekV31, v31('f<｜tool▁sep｜>{"a": 1}')),
        (KimiK2, k2(K2_F)),
        (Mistral, f"[TOOL_CALLS][{OBJECT_F}]"),
        (MistralCompact, '[TOOL_CALLS]f[ARGS]{"a": 1}'),
        (Granite, f"<|tool_call|>[{OBJECT_F}]"),
        (InternS1, PLUGIN_F),
    ],
)
def test_guaranteed_arguments_come_while_they_are_written(family, text):
    splitter = Case(family(), "", TOOLS, {"guaranteed": True, "only_calls": True}).splitter()
    pieces = [piece for char in text for piece in splitter.push(char)]
    assert isinstance(pieces[0], Called) and [p.text for p in pieces[1:]] == ['{"', *'a": 1}']
    for end in range(len(text)):
        cut = Case(family(), text[:end], TOOLS, {"guaranteed": True, "only_calls": True})
        given = plain(cut.read()[0])
        assert given == plain(cut.read(every_char(text[:end]))[0])
        assert not given or (given[0][:2] == F[:2] and F[2].startswith(given[0][2]) and len(given) == 1)


def test_control_tokens_are_not_their_letters():
    text = v31('f<｜tool▁sep｜>{"a": 1}')
    exact = frozenset(DeepSeekV31().tags) - {"<think>", "</think>"}
    real = frozenset(i for tag in exact for i in range(len(text)) if text.startswith(tag, i))
    assert plain(Case(DeepSeekV31(), text, TOOLS, {}, exact, real).read()[0]) == [F]
    assert plain(Case(DeepSeekV31(), text, TOOLS, {}, exact).read()[0]) == [("said", text)]


def test_both_forms_of_mistral_see_the_same_tags():
    assert MistralArray().tags == {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"} == MistralNamed().tags - {""}


@pytest.mark.parametrize("dialect", [Mistral(), MistralCompact()])
def test_both_forms_of_mistral_read_one_text_alike(dialect):
    begun = '[TOOL_CALLS] [{"name": "g"} , {"name": "zz"}'
    assert read(dialect, f"{begun}]x") == [G, ("said", ' , {"name": "zz"}x')]
    assert read(dialect, f'{begun}, {{"name": "g"}}]x') == [G, ("said", ' , {"name": "zz"}'), G, ("said", "x")]


def test_numbers_go_through_an_answer():
    written = KimiK2().calls.all_written([("f", {"a": 1}), ("g", {})])
    assert written == k2(K2_F, f"functions.g:1{ARG}{{}}")
    pieces = Case(KimiK2(), written, TOOLS).read()[0]
    assert not any(isinstance(piece, Said) for piece in pieces)
