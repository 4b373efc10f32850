"""The process that tries grammars as it is really started: the model's own tokens, and no longer than its engine."""

from __future__ import annotations

import select
import time
from pathlib import Path

import numpy as np
import pytest

from radixmill.core.config import Config
from radixmill.core.request import Constraint
from radixmill.core.spec import ModelSpec
from radixmill.engine.grammar import Built, Grammars, Refused
from radixmill.front.text import load_text
from radixmill.launch import builders
from radixmill.store import ModelFiles


def wait(grammars: Grammars, constraint: Constraint) -> Built | Refused:
    until = time.monotonic() + 30
    while (found := grammars.want(constraint)) is None:
        assert time.monotonic() < until
        select.select([grammars.wake], [], [], 1.0)
        grammars.poll()
    return found


def spelled(built: Built, text: str) -> bool:
    """Whether some tokens of the model spell `text` as the grammar takes it, and it may end there."""
    match, rest = built.matcher(), text.encode()
    while rest:
        row = np.zeros(built.vocabulary.words, np.uint32)
        match.fill(row)
        bits = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
        known = [i for i in bits if i < len(built.vocabulary.tokens) and i not in built.vocabulary.control]
        fits = [i for i in known if built.vocabulary.tokens[i] and rest.startswith(built.vocabulary.tokens[i])]
        if not fits:
            return False
        token = max(fits, key=lambda i: len(built.vocabulary.tokens[i]))
        match.push(token)
        rest = rest[len(built.vocabulary.tokens[token]) :]
    row = np.zeros(built.vocabulary.words, np.uint32)
    match.fill(row)
    return any(row[i // 32] >> np.uint32(i % 32) & 1 for i in built.vocabulary.eos_ids)


def check(files: ModelFiles, text: str) -> None:
    tokenizer = load_text(files).tokenizer
    end = min(tokenizer.special_ids) if tokenizer.eos_id is None else tokenizer.eos_id
    spec = ModelSpec(
        name="m", architecture="", vocab_size=tokenizer.vocab_size + 5, context=64, eos_ids=(end,)
    )  # padded, as models are
    grammars = Grammars(builders(Config(), files, spec))
    try:
        built = wait(grammars, Constraint(kind="json_schema", text='{"type": "object", "required": ["a"]}'))
        assert isinstance(built, Built)
        assert built.vocabulary.size == spec.vocab_size
        assert built.vocabulary.tokens == tuple(map(tokenizer.token_bytes, range(tokenizer.vocab_size)))
        assert end in built.vocabulary.control
        assert spelled(built, text) and not spelled(built, text[:-1])
        assert isinstance(wait(grammars, Constraint(kind="ebnf", text="root ::= root")), Refused)
    finally:
        grammars.close()


def test_on_a_tiny_model(tiny: Path) -> None:
    check(ModelFiles("tiny", tiny, None), '{"a": "b c", "d": [1]}')


@pytest.mark.weights
def test_on_the_embedded_model(smollm2: Path) -> None:
    check(ModelFiles("smollm2", smollm2, None), '{"a": "Zürich — ça va", "d": [1.5e3, null]}')
