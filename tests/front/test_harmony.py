"""gpt-oss: what its messages mean, its template's words read back, its grammars in the engine's hands, whole answers.

Raw texts are written from OpenAI's description of the format, from memory, and as the vendor's template renders them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint
from radixmill.front.dialects import Callee, Said, joined
from radixmill.front.dialects.families import GptOss, Hermes
from radixmill.front.dialects.history import fitted
from radixmill.front.session import (
    Arguments,
    Ask,
    Call,
    ChatPrompt,
    Content,
    ModelText,
    Reasoning,
    Sampling,
    Session,
    TextPrompt,
    Tool,
    ToolRule,
    Usage,
    Whole,
    gather,
    template_tools,
)
from radixmill.front.session.detect import Detected
from radixmill.front.session.speech import Speech
from radixmill.front.text import ChatTemplate, TextStack, Tokenizer
from radixmill.front.text.gguf import gguf_vocabulary
from tests.data import shared
from tests.engine.grammar_kit import HARMONY, encode, matcher, takes
from tests.fakes import SPEC, ByteText, EchoClient
from tests.front.dialect_kit import Case, every_char, fault, plain
from tests.front.kit import CHAT, answer, chunks, make_app
from tests.front.text_kit import CONTROL, byte_level

MARKS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
ANALYSIS, FINAL, COMMENTARY = (f"<|channel|>{name}<|message|>" for name in ("analysis", "final", "commentary"))
END, TURN = "<|end|>", "<|start|>assistant"
THOUGHT = f"{ANALYSIS}why{END}{TURN}"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}'
CALL_G = "<|channel|>commentary to=functions.g <|constrain|>json<|message|>{}"
QUERY = '<|channel|>commentary to=functions.sql code<|message|>SELECT "x"'
TOOLS = {
    "f": Callee(),
    "g": Callee(),
    "note": Callee("input"),
    "sql": Callee("text"),
    "python": Callee("text"),
    "browser.search": Callee(),
}
WHY, SO = ("thought", "why"), ("said", "so")
F, G = ("call", "f", '{"a": 1}'), ("call", "g", "{}")


def case(*parts: str, tools: Any = TOOLS, **rules: Any) -> Case:
    """Control tokens' literals are such tokens in the first part, the third and so on, letters in the others."""
    marks, at = set(), 0
    for i, part in enumerate(parts):
        marks |= {at + place for place in range(len(part)) if i % 2 == 0 and part.startswith(MARKS, place)}
        at += len(part)
    return Case(GptOss(), "".join(parts), tools, rules, frozenset(MARKS), frozenset(marks))


def meaning(made: Case) -> list[tuple[str, ...]]:
    """What a text means, which no cut changes, nor loses any of it."""
    cuts = [every_char(made.text), *([at] for at in range(1, len(made.text)))]
    assert not (wrong := fault(made, cuts)), wrong
    return plain(joined(made.read()[0]))


# --- raw texts


