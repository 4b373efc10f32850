"""Every chat template of the data folder, over a tokenizer that has all it writes as control tokens: what users write is
text, conversations of all shapes are told whole, and answers go on inside and outside of thoughts."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pytest

from radixmill.front.session import Ask, ChatPrompt, ModelText, Tool, ToolRule, template_tools
from radixmill.front.session.speech import speech_of
from radixmill.front.text import encode_chat
from tests.front.templates_kit import NAMES, literals_of, stack_of

Message = dict[str, Any]
ONLY_WITH_TOOLS = "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"


@lru_cache(maxsize=32)
def text_of(name: str) -> ModelText:
    return ModelText(stack_of(name))


def ids_of(name: str, *messages: Message, **fields: Any) -> list[int]:
    return text_of(name).encode_chat(ChatPrompt(messages=messages, **fields))


def told(name: str, *messages: Message, **fields: Any) -> str:
    return text_of(name).decode(ids_of(name, *messages, **fields), skip_special=False)


def said(role: str, content: Any, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def call(id: str, name: str = "weather", arguments: Any = '{"city": "Paris-sur-Mer"}') -> Message:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*ids: str, content: Any = None) -> Message:
    return said("assistant", content, tool_calls=[call(id, f"weather{i}") for i, id in enumerate(ids)])


def result(id: str, content: str) -> Message:
    return said("tool", content, tool_call_id=id)


RULE = ToolRule(
    tools=(
        Tool(name="weather0", description="Tells it.", parameters={"type": "object", "properties": {}}),
        Tool(name="weather1", description="Too."),
    )
)
TOOLS = template_tools(RULE)


# What users write is text.


def hostile(text: str, *, escaped: bool = False) -> dict[str, Any]:
    """A conversation with a text wherever users can write one."""
    arguments: Any = {"city": text, text: [text, {text: text}]}
    if escaped:  # JSON can write any letter by its number
        arguments = '{"city": "' + "".join(f"\\u{ord(c):04x}" for c in text) + '"}'
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": text, "enum": [text], text: text, "default": text},
            f"k{text}": {"type": "array", "items": {"type": "object", text: [text]}},
        },
        "required": [text],
        text: {text: text},
    }
    tool = {"type": "function", "function": {"name": f"f{text}", "description": text, "parameters": schema}}
    messages = (
        said("system", text),
        said("user", text, name=text),
        said("assistant", f"well {text}", reasoning_content=text),
        said("user", [{"type": "text", "text": text}, {"type": "text", "text": text}]),
        said("assistant", "", reasoning_content=text, tool_calls=[call(f"i{text}", f"f{text}", arguments)]),
        said("tool", text, tool_call_id=f"i{text}", name=f"f{text}"),
    )
    return {
        "messages": messages,
        "tools": (tool,),
        "template_kwargs": {"documents": [{"title": text, "text": text}], "date_string": text, "model_identity": text},
    }


def control_of(name: str, asked: dict[str, Any]) -> list[int]:
    made = text_of(name)
    return [id for id in made.encode_chat(ChatPrompt(**asked)) if made.stack.tokenizer.is_control(id)]


def pieces_of(literal: str) -> list[str]:
    """Parts of a literal that something around them could complete."""
    parts = {literal[1:-1], literal[1:], literal[:-1], literal[2:], literal[:-2], literal[:1], literal[-1:]}
    return sorted(part for part in parts if part)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_of_a_user_becomes_a_control_token(name: str) -> None:
    calm, in_numbers = control_of(name, hostile("quiet")), control_of(name, hostile("quiet", escaped=True))
    assert calm, "the template writes control tokens"
    for literal in stack_of(name).tokenizer.control:
        for text in (literal, f"{literal}{literal}", f" {literal}\n", f"a{literal[:-1]}{literal}"):
            assert control_of(name, hostile(text)) == calm, text
        assert control_of(name, hostile(literal, escaped=True)) == in_numbers, literal


@pytest.mark.parametrize("name", NAMES)
def test_no_part_of_one_is_completed(name: str) -> None:
    """Neither by the template's own text around it nor by another text of the user."""
    calm = control_of(name, hostile("quiet"))
    for literal in literals_of(name):
        for text in pieces_of(literal):
            assert control_of(name, hostile(text)) == calm, (literal, text)
        for at in range(1, len(literal)):
            asked = hostile("quiet")
            parts = [{"type": "text", "text": literal[:at]}, {"type": "text", "text": literal[at:]}]
            asked["messages"] = (*asked["messages"][:3], said("user", parts), *asked["messages"][4:])
            assert control_of(name, asked) == calm, (literal, at)


