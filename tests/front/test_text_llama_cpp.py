"""Pre-tokenizers against llama.cpp's own, where its library is given; see tests/device/llama_cpp_kit.py.

The vocabulary has a token for every two neighbouring bytes of the texts, so that each cut between two shows.
"""

from __future__ import annotations

import ctypes
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest

from radixmill.front.text import Tokenizer
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.front.text.pretokenize import RULES
from radixmill.front.text.spelling import ALPHABET
from radixmill.store import GGUFFile
from tests.device import llama_cpp_kit
from tests.front.text_kit import byte_level

pytestmark = pytest.mark.oracle

TEXTS = (
    "Hello, World! I'll say: \"don't\" — it's HIS, we'Ve THEY'RE 'S 'Tis",
    "12 345 6789 1234567 3.14159 0x1F 1,000,000 ½ ² ⅓ ٣٤ v1.2.3",
    "  two  spaces\t\ttabs \n\n lines\r\n\r\n   \n  end   ",
    "def f(x):\n    return x**2 + {a['k']}  # note\n\t/* c */ a->b; http://a.b/c?d=e&f=g\n//\n",
    "été naïve ÀÉÎ straße ǅ ﬀ é ŉ camelCase HTTPServer iOS McDonald",
    "我想在apple工作1314151天～ 日本語のテキスト、カタカナ。 한국어 ㄱㄴ ไทย हिन्दी עברית العربية",
    "нещо на Български Ελληνικά កាន់តែពិសេសអាច😁 🦙.cpp 👩‍👩‍👧 🇫🇷",
    "======= ------- '''''' ```` \"\"\"\" ..... !!!!?? ((())) <<>> __init__ @user #tag $5 50% ^~|",
    "",
    " ",
    "\n",
    "a",
)
# Where llama.cpp only comes near the pattern of the models' own tokenizer.json, which ours is: marks and title case.
ROUGH = frozenset(["gpt-4o", "kanana2", "kimi-k2", "llama4", "minimax-m2", "tekken", "tiny_aya"])
# Whose own tokenizer cuts digits one by one; llama.cpp takes them together, and finds no such token in its vocabulary.
APART = frozenset({"deepseek-llm"})


def _merges() -> list[str]:
    data = [text.encode() for text in TEXTS]
    pairs = dict.fromkeys((a, b) for text in data for a, b in pairwise(text))
    return [f"{ALPHABET[a]} {ALPHABET[b]}" for a, b in pairs]


@pytest.fixture(scope="module")
def llama() -> Any:
    library = llama_cpp_kit.library()
    library.silent = llama_cpp_kit.quiet(library)
    return library


@pytest.mark.parametrize("name", sorted(set(RULES) - APART))
def test_texts_are_cut_as_llama_cpp_cuts_them(name: str, llama: Any, tmp_path: Path) -> None:
    path = _file(tmp_path / "m.gguf", name)
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"llama.cpp does not load a vocabulary of {name}"
    vocab, ours = llama.llama_model_get_vocab(model), Tokenizer(gguf_vocabulary(GGUFFile(path).metadata))
    for text in TEXTS if name not in ROUGH else filter(str.isascii, TEXTS):
        assert ours.encode(text, add_special=False) == _ids(llama, vocab, text), text
    llama.llama_model_free(model)


def _ids(llama: Any, vocab: Any, text: str) -> list[int]:
    data, room = text.encode(), (ctypes.c_int32 * 4096)()
    count = llama.llama_tokenize(vocab, data, len(data), room, len(room), False, True)
    assert count >= 0
    return list(room[:count])


def _file(path: Path, pre: str) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    for key, value in byte_level(merges=_merges(), pre=pre).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