@pytest.mark.parametrize(
    "text, parts",
    [
        ("", []),
        (f"{FINAL}so", [SO]),
        (f"{FINAL}so<|return|>", [SO]),
        (f"{THOUGHT}{FINAL}so", [WHY, SO]),
        (f"{THOUGHT}{FINAL}\n so\n", [WHY, ("said", "\n so\n")]),
        (f"{ANALYSIS}why", [WHY]),
        (f"{ANALYSIS}why{END}", [WHY]),
        (f"{ANALYSIS}{END}{TURN}{FINAL}so", [SO]),
        (f"{ANALYSIS}{ANALYSIS}why{END}", [WHY]),
        (f"{ANALYSIS}<think>why{END}", [("thought", "<think>why")]),
        # Several messages of a channel join, in order.
        (f"{ANALYSIS}w{END}{TURN}{ANALYSIS}hy{END}{TURN}{FINAL}so", [WHY, SO]),
        (f"{COMMENTARY}s{END}{TURN}{FINAL}o", [SO]),
        (f"{THOUGHT}{COMMENTARY}so{END}{TURN}{ANALYSIS}why{END}{TURN}{CALL}<|call|>", [WHY, SO, WHY, F]),
        # Types of content.
        (f"{THOUGHT}<|channel|>final <|constrain|>json<|message|>so", [WHY, SO]),
        (f"{THOUGHT}<|channel|>commentary json<|message|>so", [WHY, SO]),
        # Calls: with their end or without, the recipient before the channel or behind it, every type.
        (CALL, [F]),
        (f"{CALL}<|call|>", [F]),
        (f"{CALL}<|end|>", [F]),
        (f"{CALL} \n<|call|>", [F]),
        (f"{THOUGHT}{COMMENTARY}so{END}{TURN}{CALL}<|call|>", [WHY, SO, F]),
        (f"{CALL}<|call|>{TURN}{CALL_G}<|call|>", [F, G]),
        (f"{CALL}<|call|>{TURN}{THOUGHT}{CALL_G}<|call|>{TURN}{FINAL}so", [F, WHY, G, SO]),
        (CALL.replace(" <|constrain|>json", ""), [F]),
        (CALL.replace(" <|constrain|>json", " json"), [F]),
        (CALL.replace(" <|constrain|>json", "<|constrain|>json"), [F]),
        (CALL.replace(" <|constrain|>json", " <|constrain|>application/json "), [F]),
        (CALL.replace("commentary", "analysis"), [F]),
        (f"{THOUGHT}<|channel|>final to=functions.f code<|message|>{{}}<|call|>", [WHY, ("call", "f", "{}")]),
        ('to=functions.f<|channel|>commentary json<|message|>{"a": 1}<|call|>', [F]),
        (f'{THOUGHT} to=functions.f<|channel|>commentary <|constrain|>json<|message|>{{"a": 1}}', [WHY, F]),
        ("<|channel|>commentary to=functions.g<|message|><|call|>", [G]),
        ("<|channel|>commentary to=functions.g<|message|>{ }<|call|>", [G]),
        ('<|channel|>commentary to=functions.note json<|message|>{"input": "a\\nb"}<|call|>', [("call", "note", "a\nb")]),
        (QUERY, [("call", "sql", 'SELECT "x"')]),
        (f"{QUERY}\n<|call|>{TURN}{FINAL}so", [("call", "sql", 'SELECT "x"\n'), SO]),
        ('<|channel|>commentary to=functions.f json<|message|>{"a": "<|call|"}', [("call", "f", '{"a": "<|call|"}')]),
        # Tools that are built in are tools only where they are known.
        ("<|channel|>analysis to=python code<|message|>print(1)<|call|>", [("call", "python", "print(1)")]),
        ('<|channel|>analysis to=browser.search code<|message|>{"q": 1}', [("call", "browser.search", '{"q": 1}')]),
        # What has no end is ended by what follows.
        (f"{ANALYSIS}why{TURN}{FINAL}so", [WHY, SO]),
        (f"{ANALYSIS}why{CALL}", [WHY, F]),
        (f"{FINAL}so{CALL}", [SO, F]),
        (f"{FINAL}so{ANALYSIS}why", [SO, WHY]),
        (f"{FINAL}so{TURN}{CALL}", [SO, F]),
        (f"{THOUGHT}{TURN}\n{FINAL}so", [WHY, SO]),
    ],
)  # fmt: skip
def test_what_a_text_means(text, parts):
    assert meaning(case(text)) == parts


NO_HEADERS = [
    "so",
    " so",
    "<|channel|>fin",
    "<|channel|>",
    "<|channel|>final so",
    "<|channel|>critic<|message|>so",
    "<|channel|>commentary to=<|message|>{}<|call|>",
    "<|channel|>commentary to=user<|message|>so",
    "<|channel|>commentary to=functions.unknown <|constrain|>json<|message|>{}<|call|>",
    "<|channel|>commentary to=browser.open code<|message|>{}<|call|>",
    "<|channel|>commentary to=functions.f and more words<|message|>{}<|call|>",
    "<|channel|>commentary to=functions.f <|constrain|>json{}<|call|>",
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>[1]<|call|>",
    '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1} and more<|call|>',
    '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": ',
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.note <|constrain|>json<|message|>{}<|call|>",
    "to=functions.f is how calls begin",
    " to=functions.f",
]


