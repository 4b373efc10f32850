"""Tools in the prompt: makers' own templates, and templates that know nothing of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from radixmill.front.dialects import GENERIC, Callee, Splitter
from radixmill.front.dialects.writer import HERMES, call_text, with_tools
from radixmill.front.session import Ask, ChatPrompt, ModelText, Tool, ToolRule, template_tools
from radixmill.front.session.speech import speech_of
from radixmill.front.text import ChatTemplate, TextStack, load_text
from radixmill.front.text.template import CHATML
from radixmill.store import ModelFiles
from tests.data import shared
from tests.front.text_kit import byte_level
from tests.front.text_kit import stack as small_stack

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "where"}}, "required": ["city"]}
RULE = ToolRule(tools=(Tool(name="weather", description="Tells it.", parameters=SCHEMA), Tool(name="clock")))
TOOLS = template_tools(RULE)
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Jülich"}'}}
HISTORY = (
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    {"role": "tool", "content": "sun", "tool_call_id": "c1"},
)
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"city": "Jülich"}}\n</tool_call>'
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def vocabulary() -> Any:
    return load_text(ModelFiles("qwen2", shared("vocab", "ggml-vocab-qwen2.gguf"))).tokenizer


def text_of(template: str, tokenizer: Any) -> ModelText:
    return ModelText(TextStack(tokenizer, ChatTemplate(template)))


def named(name: str) -> str:
    return shared("templates", f"{name}.jinja").read_text(encoding="utf-8")


def prompt(made: ModelText, **fields: Any) -> str:
    chat = ChatPrompt(**{"messages": HISTORY[:1], "tools": TOOLS, **fields})
    return made.decode(made.encode_chat(chat), skip_special=False)


@pytest.mark.parametrize(
    "name", ["Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"]
)
def test_templates_that_take_tools_write_our_dialect(name, vocabulary):
    template = ChatTemplate(named(name))
    made = text_of(named(name), vocabulary)
    said = prompt(made, messages=HISTORY)
    assert template.takes_tools and '"weather"' in said and "<tools>" in said
    assert said.count(CALL_TEXT) == 2
    assert "<tool_response>\nrain\n</tool_response>" in said and "<tool_response>\nsun" in said


@pytest.mark.parametrize(
    "name, takes",
    [
        ("Qwen3-Coder", True),
        ("meta-llama-Llama-3.1-8B-Instruct", True),
        ("GLM-4.6", True),
        ("HuggingFaceTB-SmolLM3-3B", False),
        ("google-gemma-2-2b-it", False),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", False),
    ],
)
def test_who_takes_tools(name, takes):
    assert ChatTemplate(named(name)).takes_tools == takes


def test_a_template_without_tools_is_told_in_words(vocabulary):
    said = prompt(text_of(SMOLLM2, vocabulary), messages=HISTORY)
    system, user, assistant, results, rest = said.split("<|im_start|>")[1:]
    assert system.startswith("system\n# Tools") and json.dumps(TOOLS[0]) in system and json.dumps(TOOLS[1]) in system
    assert user == "user\nweather?<|im_end|>\n"
    assert assistant == f"assistant\n{CALL_TEXT}\n{CALL_TEXT}<|im_end|>\n"
    assert (
        results == "user\n<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response><|im_end|>\n"
    )
    assert rest == "assistant\n"


def test_what_the_system_said_stays(vocabulary):
    messages = ({"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *HISTORY[:1])
    said = prompt(text_of(SMOLLM2, vocabulary), messages=messages)
    assert said.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert "# Tools" not in prompt(text_of(SMOLLM2, vocabulary), messages=messages, tools=())


def test_a_template_without_a_system(vocabulary):
    said = prompt(text_of(named("google-gemma-2-2b-it"), vocabulary), messages=HISTORY)
    assert said.index("# Tools") < said.index("weather?") and said.count("<tool_response>") == 2
    assert "<start_of_turn>user\n# Tools" in said


def test_a_template_of_smollm3_without_tools(vocabulary):
    said = prompt(text_of(named("HuggingFaceTB-SmolLM3-3B"), vocabulary), messages=HISTORY)
    assert "# Tools" in said and said.count(CALL_TEXT) == 2 and "<tool_response>\nrain" in said


def test_calls_are_read_as_they_are_written():
    for arguments in ('{"city": "Jülich", "n": [1.0, null]}', "{}", '{"s": "</tool_call>\\n"}'):
        splitter = Splitter(GENERIC, {"f": Callee()})
        called, *passed = splitter.push(call_text(HERMES, "f", arguments)) + splitter.finish()
        assert called.name == "f" and "".join(piece.text for piece in passed) == arguments
    assert call_text(HERMES, "f", {"a": "é"}) == call_text(HERMES, "f", '{"a": "é"}')


def test_messages_without_tools_are_left_alone():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "c"}]
    assert with_tools(HERMES, messages, []) == messages


# Thoughts.


@pytest.mark.parametrize(
    "name, thinks",
    [
        ("Qwen-Qwen2.5-7B-Instruct", False),
        ("Qwen-Qwen3-0.6B", True),
        ("HuggingFaceTB-SmolLM3-3B", True),
        ("Qwen-QwQ-32B", True),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", True),
        ("meta-llama-Llama-3.1-8B-Instruct", False),
    ],
)
def test_who_thinks(name, thinks, vocabulary):
    think = text_of(named(name), vocabulary).dialect.think
    assert (think is not None) == thinks and (think is None or (think.open, think.close) == ("<think>", "</think>"))


def test_tags_in_vocabulary_and_template_are_enough_to_think():
    assert ModelText(small_stack(byte_level())).dialect.think is None  # it has the opening one alone
    assert ModelText(small_stack(byte_level(), CHATML + "{# </think> #}")).dialect.think is not None


@pytest.mark.parametrize(
    "name, kwargs, thinking",
    [
        ("Qwen-Qwen3-0.6B", {}, "may"),
        ("Qwen-Qwen3-0.6B", {"enable_thinking": False}, "not"),
        ("HuggingFaceTB-SmolLM3-3B", {}, "may"),
        ("HuggingFaceTB-SmolLM3-3B", {"enable_thinking": False}, "not"),
        ("Qwen-QwQ-32B", {"enable_thinking": True}, "opened"),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", {"enable_thinking": True}, "opened"),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", {}, "not"),
        ("deepseek-ai-DeepSeek-V3.1", {"thinking": True}, "opened"),
        ("deepseek-ai-DeepSeek-V3.1", {}, "not"),
        ("Qwen-Qwen2.5-7B-Instruct", {}, "not"),
    ],
)
def test_how_prompts_leave_the_thoughts(name, kwargs, thinking, vocabulary):
    made = text_of(named(name), vocabulary)
    chat = ChatPrompt(messages=({"role": "user", "content": "what does <think> do?"},), template_kwargs=kwargs)
    asked = Ask(id="q", model="m", prompts=(chat,))
    assert speech_of(made, asked, [made.encode_chat(chat)]).thinking == thinking
