"""Schemas under the grammar library with a vocabulary of single bytes: a text is accepted or it is not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from radixmill.engine.grammar.schema import normalise

END = 256


class ByteVocabulary:
    """Token b is the byte b; 256 ends the text."""

    eos_token_id = END
    bos_token_id = None
    tokens = [*(bytes([byte]) for byte in range(256)), b"<end>"]
    special_token_ids = [END]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


TOKENIZER = LLTokenizer(TokenizerWrapper(ByteVocabulary()), n_vocab=END + 1, slices=[])


class Grammar:
    """What `schema` becomes. Raises GrammarError where it is refused, AssertionError where the library refuses it."""

    def __init__(self, schema: Any) -> None:
        self.text = normalise(schema if isinstance(schema, str) else json.dumps(schema))
        self.matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_json_schema(self.text), log_level=0)
        assert not self.matcher.is_error(), f"{self.matcher.get_error()}\n{schema}\n{self.text}"

    def accepts_text(self, text: str) -> bool:
        self.matcher.reset()
        tokens = list(text.encode())
        done = self.matcher.try_consume_tokens(tokens)
        assert not self.matcher.is_error(), self.matcher.get_error()
        return done == len(tokens) and bool(self.matcher.is_accepting())

    def accepts(self, value: Any) -> bool:
        """In any order of members: the grammar has one, the schema has none."""
        return any(self.accepts_text(json.dumps(one, ensure_ascii=False)) for one in orders(value))


def orders(value: Any) -> Iterator[Any]:
    """`value` with its objects' members in all orders."""
    if isinstance(value, dict):
        for names in itertools.permutations(value):
            for values in itertools.product(*(list(orders(value[name])) for name in names)):
                yield dict(zip(names, values, strict=True))
    elif isinstance(value, list):
        yield from map(list, itertools.product(*(list(orders(item)) for item in value)))
    else:
        yield value
