"""Grammars over a vocabulary of bytes: what a text means, and whether a constraint takes it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from radixmill.core.request import Constraint
from radixmill.engine.grammar import GrammarError, Matcher, Vocabulary
from radixmill.engine.grammar.compile import to_grammar
from radixmill.engine.grammar.matcher import Start

EOS, TOOL, UNTOOL, THINK = 256, 257, 258, 259
CONTROL = {"<eos>": EOS, "<|tool|>": TOOL, "</|tool|>": UNTOOL, "<think>": THINK}
LONGER = (b"ab", b"abc", b'{"', b'":', b"</", b"\n\n", b"</think>\n")  # tokens of several bytes, from 260 on


def vocabulary_of(control: Sequence[str], *ends: str) -> Vocabulary:
    """Bytes, then control tokens, of which `ends` end the text, then the longer ones."""
    ids = {literal: 256 + i for i, literal in enumerate(control)}
    return Vocabulary(
        tokens=tuple([bytes((i,)) for i in range(256)] + [text.encode() for text in control] + list(LONGER)),
        control=frozenset(ids.values()),
        eos_ids=tuple(ids[end] for end in ends),
        size=300,  # padded, and not to whole words
    )


VOCABULARY = vocabulary_of(list(CONTROL), "<eos>")
HARMONY = vocabulary_of(
    ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"],
    "<|return|>",
    "<|call|>",
)


@cache
def tokenizer_of(vocabulary: Vocabulary) -> Any:
    return vocabulary.tokenizer()


TOKENIZER = tokenizer_of(VOCABULARY)


def encode(text: str, vocabulary: Vocabulary = VOCABULARY) -> list[int]:
    """Control tokens where their literals stand, else bytes."""
    raw, tokens, done = text.encode(), [], 0
    for match in re.finditer("|".join(map(re.escape, vocabulary.literals)).encode(), raw):
        tokens += [*raw[done : match.start()], vocabulary.literals[match[0].decode()]]
        done = match.end()
    return [*tokens, *raw[done:]]


@cache
def start(kind: Any, text: str, vocabulary: Vocabulary = VOCABULARY) -> Start:
    return Start(tokenizer_of(vocabulary), to_grammar(Constraint(kind=kind, text=text), vocabulary))


def matcher(
    kind: str, text: Any, output: Sequence[int] = (), vocabulary: Vocabulary = VOCABULARY, **options: Any
) -> Matcher:
    text = text if isinstance(text, str) else json.dumps(text)
    return Matcher(vocabulary, start(kind, text, vocabulary), output=output, **options)


def allowed(match: Matcher) -> set[int]:
    """The tokens of its mask."""
    row = np.full(VOCABULARY.words, 0xFFFFFFFF, np.uint32)
    match.fill(row)
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def takes(kind: str, text: Any, output: str, vocabulary: Vocabulary = VOCABULARY, **options: Any) -> bool:
    """Whether `output` is a whole text of the constraint, each token being in the mask of its place."""
    match = matcher(kind, text, vocabulary=vocabulary, **options)
    for token in encode(output, vocabulary):
        if token not in allowed(match):
            return False
        match.push(token)
    return vocabulary.eos_ids[0] in allowed(match)


def refusal(kind: str, text: Any) -> GrammarError | None:
    try:
        matcher(kind, text).check()
    except GrammarError as error:
        return error
    return None
