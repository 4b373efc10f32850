"""Regular expressions as lexemes of the grammar library's Lark: the whole output matches.

The library reads Rust's syntax, which has neither look-around nor back-references; `^` and `$` are taken where they say
nothing. As in XGrammar, `\\d`, `\\w` and `\\s` mean ASCII.
"""

from __future__ import annotations

import llguidance

from radixmill.engine.grammar.errors import GrammarError


def to_lexeme(pattern: str) -> str:
    """The pattern between slashes. Raises GrammarError for a character that no text can hold."""
    if "\0" in pattern:
        raise GrammarError("a regular expression can't hold the character NUL", f"character {pattern.index(chr(0))}")
    return f"/{llguidance.regex_to_lark(pattern, 'dws')}/" if pattern else '""'