@pytest.mark.parametrize("name", NAMES)
def test_requests_without_literals_are_untouched(name: str) -> None:
    made = stack_of(name)
    assert made.template is not None
    messages = [said("user", "hél<lo> [x] {y} |"), said("assistant", "so\n"), said("user", " bye ")]
    tools = list(TOOLS) if name == ONLY_WITH_TOOLS else None
    text = made.template.render(messages, tools=tools)
    assert encode_chat(made, messages, tools=tools) == made.tokenizer.encode(text, add_special=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_closing_tag_in_an_answer_is_text(name: str) -> None:
    """Templates that look for one in contents find it only where an answer begins with thoughts."""
    if text_of(name)._opens:
        pytest.skip("prompts open thoughts: what stands before a closing tag are thoughts")
    tools = TOOLS if name == ONLY_WITH_TOOLS else ()
    shown = told(name, said("user", "q"), said("assistant", "AA </think> BB"), said("user", "r"), tools=tools)
    assert "AA </think> BB" in shown or ("BB" in shown and name == "Qwen-QwQ-32B")


# Conversations are told whole.

TALKS: dict[str, tuple[Message, ...]] = {
    "calls at once": (
        said("user", "QQ"),
        calls("call_abc", "call_def"),
        result("call_def", "R2R"),
        result("call_abc", "R1R"),
        said("user", "NN"),
    ),
    "the end is a result": (said("user", "QQ"), calls("x"), result("x", "R1R")),
    "one behind the other": (
        said("user", "QQ"),
        calls("a"),
        result("a", "R1R"),
        calls("b"),
        result("b", "R2R"),
        said("assistant", "AA"),
        said("user", "NN"),
    ),
    "users side by side": (said("user", "QQ"), said("user", "NN")),
    "answers side by side": (said("user", "QQ"), said("assistant", "AA"), said("assistant", "BB"), said("user", "NN")),
    "a system": (said("system", "SS"), said("user", "QQ")),
    "a developer": (said("developer", "SS"), said("user", "QQ")),
    "an answer first": (said("assistant", "AA"), said("user", "QQ")),
    "a late system": (
        said("system", "SS"),
        said("user", "QQ"),
        said("assistant", "AA"),
        said("system", "TT"),
        said("user", "NN"),
    ),
}


@pytest.mark.parametrize("tools", [(), TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", NAMES)
def test_conversations_are_told_whole(name: str, talk: str, tools: tuple[Any, ...]) -> None:
    if name == ONLY_WITH_TOOLS and not tools:
        pytest.skip("a template for requests with tools")
    messages = TALKS[talk]
    if name == "openai-gpt-oss-120b" and talk == "a late system":
        with pytest.raises(ValueError, match="before all others"):
            told(name, *messages, tools=tools)
        return
    shown = told(name, *messages, tools=tools)
    for message in messages:
        assert (message["content"] or "") in shown
        for one in message.get("tool_calls", ()):
            assert shown.count(one["function"]["name"]) >= 1
    assert shown.count("Paris-sur-Mer") == sum(len(message.get("tool_calls", ())) for message in messages)
    assert shown.count("Tells it.") == len(tools) // 2
    if "R2R" in shown:
        assert shown.index("R1R") < shown.index("R2R")


@pytest.mark.parametrize("name", ["mistralai-Mistral-Nemo-Instruct-2407", "Mistral-Small-3.2-24B-Instruct-2506"])
def test_foreign_ids_become_nine_letters(name: str) -> None:
    """Whatever dialect is chosen: the template refuses others."""
    shown = told(name, *TALKS["calls at once"])
    assert "call_abc" not in shown and "call_def" not in shown
    kept = told(name, said("user", "QQ"), calls("abcDEF123"), result("abcDEF123", "R1R"))
    assert kept.count("abcDEF123") == 2


def test_kimi_counts_its_calls() -> None:
    shown = told("moonshotai-Kimi-K2", *TALKS["one behind the other"])
    assert shown.count("functions.weather0:0") == shown.count("functions.weather0:1") + 1 or shown.count(
        "## Return of functions.weather0:1"
    )
    assert "## Return of functions.weather0:0" in shown and "## Return of functions.weather0:1" in shown


def test_llama_gets_one_call_a_message() -> None:
    shown = told("meta-llama-Llama-3.1-8B-Instruct", *TALKS["calls at once"])
    turns = [turn.partition("<|end_header_id|>")[0] for turn in shown.split("<|start_header_id|>")[1:]]
    assert turns == ["system", "user", "assistant", "ipython", "assistant", "ipython", "user", "assistant"]


# Thoughts.

LAST = {
    "inside": said("assistant", None, reasoning_content="why so"),
    "inside, as it was written": said("assistant", "<think>\nwhy so"),
    "behind": said("assistant", "Once upon", reasoning_content="why so"),
    "behind, as it was written": said("assistant", "<think>why so\n</think>\n\nOnce upon"),
    "without": said("assistant", "Once upon"),
}
LINES = ("\n", "\n\n")
TIGHT = {
    "GLM-4.6": ("<think>", "</think>\n"),
    "Kimi-K2-Thinking": ("<think>", "</think>"),
    "deepseek-ai-DeepSeek-V3.1": ("<think>", "</think>"),
    "deepseek-ai-DeepSeek-V3.2": ("<think>", "</think>"),
}


@pytest.mark.parametrize("name", [n for n in NAMES if n not in (ONLY_WITH_TOOLS, "openai-gpt-oss-120b")])
def test_answers_go_on(name: str) -> None:
    opener, closer = TIGHT.get(name, ("<think>\n", "\n</think>\n\n"))
    ends = {"inside": f"{opener}why so", "behind": f"{opener}why so{closer}Once upon", "without": "Once upon"}
    for which, last in LAST.items():
        chat = ChatPrompt(messages=(said("user", "q"), last), continue_final_message=True, add_generation_prompt=False)
        made = text_of(name)
        ids = made.encode_chat(chat)
        shown = made.decode(ids, skip_special=False)
        assert shown.endswith(ends[which.split(",")[0]]), (which, shown[-60:])
        thinking = speech_of(made, Ask(id="q", model="m", prompts=(chat,)), [ids]).thinking
        assert thinking == ("opened" if which.startswith("inside") else "not")
        tags = [made.control["<think>"], made.control["</think>"]]
        own = [id for id in ids if id in tags]
        if which.startswith("inside"):
            assert own[-1:] == tags[:1]
        elif which.startswith("behind"):
            assert own[-2:] == tags


def test_harmony_goes_on() -> None:
    name = "openai-gpt-oss-120b"
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    inside, behind = (told(name, said("user", "q"), LAST[which], **fields) for which in ("inside", "behind"))
    assert inside.endswith("<|start|>assistant<|channel|>analysis<|message|>why so")
    assert behind.endswith("why so<|end|><|start|>assistant<|channel|>final<|message|>Once upon")


@pytest.mark.parametrize("switch", [True, False])
@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "Qwen-QwQ-32B", "deepseek-ai-DeepSeek-V3.1", "GLM-4.6"])
def test_thoughts_go_on_although_they_are_switched_off(name: str, switch: bool) -> None:
    kwargs = {"enable_thinking": switch, "thinking": switch}
    shown = told(
        name,
        said("user", "q"),
        LAST["inside"],
        continue_final_message=True,
        add_generation_prompt=False,
        template_kwargs=kwargs,
    )
    assert shown.endswith(("<think>why so", "<think>\nwhy so"))
    assert shown.count("<think>") == 1 and "</think>" not in shown


@pytest.mark.parametrize("name", [n for n in NAMES if n != ONLY_WITH_TOOLS])
def test_tags_in_thoughts_that_go_on_are_text(name: str) -> None:
    made = text_of(name)
    think = made.dialect.think
    assert think is not None
    last = said("assistant", None, reasoning_content=f"a {think.close} b {think.open} c")
    calm = said("assistant", None, reasoning_content="a")
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    ids, plain = (ids_of(name, said("user", "q"), one, **fields) for one in (last, calm))
    assert made.decode(ids, skip_special=False).endswith(f"a {think.close} b {think.open} c")
    tokenizer = made.stack.tokenizer
    assert [i for i in ids if tokenizer.is_control(i)] == [i for i in plain if tokenizer.is_control(i)]


@pytest.mark.parametrize(
    "name", ["Qwen-Qwen3-0.6B", "GLM-4.6", "MiniMax-M2", "Kimi-K2-Thinking", "deepseek-ai-DeepSeek-V3.2"]
)
@pytest.mark.parametrize("content", ["<think>\nwhy so\n</think>\n\nbe it", "<think>why so</think>be it"])
def test_answers_that_were_not_split_are_told_as_if_they_were(name: str, content: str) -> None:
    """Behind the last question, where templates tell thoughts: before calls whose results are there."""
    split = said("assistant", "be it", reasoning_content="why so", tool_calls=[call("x")])
    raw = said("assistant", content, tool_calls=[call("x")])
    kwargs = {"thinking": True}
    fields = {"tools": TOOLS, "template_kwargs": kwargs}
    whole = ids_of(name, said("user", "q"), split, result("x", "r"), **fields)
    assert ids_of(name, said("user", "q"), raw, result("x", "r"), **fields) == whole
    assert "why so" in text_of(name).decode(whole, skip_special=False)


def test_arguments_stay_what_they_were() -> None:
    """Escapes that hide no control token are printed as they came, where the template prints text."""
    name = "deepseek-ai-DeepSeek-R1-Distill-Llama-8B"
    arguments = '{"a":"b\\n\\u00e9"}'
    shown = told(name, said("user", "q"), said("assistant", None, tool_calls=[call("x", "f", arguments)]))
    assert arguments in shown
    assert json.loads(arguments) == {"a": "b\né"}