@pytest.mark.parametrize("text", NO_HEADERS)
def test_what_can_not_be_read_stays_as_it_is(text):
    assert meaning(case(text)) == [("said", text)]
    assert meaning(case(THOUGHT + text)) == [WHY, ("said", text)]
    assert meaning(case(f"{THOUGHT}{COMMENTARY}so{END}{TURN}{text}{TURN}{FINAL}so")) == [WHY, ("said", f"so{text}so")]


def test_without_tools_calls_are_text():
    text = f"{THOUGHT}{CALL}<|call|>"
    assert meaning(case(text, tools={})) == [WHY, ("said", f"{CALL}<|call|>")]


@pytest.mark.parametrize("text", [f"{ANALYSIS}why{END}{TURN}{FINAL}so", f"{CALL}<|call|>", f"{FINAL}so"])
def test_letters_are_no_control_tokens(text):
    assert meaning(case("", text)) == [("said", text)]
    assert meaning(case(ANALYSIS, text, f"{END}{TURN}{FINAL}", text, END)) == [("thought", text), ("said", text)]


def test_a_header_is_one_only_if_all_its_tokens_are():
    for at in range(1, len(ANALYSIS)):
        assert meaning(case(ANALYSIS[:at], f"{ANALYSIS[at:]}why{END}")) == [("said", f"{ANALYSIS}why{END}")]
    assert meaning(case(ANALYSIS, f"why{END}")) == [("thought", f"why{END}")]


def test_thoughts_that_are_content_keep_the_whole_text():
    text = f"{THOUGHT}{COMMENTARY}a{END}{TURN}{FINAL}so<|return|>"
    assert meaning(case(text, separate=False)) == [("said", text)]
    assert meaning(case(THOUGHT + CALL, separate=False)) == [("said", THOUGHT), F]


def test_where_thoughts_stand():
    text = f"{THOUGHT}{COMMENTARY}so{END}{TURN}{THOUGHT}{CALL}"
    _, splitter = case(text).read()
    one = len(f"{ANALYSIS}why{END}")
    second = text.rindex(ANALYSIS)
    assert splitter.thought_spans() == [(0, one), (second, second + one)]


def test_one_call_ends_the_answer():
    _, splitter = case(f"{CALL}<|call|>{TURN}{CALL_G}", one_call=True).read()
    assert splitter.over and splitter.calls == 1


# --- the vendor's template


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    return ChatTemplate(shared("templates", "openai-gpt-oss-120b.jinja").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(template) -> ModelText:
    return ModelText(TextStack(Tokenizer(gguf_vocabulary(byte_level(control=(*CONTROL, *MARKS)))), template))


RULE = ToolRule(
    tools=(Tool(name="f", parameters={"type": "object", "properties": {"a": {"type": "integer"}}}), Tool(name="g"))
)
USER = {"role": "user", "content": "do it"}


def called(*names: str, **more: Any) -> dict[str, Any]:
    """A message with calls."""
    arguments = {"f": '{"a": 1}', "g": "{}"}
    calls = [
        {"id": f"c-{name}", "type": "function", "function": {"name": name, "arguments": arguments[name]}}
        for name in names
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls, **more}


def result(name: str, text: str = "") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"c-{name}", "content": text or f"of {name}"}


def prompt(model: ModelText, *messages: dict[str, Any], **more: Any) -> str:
    fields = {"tools": template_tools(RULE), **more}
    chat = ChatPrompt(messages=messages, **fields)
    return model.decode(model.encode_chat(chat), skip_special=False)


def turns(text: str) -> str:
    """What stands behind the first message of the user."""
    return text.split("<|start|>user<|message|>do it<|end|>")[1].removesuffix(TURN)


def test_it_is_known_by_its_template(model):
    found = model.detected
    assert isinstance(model.dialect, GptOss) and (found.reasoning_parser, found.tool_call_parser) == (
        "gpt-oss",
        "gpt-oss",
    )
    assert [found.basis(subject) for subject in ("thoughts", "calls")] == ["template", "template"]


