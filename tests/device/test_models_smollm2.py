"""The embedded model: its words against transformers on the same dequantised weights; `fast` against `exact`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config
from radixmill.core.request import SamplingParams
from radixmill.device.executor import LocalExecutor, open_executor
from radixmill.device.loader import open_checkpoint
from radixmill.device.quant import widen
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.front.text.tokenizer import Tokenizer
from radixmill.store import GGUFFile, ModelFiles
from tests.device.model_kit import TEXT, generate, perplexity

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.oracle, pytest.mark.weights]

PROMPTS = (
    "The capital of France is",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the sea,",
    "1, 2, 3, 5, 8, 13,",
    "Water boils at",
    "<|im_start|>user\nWrite a haiku about rain.<|im_end|>\n<|im_start|>assistant\n",
    "Dear Sir or Madam,\n\nI am writing to",
)
TOKENS = 64


@pytest.fixture(scope="module")
def files(smollm2: Path) -> ModelFiles:
    return ModelFiles("smollm2", smollm2)


@pytest.fixture(scope="module")
def tokenizer(files: ModelFiles) -> Tokenizer:
    return Tokenizer(gguf_vocabulary(GGUFFile(files.root).metadata))


@pytest.fixture(scope="module")
def exact(files: ModelFiles) -> LocalExecutor:
    return _open(files, "exact")


def _open(files: ModelFiles, compute: str, kv: str = "auto") -> LocalExecutor:
    cache = CacheOptions(max_total_tokens=4096, kv_cache_dtype=kv)
    return open_executor(Config(compute=ComputeOptions(compute=compute), cache=cache), files)


@pytest.fixture(scope="module")
def oracle(files: ModelFiles) -> Any:
    """transformers' Llama in float32 over the file's dequantised weights."""
    checkpoint = open_checkpoint(files)
    config = transformers.LlamaConfig(**{k: v for k, v in checkpoint.config.items() if k != "architectures"})
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager")
    vectors = {name for name in checkpoint.names if "norm" in name}
    values = {
        name: checkpoint.vector(name) if name in vectors else widen(checkpoint.stored(name)).data
        for name in checkpoint.names
    }
    values["lm_head.weight"] = values["model.embed_tokens.weight"]
    model.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in values.items()}, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are not in the file
    checkpoint.close()
    return model.eval()


def test_64_greedy_tokens_on_8_prompts_equal_transformers(
    exact: LocalExecutor, tokenizer: Tokenizer, oracle: Any
) -> None:
    """One pass over prompt and answer is enough: if each token is the oracle's most likely one, so is the whole answer."""
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    answers = generate(exact, prompts, SamplingParams(max_tokens=TOKENS, temperature=0.0), chunk=7)
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = oracle(torch.tensor([prompt + answer[:-1]])).logits[0]
        assert logits.argmax(-1)[len(prompt) - 1 :].tolist() == answer


@pytest.mark.parametrize("kv", ["f16", "int8"])
def test_perplexity_of_fast_is_within_one_percent_of_exact(
    exact: LocalExecutor, files: ModelFiles, tokenizer: Tokenizer, kv: str
) -> None:
    ids = tokenizer.encode(TEXT)
    assert len(ids) >= 250
    reference = perplexity(exact.runner.model, ids)
    assert 2 < reference < 60, "the text is not what this model was made for, or the model is broken"
    assert abs(perplexity(_open(files, "fast", kv).runner.model, ids) / reference - 1) < 0.01
