"""How model families write thoughts and tool calls: constants, one reader, one writer."""

from radixmill.front.dialects.calls.base import Callee, ToolShape
from radixmill.front.dialects.dialect import CallIds, Dialect, Thoughts
from radixmill.front.dialects.families import FAMILIES, GENERIC, THINKING
from radixmill.front.dialects.pieces import Called, Passed, Piece, Said, Thought, joined
from radixmill.front.dialects.splitter import Rules, Splitter

__all__ = [
    "FAMILIES",
    "GENERIC",
    "THINKING",
    "CallIds",
    "Called",
    "Callee",
    "Dialect",
    "Passed",
    "Piece",
    "Rules",
    "Said",
    "Splitter",
    "Thought",
    "Thoughts",
    "ToolShape",
    "joined",
]
