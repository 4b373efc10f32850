"""Structured output behind one small interface."""

from radixmill.engine.grammar.errors import GrammarError

__all__ = ["GrammarError"]
