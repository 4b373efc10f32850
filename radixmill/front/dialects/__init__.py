"""How model families write thoughts and tool calls: constants, one reader, one writer."""

from radixmill.front.dialects.dialect import GENERIC, THINKING, Dialect, ToolShape
from radixmill.front.dialects.splitter import Called, Passed, Piece, Said, Splitter, Thought, joined

__all__ = [
    "GENERIC",
    "THINKING",
    "Called",
    "Dialect",
    "Passed",
    "Piece",
    "Said",
    "Splitter",
    "Thought",
    "ToolShape",
    "joined",
]
