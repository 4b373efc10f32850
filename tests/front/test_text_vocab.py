"""Tokenizers from GGUF vocabularies give the ids that the models' own tokenizers give."""

from __future__ import annotations

import threading
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.errors import BadModel
from radixmill.front.text import TextDecoder, Tokenizer
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.front.text.pretokenize import RULES
from radixmill.store import GGUFFile
from tests.data import shared
from tests.front.text_kit import byte_level, sentencepiece

NAMES = ("bert-bge", "deepseek-llm", "gpt-2", "llama-bpe", "phi-3", "qwen2")
BPE = Tokenizer(gguf_vocabulary(byte_level()))
SPM = Tokenizer(gguf_vocabulary(sentencepiece(bos_token_id=264)))


@cache
def real(name: str) -> Tokenizer:
    return Tokenizer(gguf_vocabulary(GGUFFile(shared("vocab", f"ggml-vocab-{name}.gguf")).metadata))


def cases(name: str) -> list[tuple[str, list[int]]]:
    base = shared("vocab", f"ggml-vocab-{name}.gguf")
    texts = Path(f"{base}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{base}.out").read_text().split("\n")
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_models_own_tokenizer(name: str) -> None:
    for text, ids in cases(name):
        assert real(name).encode(text, add_special=False) == ids, text
        assert real(name).encode(text, parse_special=False, add_special=False) == ids, text


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bert-bge"])
def test_decode_gives_the_text_back(name: str) -> None:
    tokenizer = real(name)
    for text, ids in cases(name):
        assert tokenizer.decode(ids) == text
        decoder = TextDecoder(tokenizer)
        streamed = "".join(decoder.push([i]) for i in ids) + decoder.finish()
        assert streamed == tokenizer.decode(ids, continues=True)
        assert streamed == (f" {text}" if name == "phi-3" and ids else text)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("llama-bpe", [128000], []), ("phi-3", [1], []), ("gpt-2", [], []), ("bert-bge", [101], [102])],
)
def test_add_special_asks_the_vocabulary(name: str, before: list[int], after: list[int]) -> None:
    tokenizer = real(name)
    assert tokenizer.encode("hi") == [*before, *tokenizer.encode("hi", add_special=False), *after]


def test_every_known_pre_tokenizer_compiles_and_loses_nothing() -> None:
    text = "Hello, y'all! 12345 don't\r\n\n  été 我想在 ⅓ <a href=\"x\">é</a>\t\u3000\u0301 ÄÖü 🦙.cpp   "
    for name in RULES:
        tokenizer = Tokenizer(gguf_vocabulary(byte_level(pre=name)))
        assert tokenizer.notes == ()
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text, name


def test_an_unknown_pre_tokenizer_is_noted() -> None:
    tokenizer = Tokenizer(gguf_vocabulary(byte_level(pre="brand-new")))
    assert "brand-new" in tokenizer.notes[0]
    assert tokenizer.decode(tokenizer.encode("12 ab")) == "12 ab"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "rwkv"},
        {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "gpt2"},
    ],
)
def test_a_vocabulary_we_cannot_build_is_a_clear_error(metadata: dict[str, object]) -> None:
    with pytest.raises(BadModel):
        gguf_vocabulary(metadata)


def test_damaged_merges_are_a_clear_error() -> None:
    with pytest.raises(BadModel, match="merges"):
        gguf_vocabulary(byte_level(("hello",)))


def test_merges_without_their_token_are_left_out() -> None:
    metadata = byte_level()
    metadata["tokenizer.ggml.merges"].append("x y")
    assert Tokenizer(gguf_vocabulary(metadata)).encode("hexy") == BPE.encode("hexy")


def test_equal_tokens_do_not_shift_the_others() -> None:
    metadata = byte_level()
    metadata["tokenizer.ggml.tokens"][10] = metadata["tokenizer.ggml.tokens"][11]
    tokenizer = Tokenizer(gguf_vocabulary(metadata))
    assert tokenizer.encode("he<|im_end|>", parse_special=False) == BPE.encode("he<|im_end|>", parse_special=False)
    assert tokenizer.encode_marked("\ue000<|im_end|>he", "\ue000") == BPE.encode("<|im_end|>he")


