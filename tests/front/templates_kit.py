"""The chat templates of the data folder, each with a small tokenizer whose control tokens are all that it writes."""

from __future__ import annotations

import re
from functools import lru_cache

from radixmill.front.text import TextStack
from tests.data import ROOT, shared
from tests.front.text_kit import NORMAL, USER_DEFINED, byte_level, stack

FILES = sorted((ROOT.parent / "shared" / "data" / "templates").glob("*.jinja"))
NAMES = [path.stem for path in FILES]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
_LITERAL = re.compile(
    r"<[|｜][^|｜<>\s{}]{1,40}[|｜]>|<\|\w+>|｜DSML｜|<(?:start|end)_of_turn>|</?minimax:tool_call>"
    r"|</?(?:think|tool_call|tool_response|arg_key|arg_value)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|THINK|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|AVAILABLE_TOOLS|ARGS|CALL_ID|gMASK)\]"
    r"|\]~!b\[|\]~b\]|\[e~\["
)


def source_of(name: str) -> str:
    """A template's text, or a skip."""
    return shared("templates", f"{name}.jinja").read_text(encoding="utf-8")


def literals_of(name: str) -> tuple[str, ...]:
    """What looks like a control token in a template, and the tags that models write besides."""
    return tuple(sorted({*_LITERAL.findall(source_of(name)), "<think>", "</think>"}))


@lru_cache(maxsize=32)
def stack_of(name: str) -> TextStack:
    """The template over a tokenizer of bytes and control tokens. Tags of thoughts and calls are added tokens that their
    makers did not call special, as in many vocabularies."""
    metadata = byte_level()
    have = metadata["tokenizer.ggml.tokens"]
    new = [literal for literal in literals_of(name) if literal not in have]
    soft = re.compile(r"</?[\w:]+>")
    have += new
    metadata["tokenizer.ggml.token_type"] += [USER_DEFINED if soft.fullmatch(one) else NORMAL + 2 for one in new]
    return stack(metadata, source_of(name), **TOKENS)
