"""Structured output behind one small interface.

`builder.serve` is the other half, in a process of its own.
"""

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.matcher import Matcher
from radixmill.engine.grammar.service import Built, Grammars, OpenBuilder, Refused
from radixmill.engine.grammar.thinking import Thinking
from radixmill.engine.grammar.vocabulary import Vocabulary

__all__ = ["Built", "GrammarError", "Grammars", "Matcher", "OpenBuilder", "Refused", "Thinking", "Vocabulary"]