def test_the_template_writes_what_is_read(model):
    """A conversation of two steps: each step's prompt, then the model's words as history has them."""
    first = called("f", reasoning_content="why")
    second = called("g", reasoning_content="why", content="so")
    history = [USER, first, result("f"), second]
    for size, parts in ((1, [WHY, F]), (3, [("thought", "why\n\nso"), G])):
        asked, told = prompt(model, *history[:size]), prompt(model, *history[: size + 1], add_generation_prompt=False)
        assert asked.endswith(TURN) and told.startswith(asked)
        assert meaning(case(told.removeprefix(asked))) == parts


def test_each_call_is_followed_by_its_result(model):
    text = turns(prompt(model, USER, called("f", "g", reasoning_content="why"), result("g"), result("f")))
    call = "{0} to=functions.{1}<|channel|>commentary json<|message|>{2}<|call|>"
    told = '<|start|>functions.{0} to=assistant<|channel|>commentary<|message|>"of {0}"<|end|>'
    f, g = call.format(TURN, "f", '{"a": 1}'), call.format(TURN, "g", "{}")
    assert text == f"{TURN}{ANALYSIS}why{END}{f}{told.format('f')}{g}{told.format('g')}"


def test_what_the_model_thinks_and_says_before_a_call_is_told(model):
    """As a client of responses sends it back: an aside of its own, then the thoughts and the call."""
    aside = {"role": "assistant", "content": "so", "reasoning_content": "why"}
    text = turns(prompt(model, USER, aside, called("f", reasoning_content="again"), result("f")))
    assert text.startswith(f"{TURN}{ANALYSIS}why\n\nso\n\nagain{END}{TURN} to=functions.f")


def test_final_words_drop_earlier_thoughts(model):
    """The vendor's own rule."""
    final = {"role": "assistant", "content": "so", "reasoning_content": "why"}
    text = turns(prompt(model, USER, called("f", reasoning_content="why"), result("f"), final, USER))
    assert "why" not in text and f"{TURN}{FINAL}so{END}" in text


def test_system_messages_are_one(model):
    system = (
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    )
    assert "# Instructions\n\nBe brief.\n\nBe kind.\n\n" in prompt(model, *system, USER)
    with pytest.raises(ValueError, match="system messages must stand before"):
        prompt(model, USER, system[0])


