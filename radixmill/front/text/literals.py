"""Finding the literals of tokens in text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# Added tokens that mark roles and turns, thoughts and calls, whatever their vocabulary calls them. Others, the tags of
# HTML among them, are text like any.
_ROLE_MARK = re.compile(
    r"""<[|｜].*[|｜]>|<\|\w+>|<\w+\|>|｜DSML｜
    |<(?:start|end)_of_\w+>|</?s>|<</?SYS>>
    |</?(?:\w+:)?(?:think|tools?|tool_calls?|tool_responses?|function_calls?|arg_key|arg_value|answer|response)>
    |\[/?(?:INST|SYSTEM_PROMPT|THINK|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|AVAILABLE_TOOLS|ARGS|CALL_ID)\]
    |◁/?\w+▷""",
    re.DOTALL | re.VERBOSE,
)
# What a GGUF file calls [PAD151646] fills up the vocabulary: nobody means it.
_FILLER = re.compile(r"\[PAD(\d+)\]")


def is_role_mark(literal: str) -> bool:
    return _ROLE_MARK.fullmatch(literal) is not None


def is_filler(literal: str, token: int) -> bool:
    match = _FILLER.fullmatch(literal)
    return match is not None and int(match[1]) == token


def any_of(literals: Iterable[str]) -> str:
    """A pattern that matches the longest of `literals` at a place, in time independent of how many there are."""
    tree: dict[str, Any] = {}
    for literal in filter(None, literals):
        node = tree
        for char in literal:
            node = node.setdefault(char, {})
        node[""] = {}
    return _pattern(tree) if tree else r"(?!)"


def _pattern(node: dict[str, Any]) -> str:
    branches = []
    for char, below in node.items():
        if not char:
            continue
        run = re.escape(char)
        while len(below) == 1 and "" not in below:
            char, below = next(iter(below.items()))
            run += re.escape(char)
        branches.append(run + (_pattern(below) if below.keys() - {""} else ""))
    body = branches[0] if len(branches) == 1 and "" not in node else f"(?:{'|'.join(branches)})"
    return f"{body}?" if "" in node else body
