"""Structured output behind one small interface."""

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.matcher import Matcher
from radixmill.engine.grammar.vocabulary import Vocabulary

__all__ = ["GrammarError", "Matcher", "Vocabulary"]