CONVERSATIONS = [
    [USER],
    [USER, called("f"), USER],
    [USER, called("f", "g"), result("f"), USER],
    [USER, called("f"), {"role": "assistant", "content": "so"}, result("f")],
    [USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, USER],
    [
        USER,
        called("f"),
        called("g"),
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "3"},
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_the_template_takes_any_order(model, messages):
    made = fitted(GptOss(), messages)
    assert prompt(model, *messages).endswith(TURN)
    for role in ("user", "tool"):
        assert [m for m in made if m["role"] == role] == [m for m in messages if m["role"] == role]
    calls = [call for m in messages for call in m.get("tool_calls", ())]
    assert [call for m in made for call in m.get("tool_calls", ())] == calls
    assert all(len(m.get("tool_calls", (1,))) == 1 for m in made)


def test_other_families_keep_their_messages():
    messages = [USER, called("f", "g", content="so", reasoning_content="why"), result("g"), result("f"), USER]
    assert fitted(Hermes(), messages) == messages


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_efforts_stand_in_the_system_message(model, effort):
    assert f"Reasoning: {effort}\n" in prompt(model, USER, template_kwargs={"reasoning_effort": effort})


@pytest.mark.parametrize("effort", ["none", "minimal", "max", 0.5])
def test_other_efforts_are_refused(model, effort):
    with pytest.raises(BadRequest, match="must be low, medium or high") as refused:
        prompt(model, USER, template_kwargs={"reasoning_effort": effort})
    assert refused.value.param == "reasoning_effort"


def test_thoughts_cannot_be_turned_off(model):
    with pytest.raises(BadRequest, match="always thinks") as refused:
        prompt(model, USER, thinks=False)
    assert refused.value.param == "reasoning"
    assert prompt(model, USER, thinks=True) == prompt(model, USER)


def test_efforts_are_each_family_s_own(model):
    other = ModelText(model.stack, Detected(Hermes(), "none", "hermes"))
    assert "Reasoning: none" in prompt(other, USER, template_kwargs={"reasoning_effort": "none"})
    assert "Reasoning: medium" in prompt(model, USER)


# --- grammars

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TF, TG = Tool(name="f", parameters=SCHEMA), Tool(name="g")
STRICT = Tool(name="f", parameters=SCHEMA, strict=True)
NOTE = Tool(name="note", custom=True)
SQL = Tool(name="sql", custom=True, format=Constraint(kind="regex", text='SELECT "[a-z]+"'))
JSON = Constraint(kind="json_schema", text=json.dumps(SCHEMA))
WRITTEN = '<|channel|>commentary to=functions.note <|constrain|>json<|message|>{"input": "a\\n"}'
MORE = f"{CALL}<|call|>{TURN}{CALL_G}"
ASIDE = f"{COMMENTARY}so{END}{TURN}"
STRAY = CALL.replace("1", '"1"')


def speech(thinking: Any = "may", *, going_on: bool = False, **fields: Any) -> Speech:
    chat = ChatPrompt(messages=(USER,), continue_final_message=going_on)
    return Speech(Ask(id="q", model="m", prompts=(chat,), **fields), GptOss(), thinking)


def required(*tools: Tool, **rule: Any) -> ToolRule:
    return ToolRule(tools=tools, choice="required", **rule)


GRAMMARS = [
    (required(TF, TG), None, [CALL, CALL_G], ["", "so", f"{FINAL}so", ASIDE + CALL, STRAY, MORE, CALL[:-1]]),
    (required(TF, TG, parallel=False), None, [CALL, CALL_G], [MORE, f"{FINAL}so"]),
    (required(TF, TG, allowed=("g",)), None, [CALL_G], [CALL]),
    (required(NOTE, SQL), None, [WRITTEN, QUERY], [QUERY.replace("x", "1"), f"{QUERY}\n", WRITTEN.replace("input", "text")]),
    (ToolRule(tools=(STRICT, TG)), None, [CALL, CALL_G, f"{FINAL}so", FINAL, ASIDE + CALL, f"{ASIDE}{THOUGHT}{ASIDE}{CALL}"], ["", "so", STRAY, ASIDE]),
    (ToolRule(tools=(TF, SQL)), None, [QUERY, CALL, ASIDE + QUERY], [QUERY.replace("SELECT", "DROP")]),
    (ToolRule(tools=(TF, TG)), JSON, [CALL, f'{FINAL}{{"a": 1}}'], [f"{FINAL}so", f'{FINAL}{{"a": "1"}}', '{"a": 1}']),
    (None, JSON, [f'{FINAL}{{"a": 1}}'], ['{"a": 1}', CALL, f"{FINAL}{{}}", f'{COMMENTARY}{{"a": 1}}']),
]  # fmt: skip


@pytest.mark.parametrize("rule, constraint, good, bad", GRAMMARS)
@pytest.mark.parametrize("thoughts", ["", THOUGHT, THOUGHT + THOUGHT])
def test_what_the_grammar_takes(rule, constraint, good, bad, thoughts):
    made = speech(tools=rule, constraint=constraint)
    for text in good:
        assert takes("structural_tag", made.constraint.text, thoughts + text, HARMONY), text
        assert reads_back(made, thoughts + text), text
    for text in bad:
        assert not takes("structural_tag", made.constraint.text, thoughts + text, HARMONY), text


def reads_back(made: Speech, text: str) -> bool:
    """Whether all that the grammar took is thought, content without tags, or a whole call."""
    splitter = made.splitter(MARKS)
    for at in range(len(text)):
        if text.startswith(MARKS, at):
            splitter.mark(at)
    pieces = splitter.push(text) + splitter.finish()
    said = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    return "<|" not in said and splitter.calls == text.count("to=functions.") and not splitter.inside_call


def test_free_calls_need_no_grammar():
    assert speech(tools=ToolRule(tools=(TF, TG))).constraint is None


def test_behind_a_call_the_answer_ends():
    """The end is certain: it is taken without asking the model."""
    made = speech(tools=required(TF))
    assert (
        matcher("structural_tag", made.constraint.text, encode(CALL, HARMONY), HARMONY).forced() == HARMONY.eos_ids[0]
    )
    free = speech(tools=ToolRule(tools=(STRICT,)))
    assert matcher("structural_tag", free.constraint.text, encode(f"{FINAL}so", HARMONY), HARMONY).forced() is None


def test_a_prompt_within_thoughts():
    made = speech("opened", tools=required(TF))
    assert made.constraint.after == END
    for text, good in ((f"y{END}{TURN}{CALL}", True), (f"y{END}{CALL}", False)):
        assert takes("structural_tag", made.constraint.text, text, HARMONY, after=END) == good


@pytest.mark.parametrize(
    "fields, good, bad",
    [
        ({"constraint": JSON}, ['{"a": 1}'], [f'{FINAL}{{"a": 1}}']),
        ({"tools": required(TF)}, [f"{END}{TURN}{CALL}"], [CALL, f"o{END}{TURN}{CALL}"]),
        ({"tools": ToolRule(tools=(STRICT,))}, ["o", "", f"o{END}{TURN}{CALL}"], [CALL, f"o{END}{TURN}{STRAY}"]),
        ({"tools": ToolRule(tools=(TF,)), "constraint": JSON}, ['{"a": 1}', f"{END}{TURN}{CALL}"], ["o"]),
    ],
)
def test_a_prompt_within_the_answer(fields, good, bad):
    made = speech("not", going_on=True, **fields)
    for text in good + bad:
        assert takes(made.constraint.kind, made.constraint.text, text, HARMONY) == (text in good), text
        assert text in bad or reads_back(made, text), text


def test_a_raw_prompt_is_bound_as_it_is():
    raw = Ask(id="q", model="m", prompts=(TextPrompt("do"),), constraint=JSON)
    assert Speech(raw, GptOss(), "not").constraint == JSON
    opened = Speech(raw, GptOss(), "opened").constraint
    assert takes("structural_tag", opened.text, f'y{END}{TURN}{FINAL}{{"a": 1}}', HARMONY, after=END)


# --- whole answers

ENDS = (SPEC.vocab_size + MARKS.index("<|return|>"), SPEC.vocab_size + MARKS.index("<|call|>"))
HARMONY_SPEC = msgspec.structs.replace(SPEC, vocab_size=SPEC.vocab_size + len(MARKS), eos_ids=ENDS)
ANSWERS = {
    "final": (f"{THOUGHT}{FINAL}so<|return|>", "why", "so", []),
    "call": (f"{THOUGHT}{COMMENTARY}so{END}{TURN}{CALL}<|call|>", "why", "so", [("f", '{"a": 1}')]),
    "again": (
        f"{THOUGHT}{THOUGHT} to=functions.g<|channel|>commentary json<|message|>{{}}<|call|>",
        "whywhy",
        "",
        [("g", "{}")],
    ),
    "unknown": (f"{THOUGHT}{CALL.replace('.f', '.x')}<|call|>", "why", CALL.replace(".f", ".x"), []),
    "typed": ("so", None, "so", []),
}


def client_of(text: str, cuts: tuple[int, ...] = (1,)) -> tuple[ByteText, EchoClient]:
    spelling = ByteText(GptOss(), TURN, MARKS)
    said = spelling.spelled(text)
    return spelling, EchoClient(lambda request, choice: said, cuts=cuts, spec=HARMONY_SPEC)


def whole_of(text: str, cuts: tuple[int, ...] = (1,), **fields: Any) -> tuple[Whole, Usage]:
    """An answer gathered from a session, with tools unless it says otherwise."""
    spelling, client = client_of(text, cuts)
    asked = Ask(**{"id": "q", "model": "echo", "prompts": (ChatPrompt(messages=(USER,)),), "tools": RULE, **fields})

    async def go() -> tuple[Whole, Usage]:
        generation = await Session(spelling, client, ("echo",)).start(asked)
        try:
            (whole,) = await gather(generation)
            return whole, generation.usage()
        finally:
            generation.close()

    return asyncio.run(go())


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("cuts", [(1,), (3, 1, 2), (1000,)])
def test_an_answer(name, cuts):
    text, thoughts, said, calls = ANSWERS[name]
    whole, usage = whole_of(text, cuts)
    assert (whole.reasoning, whole.text) == (thoughts, said)
    assert [(call.name, call.arguments) for call in whole.calls] == calls
    assert whole.end.reason == ("tool_calls" if calls else "length" if name == "typed" else "stop")
    assert usage.completion == len(ByteText(GptOss(), marks=MARKS).spelled(text))


def test_only_thoughts_count_as_such():
    spelled = ByteText(GptOss(), marks=MARKS).spelled
    part = len(spelled(f"{ANALYSIS}why{END}"))
    for name, parts in (("final", 1), ("call", 1), ("again", 2), ("unknown", 1), ("typed", 0)):
        assert whole_of(ANSWERS[name][0])[1].reasoning == parts * part, name


def test_a_token_has_its_place_in_what_it_says():
    text = ANSWERS["call"][0]
    whole, _ = whole_of(text, keep_tokens=True, sampling=Sampling(logprobs=0))
    assert [token.id for token in whole.tokens] == ByteText(GptOss(), marks=MARKS).spelled(text)


def test_stop_strings_match_the_raw_text():
    whole, _ = whole_of(ANSWERS["final"][0], stop=("final",))
    assert (whole.reasoning, whole.text, whole.end.matched) == ("why", "<|channel|>", "final")


def test_other_prompts_have_no_channels():
    whole, _ = whole_of(f"{THOUGHT}{FINAL}so", tools=None, prompts=(TextPrompt("do"),))
    assert whole.reasoning is None and "why" in whole.text and "so" in whole.text
    whole, _ = whole_of(f"{THOUGHT}{FINAL}so", tools=None, prompts=(TextPrompt("do"),), raw_thoughts="may")
    assert (whole.reasoning, whole.text) == ("why", "so")


TOOL_BODIES = [
    {"type": "function", "function": {"name": "f", "parameters": RULE.tools[0].parameters}},
    {"type": "function", "function": {"name": "g"}},
]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("fields", [{}, {"stream_reasoning": False}, {"separate_reasoning": False}, {"tool_choice": "required"}, {"parallel_tool_calls": False}, {"skip_special_tokens": False}])  # fmt: skip
def test_a_stream_s_fold_is_the_answer(name, fields):
    text, body = ANSWERS[name][0], {"messages": [USER], "tools": TOOL_BODIES, "seed": 1, **fields}
    spelling, client = client_of(text)
    whole = answer(make_app(client, text=spelling), CHAT, body)["choices"][0]
    for cuts in ((1,), (2, 5), (1000,)):
        spelling, client = client_of(text, cuts)
        assert folded(chunks(make_app(client, text=spelling), CHAT, body)) == essence(whole)


def essence(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
    said = (message.get("reasoning_content") or "", message["content"] or "", calls)
    return {"said": said, "reason": choice["finish_reason"]}


def folded(parts: list[dict[str, Any]]) -> dict[str, Any]:
    thoughts, said, reason = "", "", None
    calls: list[tuple[str, str]] = []
    for choice in (choice for part in parts for choice in part["choices"]):
        delta, reason = choice["delta"], choice["finish_reason"] or reason
        thoughts += delta.get("reasoning_content") or ""
        said += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            if "id" in call:
                calls.append((call["function"]["name"], ""))
            calls[call["index"]] = (calls[call["index"]][0], calls[call["index"]][1] + call["function"]["arguments"])
    return {"said": (thoughts, said, calls), "reason": reason}


def test_events_come_while_they_are_written():
    """Thoughts, an aside and a guaranteed call's arguments do not wait for their end."""
    spelling, client = client_of(ANSWERS["call"][0])
    asked = Ask(id="q", model="echo", prompts=(ChatPrompt(messages=(USER,)),), tools=ToolRule(tools=(STRICT,)))

    async def go() -> list[Any]:
        generation = await Session(spelling, client, ("echo",)).start(asked)
        return [event async for events in generation for event in events]

    events = asyncio.run(go())
    assert [event.text for event in events if isinstance(event, Reasoning)] == [*"why"]
    assert [event.text for event in events if isinstance(event, Content)] == [*"so"]
    assert [event.name for event in events if isinstance(event, Call)] == ["f"]
    assert len([event for event in events if isinstance(event, Arguments)]) > 3
