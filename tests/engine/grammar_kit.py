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
VOCABULARY = Vocabulary(
    tokens=tuple([bytes((i,)) for i in range(256)] + [text.encode() for text in CONTROL] + list(LONGER)),
    control=frozenset(CONTROL.values()),
    eos_ids=(EOS,),
    size=300,  # padded, and not to whole words
)
TOKENIZER = VOCABULARY.tokenizer()

_CUT = re.compile("|".join(map(re.escape, CONTROL)).encode())


def encode(text: str) -> list[int]:
    """Control tokens where their literals stand, else bytes."""
    raw, tokens, done = text.encode(), [], 0
    for match in _CUT.finditer(raw):
        tokens += [*raw[done : match.start()], CONTROL[match[0].decode()]]
        done = match.end()
    return [*tokens, *raw[done:]]


@cache
def start(kind: Any, text: str) -> Start:
    return Start(TOKENIZER, to_grammar(Constraint(kind=kind, text=text), VOCABULARY))


def matcher(kind: str, text: Any, output: Sequence[int] = (), **options: Any) -> Matcher:
    text = text if isinstance(text, str) else json.dumps(text)
    return Matcher(VOCABULARY, start(kind, text), output=output, **options)


def allowed(match: Matcher) -> set[int]:
    """The tokens of its mask."""
    row = np.full(VOCABULARY.words, 0xFFFFFFFF, np.uint32)
    match.fill(row)
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def takes(kind: str, text: Any, output: str) -> bool:
    """Whether `output` is a whole text of the constraint, each token being in the mask of its place."""
    match = matcher(kind, text)
    for token in encode(output):
        if token not in allowed(match):
            return False
        match.push(token)
    return EOS in allowed(match)


def refusal(kind: str, text: Any) -> GrammarError | None:
    try:
        matcher(kind, text).check()
    except GrammarError as error:
        return error
    return None
