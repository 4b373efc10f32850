"""Tiny random models of every family against transformers in float32, in `exact` mode; and against themselves, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.kernels.contract import Ops
from radixmill.device.loader import open_checkpoint
from radixmill.store.files import ModelFiles
from tests.device.model_kit import Driver, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

SMALL = {
    "vocab_size": 89,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6}
GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied-mha": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-mqa-head-dim-10": ("Llama", {"num_key_value_heads": 1, "head_dim": 10, "rms_norm_eps": 1e-3}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e3}}),
    "llama-llama3": ("Llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16, "rope_theta": 1e3}}),
    "llama-yarn": ("Llama", {"rope_parameters": {**YARN, "rope_theta": 1e4}}),
    "llama-yarn-whole": (
        "Llama",
        {"rope_parameters": {**YARN, "rope_theta": 1e2, "attention_factor": 1.3, "beta_fast": 8.0, "truncate": False}},
    ),
    "llama-yarn-mscale": ("Llama", {"rope_parameters": {**YARN, "rope_theta": 1e4, "mscale": 0.7, "mscale_all_dim": 1.1}}),
    "mistral-window": ("Mistral", {"sliding_window": 7}),
    "mistral-no-window": ("Mistral", {"sliding_window": None, "head_dim": 12}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-upper-windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": {**YARN, "rope_theta": 1e4}}),
    "qwen3": ("Qwen3", {"head_dim": 12}),
    "qwen3-bias-tied": ("Qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2-no-caps": ("Gemma2", {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("Gemma3Text", {**GEMMA, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "gemma3-ropes": (
        "Gemma3Text",
        {**GEMMA, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4, "rope_parameters": GEMMA3_ROPES},
    ),
    "gemma3-softcap": ("Gemma3Text", {**GEMMA, "final_logit_softcapping": 2.0, "tie_word_embeddings": False}),
    "gemma3-vision": ("Gemma3", {**GEMMA}),
}  # fmt: skip

LENGTH = 29
COMPANY = (3, 17, 8)  # lengths of other sequences in the batch
WHOLE = [[LENGTH]]
CHUNKS = ([5, 11, 13], [8, 8, 8, 5], [1, 27, 1], [20, 1, 1, 7])  # pages are of 8
ONE_BY_ONE = [[1]] * LENGTH


def backends() -> list[str]:
    return ["reference", *(["cpu"] if native_isa() else [])]


@pytest.fixture(scope="module", params=backends())
def ops(request: pytest.FixtureRequest) -> Ops:
    return open_backend(request.param, "exact", 2, native_isa())


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[int], np.ndarray]]:
    """A saved model, a prompt, and transformers' logits for it."""
    folder = tmp_path_factory.mktemp(request.param)
    model = _model(*CASES[request.param])
    model.save_pretrained(folder)
    ids = np.random.default_rng(5).integers(0, SMALL["vocab_size"], LENGTH).tolist()
    with torch.no_grad():
        yield folder, ids, model(torch.tensor([ids])).logits[0].numpy()


def _model(name: str, more: dict[str, Any]) -> Any:
    torch.manual_seed(11)
    numbers = {**SMALL, **more}
    if name == "Gemma3":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
        config = transformers.Gemma3Config(text_config=numbers, vision_config=vision)
        model = transformers.Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager")
    else:
        config = getattr(transformers, f"{name}Config")(**numbers)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.25 if parameter.ndim == 2 else 0.4
            parameter.add_(torch.randn_like(parameter) * spread)
    return model.eval().float()


def _load(folder: Path, ops: Ops) -> Any:
    checkpoint = open_checkpoint(ModelFiles(folder.name, folder))
    try:
        return build(checkpoint, ops)
    finally:
        checkpoint.close()


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_logits_equal_transformers_and_cuts_change_no_bit(case: tuple[Path, list[int], np.ndarray], ops: Ops) -> None:
    folder, ids, theirs = case
    driver = Driver(_load(folder, ops))
    (whole,) = driver.run([ids], WHOLE)
    assert _error(whole, theirs) <= 1e-4
    for cut in CHUNKS:
        (chunked,) = driver.run([ids], [[n] for n in cut])
        assert np.array_equal(chunked, whole), cut
    (single,) = driver.run([ids], ONE_BY_ONE)
    assert np.array_equal(single, whole)


def test_company_changes_no_bit(case: tuple[Path, list[int], np.ndarray], ops: Ops) -> None:
    folder, ids, _ = case
    driver = Driver(_load(folder, ops))
    (alone,) = driver.run([ids], WHOLE)
    others = [np.random.default_rng(n).integers(0, SMALL["vocab_size"], n).tolist() for n in COMPANY]
    steps = [[1, 6, 4, 8], [1, 9, 4, 0], [1, 14, 0, 0], [0, 0, 9, 0]]
    together = driver.run([others[0], ids, others[1], others[2]], steps)
    assert np.array_equal(together[1], alone)


def test_old_style_configs_mean_the_same(tmp_path: Path, ops: Ops) -> None:
    """rope_theta and rope_scaling at the top level, as files written before rope_parameters have them."""
    model = _model(*CASES["llama-llama3"])
    model.save_pretrained(tmp_path)
    ids = list(range(20))
    (new,) = Driver(_load(tmp_path, ops)).run([ids], [[20]])
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (old,) = Driver(_load(tmp_path, ops)).run([ids], [[20]])
    assert np.array_equal(new, old)
