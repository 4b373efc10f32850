"""Constraints → text in the grammar library's own format."""

from __future__ import annotations

from radixmill.core.request import Constraint
from radixmill.engine.grammar.gbnf import parse
from radixmill.engine.grammar.lexemes import to_lark
from radixmill.engine.grammar.matcher import RULES
from radixmill.engine.grammar.regex import to_lexeme
from radixmill.engine.grammar.schema import normalise
from radixmill.engine.grammar.tags import tags_to_lark
from radixmill.engine.grammar.vocabulary import Vocabulary

ANY_OBJECT = '{"type": "object"}'
ANY_JSON = "$$ANY$$"  # SGLang's name of the schema that every value matches

# Masks are what the grammar allows, never narrowed to one spelling of what is certain.
HEAD = '%llguidance {"no_forcing": true}\n'


def to_grammar(constraint: Constraint, vocabulary: Vocabulary) -> str:
    """The constraint's grammar (its `after` is the matcher's). Raises GrammarError."""
    text = constraint.text
    match constraint.kind:
        case "json_schema":
            body = f"start: %json {normalise('true' if text.strip() == ANY_JSON else text)}\n"
        case "json_object":
            body = f"start: %json {normalise(ANY_OBJECT)}\n"
        case "regex":
            body = f"start: {to_lexeme(text)}\n"
        case "ebnf":
            lark = to_lark(parse(text), prefix=f"{RULES}0_")
            body = "\n".join([f"start: {lark.name}", *lark.lines, ""])
        case "structural_tag":
            body = tags_to_lark(text, vocabulary)
    return HEAD + body