@settings(deadline=None)
@given(st.text(max_size=40))
def test_round_trip(text: str) -> None:
    assert BPE.decode(BPE.encode(text), skip_special=False) == text
    assert SPM.decode(SPM.encode(text, parse_special=False, add_special=False)) == text.replace("▁", " ")


@settings(deadline=None)
@given(st.lists(st.sampled_from(["<|im_end|>", "<s>", "</s>", "<", "s", ">", "|", "he", " "]), max_size=8).map("".join))
def test_unparsed_text_has_no_control_tokens(text: str) -> None:
    for tokenizer in (BPE, SPM):
        ids = tokenizer.encode(text, parse_special=False, add_special=False)
        assert not any(map(tokenizer.is_control, ids))
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
def test_merges_do_not_lead_to_a_control_token(pre: str) -> None:
    metadata = byte_level(("| |", "< ||", "<|| >"), pre=pre)  # one piece for every pre-tokenizer
    metadata["tokenizer.ggml.token_type"][metadata["tokenizer.ggml.tokens"].index("<||>")] = 3
    tokenizer = Tokenizer(gguf_vocabulary(metadata))
    token = tokenizer.control["<||>"]
    assert tokenizer.encode("he<||>", add_special=False)[-1] == token
    ids = tokenizer.encode("he <||>", parse_special=False, add_special=False)
    assert token not in ids and tokenizer.decode(ids) == "he <||>"
    ids = tokenizer.encode_marked("<||>\ue000<||>", "\ue000")
    assert ids.count(token) == 1 and tokenizer.decode(ids, skip_special=False) == "<||><||>"


def test_parsed_text_has_them() -> None:
    end = BPE.control["<|im_end|>"]
    assert BPE.encode("he<|im_end|>") == [*BPE.encode("he"), end]
    assert BPE.is_control(end) and BPE.eos_id == end and not BPE.is_control(BPE.encode("he")[0])


@pytest.mark.parametrize("parse", [True, False])
def test_half_a_surrogate_pair_is_a_value_error(parse: bool) -> None:
    with pytest.raises(ValueError, match=r"U\+D83D.*character 2"):
        BPE.encode("hé\ud83d", parse_special=parse)


def test_token_bytes() -> None:
    spell = lambda tokenizer, text: [tokenizer.token_bytes(i) for i in tokenizer.encode(text, add_special=False)]  # noqa: E731
    assert spell(BPE, " he<|im_end|>é\x00") == [b" he", b"<|im_end|>", b"\xc3", b"\xa9", b"\x00"]
    assert spell(SPM, "he<|im_end|>é\n") == [b" he", b"<|im_end|>", b" ", b"\xc3", b"\xa9", b"\n"]
    assert BPE.token_bytes(BPE.vocab_size) == b"" == BPE.token_bytes(-1)


def test_special_tokens_are_skipped_and_hand_made_ones_are_not() -> None:
    ids = BPE.encode("<|im_start|><think>he<|im_end|>")
    assert BPE.decode(ids) == "<think>he"
    assert BPE.decode(ids, skip_special=False) == "<|im_start|><think>he<|im_end|>"


@pytest.mark.parametrize("name", ["gpt-2", "deepseek-llm", "llama-bpe", "qwen2", "phi-3"])
@pytest.mark.parametrize("text", [" " * 300_000 + "x", "a" * 300_000, "\n \t" * 100_000, "'" * 300_000])
def test_hostile_text_costs_no_more_than_its_length(name: str, text: str) -> None:
    begun = time.process_time()
    real(name).encode(text, parse_special=False)
    assert time.process_time() - begun < 10.0


def test_encoding_leaves_other_threads_running() -> None:
    text, ticks, done = "hello world " * 60_000, 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    begun = time.perf_counter()
    BPE.encode(text)
    took = time.perf_counter() - begun
    done.set()
    thread.join()
    assert ticks > took * 20  # a held lock would let it tick about once


@pytest.mark.weights
def test_the_embedded_models_vocabulary(smollm2: Path) -> None:
    tokenizer = Tokenizer(gguf_vocabulary(GGUFFile(smollm2).metadata))
    assert tokenizer.vocab_size == 49152 and tokenizer.notes == ()
    assert tokenizer.encode("<|im_start|>user\nHi 123<|im_end|>") == [1, 4093, 198, 26843, 216, 33, 34, 35, 2]
