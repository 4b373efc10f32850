"""Texts that are looked for in an output, whose control tokens no letters can spell."""

from __future__ import annotations

import re
from collections.abc import Iterable

from radixmill.engine.grammar.vocabulary import Vocabulary

MARK = b"\xff"  # around a control token's literal; no byte of UTF-8


class Marked:
    """`texts`, and the bytes of tokens in which they stand where the output has them.

    A control token that one of the texts names has its literal between marks, in both; any other one has no bytes.
    """

    def __init__(self, vocabulary: Vocabulary, texts: Iterable[str]) -> None:
        self._vocabulary = vocabulary
        raw = [text.encode() for text in texts]
        control = vocabulary.control if any(raw) else ()
        known = [(token, vocabulary.tokens[token]) for token in control if token < len(vocabulary.tokens)]
        named = {token: literal for token, literal in known if literal and any(literal in text for text in raw)}
        self._named = {token: MARK + literal + MARK for token, literal in named.items()}
        longest = sorted(set(named.values()), key=len, reverse=True)
        literals = re.compile(b"|".join(map(re.escape, longest)) or rb"(?!)")
        self.texts = tuple(literals.sub(lambda hit: MARK + hit[0] + MARK, text) for text in raw)

    def bytes_of(self, token: int) -> bytes:
        tokens = self._vocabulary.tokens
        if token in self._vocabulary.control:
            return self._named.get(token, b"")
        return tokens[token] if 0 <= token < len(tokens) else b""
