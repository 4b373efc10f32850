"""Which dialect is found for which template, on what ground; and what a named parser must be able to read."""

from __future__ import annotations

import re
import time
from functools import cache

import pytest

from radixmill.core.errors import CannotStart
from radixmill.front.dialects import FAMILIES
from radixmill.front.dialects.calls.unread import Unread
from radixmill.front.session import ChatPrompt, ModelText
from radixmill.front.session.detect import Detected, detect_dialect, known_names
from radixmill.front.text import ChatTemplate, TextStack, Tokenizer
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.front.text.template import CHATML
from tests.data import ROOT, shared
from tests.front.text_kit import byte_level

# Template → parser of thoughts and its ground, parser of calls and its ground.
TABLE = {
    "GLM-4.6": ("glm45", "template", "glm45", "template"),
    "HuggingFaceTB-SmolLM3-3B": ("qwen3", "tags", "hermes", "generic"),
    "Kimi-K2-Instruct": ("none", "none", "kimi_k2", "template"),
    "Kimi-K2-Thinking": ("kimi_k2", "template", "kimi_k2", "template"),
    "MiniMax-M2": ("minimax", "template", "minimax-m2", "template"),
    "Mistral-Small-3.2-24B-Instruct-2506": ("none", "none", "mistral", "template"),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("none", "none", "hermes", "template"),
    "Qwen-QwQ-32B": ("qwen3", "tags", "qwen25", "template"),
    "Qwen-Qwen2.5-7B-Instruct": ("none", "none", "hermes", "template"),
    "Qwen-Qwen3-0.6B": ("qwen3", "template", "qwen25", "template"),
    "Qwen3-Coder": ("none", "none", "qwen3_coder", "template"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("deepseek-r1", "tags", "deepseekv3", "template"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("deepseek-r1", "tags", "deepseekv3", "template"),
    "deepseek-ai-DeepSeek-V3.1": ("deepseek-v3", "tags", "deepseekv31", "template"),
    "deepseek-ai-DeepSeek-V3.2": ("deepseek-v3", "template", "deepseekv32", "template"),
    "google-gemma-2-2b-it": ("none", "none", "hermes", "generic"),
    "meta-llama-Llama-3.1-8B-Instruct": ("none", "none", "llama3", "template"),
    "meta-llama-Llama-3.2-3B-Instruct": ("none", "none", "llama3", "template"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("none", "none", "mistral", "template"),
    "moonshotai-Kimi-K2": ("none", "none", "kimi_k2", "template"),
    "openai-gpt-oss-120b": ("gpt-oss", "template", "gpt-oss", "template"),
}
by_template = pytest.mark.parametrize("name", TABLE)
CONTROL = 3  # a token's type in GGUF files
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


@cache
def tokenizer(*literals: str) -> Tokenizer:
    """All bytes, and these as control tokens."""
    metadata = byte_level(merges=())
    tokens = [token for token in metadata["tokenizer.ggml.tokens"] if token != "<think>"]
    kinds = [1] * 256 + [CONTROL] * (len(tokens) - 256 + len(literals))
    return Tokenizer(
        gguf_vocabulary(metadata | {"tokenizer.ggml.tokens": [*tokens, *literals], "tokenizer.ggml.token_type": kinds})
    )


def named(name: str) -> str:
    return shared("templates", f"{name}.jinja").read_text(encoding="utf-8")


def stack(template: str, *literals: str) -> TextStack:
    return TextStack(tokenizer(*literals), ChatTemplate(template, variables=VARIABLES))


def found(template: str, *parsers: str, **more: bool) -> Detected:
    return detect_dialect(stack(template), *parsers, **more)


def summary(one: Detected) -> tuple[str, str, str, str]:
    return one.reasoning_parser, one.basis("thoughts"), one.tool_call_parser, one.basis("calls")


def test_every_template_is_in_the_table():
    assert {path.stem for path in shared("templates").glob("*.jinja")} == set(TABLE)


@by_template
def test_what_is_found_for_a_template(name):
    one = found(named(name))
    assert [proof.explanation for proof in one.proofs if not proof.passed] == [] and one.warnings == ()
    assert summary(one) == TABLE[name]
    assert one.dialect.call_ids == (
        "nine" if "mistral" in one.tool_call_parser else "indexed" if "kimi" in one.tool_call_parser else "ours"
    )


def literals_of(source: str) -> list[str]:
    """What looks like control tokens there, parts of tags in braces, brackets and triangles included."""
    marks = r"<[|｜][^<>|｜]+[|｜]>|</?\w+:?\w+>|\[/?[A-Z_]+\]"
    return sorted({match for match in re.findall(marks, source) if len(match) < 40})


@by_template
def test_tags_that_are_control_tokens_are_read_token_by_token(name):
    source = named(name)
    one = detect_dialect(stack(source, *(set(literals_of(source)) - {"<s>", "</s>"})))
    assert [proof.explanation for proof in one.proofs if not proof.passed] == []
    assert (one.reasoning_parser, one.tool_call_parser) == (TABLE[name][0], TABLE[name][2])


@by_template
def test_the_parsers_that_are_found_may_be_named(name):
    thoughts, _, calls, _ = TABLE[name]
    assert summary(found(named(name), thoughts, calls)) == TABLE[name]


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "MiniMax-M2", "deepseek-ai-DeepSeek-V3.2", "GLM-4.6"])
def test_nothing_is_read_where_none_is_named(name):
    one = found(named(name), "none", "none")
    assert one.dialect.think is None and isinstance(one.dialect.calls, Unread) and one.proofs == ()
    assert summary(found(named(name), "none"))[0] == "none" and summary(found(named(name), "none"))[3] == "template"


# Named parsers.


@pytest.mark.parametrize(
    "name, parser, shown",
    [
        ("Qwen-Qwen3-0.6B", "qwen3_coder", "get_weather"),
        ("Qwen3-Coder", "hermes", "function=get_weather"),
        ("Qwen-Qwen2.5-7B-Instruct", "gpt-oss", "tool_call"),
        ("GLM-4.6", "minimax-m2", "arg_key"),
        ("HuggingFaceTB-SmolLM3-3B", "glm45", "arg_key"),
    ],
)
def test_calls_that_a_named_parser_does_not_read(name, parser, shown):
    with pytest.raises(CannotStart) as info:
        found(named(name), "auto", parser)
    message = str(info.value)
    assert message.startswith(f"--tool-call-parser {parser} does not fit this model: ")
    assert shown in message and "--trust-parsers" in message and "What fits: " in message and "\n" not in message
    assert set(re.findall(r"[\w-]+", message.split("What fits: ")[1].split(".")[0])) >= {TABLE[name][2]}


@pytest.mark.parametrize(
    "name, parser, shown",
    [
        ("Qwen-Qwen3-0.6B", "gpt-oss", "but read text"),
        ("Qwen-Qwen2.5-7B-Instruct", "qwen3", "</think>"),
        ("google-gemma-2-2b-it", "step3", "</think>"),
    ],
)
def test_thoughts_that_a_named_parser_does_not_read(name, parser, shown):
    with pytest.raises(CannotStart, match=f"--reasoning-parser {parser} does not fit this model") as info:
        found(named(name), parser)
    assert shown in str(info.value) and "--trust-parsers" in str(info.value)


def test_trust_makes_a_warning_of_it():
    one = found(named("Qwen-Qwen3-0.6B"), "auto", "qwen3_coder", trust=True)
    assert (one.tool_call_parser, one.basis("calls")) == ("qwen3_coder", "nothing")
    [warning] = one.warnings
    assert "--tool-call-parser qwen3_coder does not fit" in warning and "failed" in one.line()


@pytest.mark.parametrize("parsers, flag", [(("frob",), "--reasoning-parser"), (("auto", "frob"), "--tool-call-parser")])
def test_an_unknown_name_is_told_what_there_is(parsers, flag):
    with pytest.raises(CannotStart, match=f"{flag} frob: there is no such parser") as info:
        found(CHATML, *parsers)
    for name in ("auto", "none", *known_names("calls" if len(parsers) > 1 else "thoughts")):
        assert name in str(info.value)


def test_another_familys_tags_may_be_named_where_they_are_the_same():
    one = found(named("HuggingFaceTB-SmolLM3-3B"), "glm45")
    assert summary(one) == ("glm45", "tags", "hermes", "generic")
    assert one.dialect.think.switch == "enable_thinking"


# What is found out besides.


@pytest.mark.parametrize(
    "name, switch, default",
    [
        ("Qwen-Qwen3-0.6B", "enable_thinking", True),
        ("GLM-4.6", "enable_thinking", True),
        ("Qwen-QwQ-32B", "enable_thinking", False),
        ("deepseek-ai-DeepSeek-V3.2", "thinking", False),
        ("MiniMax-M2", "", True),
    ],
)
def test_the_switch_is_the_templates(name, switch, default):
    think = found(named(name)).dialect.think
    assert (think.switch, think.default) == (switch, default)


def test_a_template_that_writes_what_nobody_reads_is_told_of_and_starts():
    strange = CHATML.replace(
        "(message.content or '')",
        "(message.content or '') + (('CALLS ' + (message.tool_calls | tojson)) if message.tool_calls else '')",
    )
    one = found(strange)
    assert one.basis("calls") == "nothing" and "CALLS" in one.warnings[0] and "read by no parser" in one.warnings[0]


def test_without_a_template_nothing_is_found():
    one = detect_dialect(TextStack(tokenizer(), None))
    assert summary(one) == ("none", "none", "hermes", "generic")


def test_tools_are_told_in_the_form_that_is_read():
    tools = ({"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}},)
    for parsers, shown in (
        (("auto", "auto"), '{"name": <function-name>'),
        (("auto", "none"), '{"name": <function-name>'),
    ):
        made = stack(CHATML)
        text = ModelText(made, detect_dialect(made, *parsers))
        ids = text.encode_chat(ChatPrompt(messages=({"role": "user", "content": "hi"},), tools=tools))
        assert shown in text.decode(ids, skip_special=False)


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "openai-gpt-oss-120b", "google-gemma-2-2b-it"])
def test_it_does_not_keep_a_start_waiting(name):
    made = stack(named(name))
    seconds = []
    for _ in range(3):
        began = time.thread_time()
        detect_dialect(made)
        seconds.append(time.thread_time() - began)
    assert min(seconds) < 0.25  # about 0.05 on a machine that does nothing else


def test_the_docs_have_all_names():
    page = (ROOT / "docs" / "parsers.md").read_text(encoding="utf-8")
    for subject, title in (("thoughts", "| names for thoughts |"), ("calls", "| names for calls |")):
        [line] = [line for line in page.splitlines() if line.startswith(title)]
        assert re.findall("`([^`]+)`", line) == known_names(subject)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_family_is_taken_where_only_the_vocabulary_knows_its_tags(family):
    """By name, behind a template that writes neither thoughts nor calls."""
    tags = sorted(family().tags | {tag for tag in family.calls.tags if tag})
    made = stack(CHATML, *(tag.strip() for tag in tags if tag.strip()))
    names = ((family.reasoning_parsers or ("none",))[0], (family.tool_call_parsers or ("none",))[0])
    one = detect_dialect(made, *names)
    assert all(proof.passed for proof in one.proofs)
    assert (one.reasoning_parser, one.tool_call_parser) == names


def test_families_have_names_that_flags_can_say():
    for family in FAMILIES:
        assert all(re.fullmatch(r"[a-z0-9_.-]+", name) for name in family.reasoning_parsers + family.tool_call_parsers)
