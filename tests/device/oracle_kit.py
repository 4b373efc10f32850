"""What the model proofs share: tiny random models of a family's architectures against transformers in float32, in `exact`
mode; and against themselves, bit for bit.

A file of proofs has its cases and two lines of fixtures:

    case, ops = oracle_kit.cases(CASES), oracle_kit.every_backend()

    def test_logits_equal_transformers_and_cuts_change_no_bit(case: Case, ops: Ops) -> None:
        oracle_kit.check_logits_and_cuts(case, ops)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.kernels.contract import Ops
from radixmill.device.loader import open_checkpoint
from radixmill.store.files import ModelFiles
from tests.device.model_kit import Driver, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 89,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
# Models of text and images, whose text half is looked at: how that says what it is.
VISION: Mapping[str, Mapping[str, Any]] = {"Gemma3": {}, "Mistral3": {"tie_word_embeddings": False}}
LENGTH = 29
COMPANY = (3, 17, 8)  # lengths of other sequences in the batch
WHOLE = [[LENGTH]]
CHUNKS = ([5, 11, 13], [8, 8, 8, 5], [1, 27, 1], [20, 1, 1, 7])  # pages are of 8
ONE_BY_ONE = [[1]] * LENGTH

Cases = Mapping[str, tuple[str, Mapping[str, Any]]]  # name → transformers' class, what differs from SMALL


class Case(NamedTuple):
    """A saved model, a prompt, and transformers' logits for it."""

    folder: Path
    ids: list[int]
    logits: np.ndarray


def backends() -> list[str]:
    return ["reference", *(["cpu"] if native_isa() else [])]


def every_backend() -> Any:
    """A fixture: Ops in `exact` mode."""

    @pytest.fixture(scope="module", params=backends())
    def ops(request: pytest.FixtureRequest) -> Ops:
        return open_backend(request.param, "exact", 2, native_isa())

    return ops


def cases(table: Cases) -> Any:
    """A fixture: a Case of each."""

    @pytest.fixture(scope="module", params=table)
    def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
        folder = tmp_path_factory.mktemp(request.param)
        model = make(*table[request.param])
        model.save_pretrained(folder)
        ids = np.random.default_rng(5).integers(0, SMALL["vocab_size"], LENGTH).tolist()
        with torch.no_grad():
            yield Case(folder, ids, model(torch.tensor([ids])).logits[0].numpy())

    return case


def check_logits_and_cuts(case: Case, ops: Ops) -> None:
    """Logits are transformers'; however the prompt is cut, their bits are the same."""
    driver = Driver(load(case.folder, ops))
    (whole,) = driver.run([case.ids], WHOLE)
    assert error(whole, case.logits) <= 1e-4
    for cut in CHUNKS:
        (chunked,) = driver.run([case.ids], [[n] for n in cut])
        assert np.array_equal(chunked, whole), cut
    (single,) = driver.run([case.ids], ONE_BY_ONE)
    assert np.array_equal(single, whole)


def check_company(case: Case, ops: Ops) -> None:
    """So they are whoever shares the batch."""
    driver = Driver(load(case.folder, ops))
    (alone,) = driver.run([case.ids], WHOLE)
    others = [np.random.default_rng(n).integers(0, SMALL["vocab_size"], n).tolist() for n in COMPANY]
    steps = [[1, 6, 4, 8], [1, 9, 4, 0], [1, 14, 0, 0], [0, 0, 9, 0]]
    together = driver.run([others[0], case.ids, others[1], others[2]], steps)
    assert np.array_equal(together[1], alone)


def make(name: str, more: Mapping[str, Any]) -> Any:
    """A model with random weights."""
    torch.manual_seed(11)
    numbers = {**SMALL, **more}
    if name in VISION:
        images = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
        tied = {key: numbers[key] for key in ("tie_word_embeddings",) if key in numbers}
        config = getattr(transformers, f"{name}Config")(
            text_config=numbers, vision_config=images, **{**VISION[name], **tied}
        )
        model = transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    else:
        config = getattr(transformers, f"{name}Config")(**numbers)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.25 if parameter.ndim >= 2 else 0.4
            parameter.add_(torch.randn_like(parameter) * spread)
        for name_, buffer in model.named_buffers():
            if name_.endswith("e_score_correction_bias"):
                buffer.add_(torch.randn_like(buffer) * 0.4)
    return model.eval().float()


def architecture(name: str) -> str:
    """What the config.json of a case says."""
    settings = getattr(transformers, f"{name}Config")
    kind = transformers.AutoModelForImageTextToText if name in VISION else transformers.AutoModelForCausalLM
    return str(kind._model_mapping[settings].__name__)


def load(folder: Path, ops: Ops) -> Any:
    checkpoint = open_checkpoint(ModelFiles(folder.name, folder))
    try:
        return build(checkpoint, ops)
    finally:
        checkpoint.close()


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
