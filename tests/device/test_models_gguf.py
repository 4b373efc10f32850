"""A GGUF file of the user's, of mixed kinds (Q4_K_M and the like), named by RADIXMILL_TEST_GGUF: packed as it is, and sane."""

from __future__ import annotations

from pathlib import Path

import pytest

from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.kernels.contract import Mode
from radixmill.device.layers import Build
from radixmill.device.loader import open_checkpoint
from radixmill.device.models import Decoder, family
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.front.text.tokenizer import Tokenizer
from radixmill.llm import LLM, Params
from radixmill.store import GGUFFile, ModelFiles
from tests.device.model_kit import TEXT, perplexity

pytestmark = [pytest.mark.weights]


def build(path: Path, mode: Mode) -> tuple[Decoder, Build]:
    if not (isa := native_isa()):
        pytest.skip("the compiled kernels are not installed")
    checkpoint = open_checkpoint(ModelFiles("other", path))
    kind = family(checkpoint.config)
    builder = Build(open_backend("cpu", mode, 2, isa), checkpoint, 1024)
    return Decoder(builder, kind, kind.config.from_hf(checkpoint.config), checkpoint.names), builder


def test_nothing_is_widened_and_fast_is_as_good_as_exact(other_gguf: Path) -> None:
    ids = Tokenizer(gguf_vocabulary(GGUFFile(other_gguf).metadata)).encode(TEXT)
    exact, builder = build(other_gguf, "exact")
    assert builder.notes == ()
    assert builder.nbytes <= 1.1 * other_gguf.stat().st_size
    reference = perplexity(exact, ids)
    assert 2 < reference < 200, "the model is broken"
    fast, _ = build(other_gguf, "fast")
    assert abs(perplexity(fast, ids) / reference - 1) < 0.01


def test_it_answers(other_gguf: Path) -> None:
    with LLM(str(other_gguf)) as llm:
        question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
        (answer,) = llm.chat(question, Params(temperature=0.0, max_tokens=12))
        assert "Paris" in answer.choices[0].text
