"""Regular expressions as lexemes of the grammar library's Lark: the whole output matches.

The library reads Rust's syntax, which has neither look-around nor back-references; `^` and `$` are taken where they say
nothing. As in XGrammar, `\\d`, `\\w` and `\\s` mean ASCII.
"""

from __future__ import annotations

import re

import llguidance

from radixmill.engine.grammar.errors import GrammarError

MAX_COPIES = 100_000  # of an atom, by repetitions within repetitions: each is a state that a mask may have to look at
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d+)(?:,(\d*))?\}|[\s\S]")


def to_lexeme(pattern: str) -> str:
    """The pattern between slashes. Raises GrammarError for a character that no text can hold."""
    if "\0" in pattern:
        raise GrammarError("a regular expression can't hold the character NUL", f"character {pattern.index(chr(0))}")
    if copies(pattern) > MAX_COPIES:
        raise GrammarError(f"the repetitions {{m,n}} of the regular expression come to more than {MAX_COPIES} copies")
    return f"/{llguidance.regex_to_lark(pattern, 'dws')}/" if pattern else '""'


def copies(pattern: str) -> int:
    """About how many atoms the pattern has once every counted repetition is written out; no less."""
    groups = [[0, 0]]  # for each open group: atoms before, and of the piece just read, which a repetition may follow
    for piece in _PIECE.finditer(pattern):
        text, group = piece[0], groups[-1]
        if piece[1]:
            group[1] *= max(int(piece[2] or piece[1]), 1)
        elif text == "(":
            groups.append([0, 0])
        elif text == ")" and len(groups) > 1:
            _read(groups[-2], sum(groups.pop()))
        elif text not in "?*+":
            _read(group, 0 if text == "|" else 1)
    return sum(map(sum, groups))


def _read(group: list[int], atoms: int) -> None:
    group[0] += group[1]
    group[1] = atoms
