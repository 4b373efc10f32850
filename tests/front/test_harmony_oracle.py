"""gpt-oss's messages as OpenAI's own parser reads them, over its own vocabulary.

Needs openai-harmony, and o200k_base.tiktoken in the folder that TIKTOKEN_ENCODINGS_BASE names; else the tests skip.
"""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.core.request import Constraint
from radixmill.engine.grammar import Matcher, Vocabulary
from radixmill.engine.grammar.compile import to_grammar
from radixmill.engine.grammar.matcher import Start
from radixmill.front.dialects import Callee, Splitter, joined
from radixmill.front.dialects.families import GptOss
from radixmill.front.session import Ask, ChatPrompt, Tool, ToolRule
from radixmill.front.session.speech import Speech
from radixmill.front.text import TextDecoder
from tests.front.dialect_kit import plain

pytestmark = pytest.mark.oracle
harmony: Any = pytest.importorskip("openai_harmony", reason="openai-harmony is not installed")
MARKS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
TURN = "<|start|>assistant"
WORDS = ("why", "so", " \n", "é", "😀", "<think>", "{", "to=functions.f", "assistant", "final")


class Model:
    """Token bytes and control tokens, as a decoder needs them."""

    def __init__(self, folder: Path) -> None:
        self.encoding = harmony.load_harmony_encoding("HarmonyGptOss")
        lines = (folder / "o200k_base.tiktoken").read_text().splitlines()
        self.bytes = {int(id): base64.b64decode(text) for text, id in map(str.split, lines)}
        self.control = {mark: self.encoding.encode(mark, allowed_special="all")[0] for mark in MARKS}
        self.bytes |= {id: mark.encode() for mark, id in self.control.items()}
        self.token_bytes, self.special_ids = self.bytes.__getitem__, frozenset(self.control.values())

    def encode(self, *parts: str) -> list[int]:
        """Control tokens in the first part, the third and so on; letters in the others."""
        ids = []
        for i, part in enumerate(parts):
            real = {"allowed_special": "all"} if i % 2 == 0 else {"disallowed_special": ()}
            ids += self.encoding.encode(part, **real)
        return ids


@pytest.fixture(scope="module")
def model() -> Model:
    folder = Path(os.environ.get("TIKTOKEN_ENCODINGS_BASE", ""))
    if not (folder / "o200k_base.tiktoken").is_file():
        pytest.skip("no o200k_base.tiktoken where TIKTOKEN_ENCODINGS_BASE says")
    return Model(folder)


def theirs(model: Model, ids: list[int]) -> list[tuple[str, ...]]:
    """What the vendor's parser makes of an answer."""
    found: list[tuple[str, ...]] = []
    for message in model.encoding.parse_messages_from_completion_tokens(ids, harmony.Role.ASSISTANT):
        text = "".join(content.text for content in message.content)
        if message.recipient:
            found.append(("call", message.recipient.removeprefix("functions."), text))
        elif text:
            found.append(("thought" if message.channel == "analysis" else "said", text))
    return run_together(found)


def run_together(found: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    out: list[tuple[str, ...]] = []
    for kind, *rest in found:
        if out and kind != "call" and out[-1][0] == kind:
            out[-1] = (kind, out[-1][1] + rest[0])
        else:
            out.append((kind, *rest))
    return out


def ours(model: Model, ids: list[int]) -> list[tuple[str, ...]]:
    """What our splitter makes of it, token by token."""
    splitter = Splitter(GptOss(), {"f": Callee(), "g": Callee()}, exact=model.control)
    decoder, at = TextDecoder(model, skip_special=False), 0
    pieces = []
    for id in ids:
        text = decoder.push((id,))
        at += len(text)
        if id in model.special_ids:
            splitter.mark(at - len(text))
        pieces += splitter.push(text)
    return plain(joined(pieces + splitter.push(decoder.finish()) + splitter.finish()))


def messages(dice: random.Random) -> Iterator[str]:
    """An answer in parts: frames, then words, then frames …; the words may be letters of control tokens."""
    for _ in range(dice.randint(0, 3)):
        yield f"<|channel|>{dice.choice(('analysis', 'analysis', 'commentary'))}<|message|>"
        yield "".join(dice.choice((*WORDS, *MARKS)) for _ in range(dice.randint(0, 4)))
        yield f"<|end|>{TURN}"
        yield ""
    if dice.random() < 0.5:
        yield "<|channel|>final<|message|>"
        yield "".join(dice.choice(WORDS) for _ in range(dice.randint(1, 4)))
        yield dice.choice(("<|return|>", ""))
        return
    name, kind = dice.choice("fg"), dice.choice((" <|constrain|>json", " json", " code", "<|constrain|>json", ""))
    head = (f"<|channel|>commentary to=functions.{name}{kind}", f" to=functions.{name}<|channel|>commentary{kind}")
    yield f"{dice.choice(head)}<|message|>"
    yield json.dumps(
        {word: [word] for word in dice.choices((*WORDS, *MARKS), k=dice.randint(0, 2))}, ensure_ascii=False
    )
    yield dice.choice(("<|call|>", ""))


@pytest.mark.parametrize("seed", range(300))
def test_answers_mean_the_same(model, seed):
    parts = list(messages(random.Random(seed)))
    ids = model.encode(*parts)
    assert ours(model, ids) == theirs(model, ids), parts


# --- grammars

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
JSON = Constraint(kind="json_schema", text=json.dumps(SCHEMA))
TOOL = Tool(name="f", parameters=SCHEMA, strict=True)
THOUGHT = f"<|channel|>analysis<|message|>why<|end|>{TURN}"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}'
FINAL = "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    "fields, good, bad",
    [
        ({"tools": ToolRule(tools=(TOOL,), choice="required")}, [CALL, THOUGHT + CALL], [f"{FINAL}so", CALL.replace("1", "[]")]),
        ({"tools": ToolRule(tools=(TOOL,))}, [CALL, f"{THOUGHT}{FINAL}so"], [CALL.replace("1", "[]")]),
        ({"constraint": JSON}, [f'{THOUGHT}{FINAL}{{"a":1}}'], [f"{FINAL}so", '{"a":1}']),
    ],
)  # fmt: skip
def test_grammars_take_the_model_s_own_tokens(model, fields, good, bad):
    chat = ChatPrompt(messages=({"role": "user", "content": "hi"},))
    bound = Speech(Ask(id="q", model="m", prompts=(chat,), **fields), GptOss(), "may").constraint
    vocabulary = vocabulary_of(model)
    start = Start(vocabulary.tokenizer(), to_grammar(bound, vocabulary))
    for text in good + bad:
        assert takes(vocabulary, start, model.encode(text)) == (text in good), text


def vocabulary_of(model: Model) -> Vocabulary:
    size = max(model.bytes) + 1
    return Vocabulary(
        tokens=tuple(model.bytes.get(id, b"") for id in range(size)),
        control=model.special_ids,
        eos_ids=tuple(model.encoding.stop_tokens_for_assistant_actions()),
        size=size,
    )


def takes(vocabulary: Vocabulary, start: Start, ids: list[int]) -> bool:
    match, row = Matcher(vocabulary, start), np.zeros(vocabulary.words, np.uint32)
    for id in (*ids, vocabulary.eos_ids[0]):
        match.fill(row)
        if not row[id // 32] >> id % 32 & 1:
            ends = [end for end in vocabulary.eos_ids if row[end // 32] >> end % 32 & 1]
            return id == vocabulary.eos_ids[0] and bool(ends)
        match.push(id)
    return True
