"""Tiny checkpoints of transformers, converted by llama.cpp's own converters: the same logits, the same text as llama.cpp's.

Needs RADIXMILL_LLAMA_CPP; and RADIXMILL_LLAMA_LIB for the text. See llama_cpp_kit.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.kernels.contract import Ops
from radixmill.device.loader import open_checkpoint
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.front.text.tokenizer import Tokenizer
from radixmill.store import GGUFFile, ModelFiles
from tests.device import llama_cpp_kit
from tests.device.gguf_cases import CONFIGS, transformers_name, words
from tests.device.gguf_kit import write_gguf
from tests.device.model_kit import Driver, build
from tests.device.test_gguf_facts import FACTS, facts

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.oracle, pytest.mark.slow]

LENGTH, MORE = 40, 12
IDS = np.random.default_rng(5).integers(0, 262, LENGTH).tolist()
# What configurations of the hub say, and transformers' classes don't.
HUB = ("scoring_func", "rotary_dim")
# Where llama.cpp itself is not transformers.
APART = {
    "deepseek2": "it ranks groups of experts by their best two, as DeepSeek-V3 does",
    "deepseek2-lite": "it takes models without a latent of queries for V2-Lite by their 27 layers alone",
    "command-r-norms": "it expects norms of heads in models of 64 layers and more alone",
    "exaone4": "it expects windows in models of 64 layers alone",
    "gpt-oss": "it rounds YaRN's ramp to whole dimensions, and this family's is not",
    "phi3-window": "it leaves Phi-3's window out",
}


class Made:
    """Of each case a folder, transformers' logits of IDS, and what was converted of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.logits = root, {name: _save(root / _plain(name), CONFIGS[name]) for name in CONFIGS}
        for outtype in ("f32", "bf16"):
            llama_cpp_kit.convert(outtype, {self.folder(name): self.file(name, outtype) for name in CONFIGS})

    def folder(self, name: str) -> Path:
        return self.root / _plain(name)

    def file(self, name: str, outtype: str = "f32") -> Path:
        return self.root / f"{_plain(name)}-{outtype}.gguf"


def _plain(name: str) -> str:
    """llama.cpp looks for names of vendors in a model's name, and then for their tokens."""
    return f"tiny-{list(CONFIGS).index(name)}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    llama_cpp_kit.source()
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def ops() -> Ops:
    isa = native_isa()
    return open_backend("cpu" if isa else "reference", "exact", 1, isa)


@pytest.fixture(scope="module")
def llama() -> Any:
    library = llama_cpp_kit.library()
    library.silent = llama_cpp_kit.quiet(library)
    return library


def _save(folder: Path, config: dict[str, Any]) -> np.ndarray:
    """Weights that bfloat16 holds, so that each outtype keeps them."""
    torch.manual_seed(11)
    settings = getattr(transformers, f"{transformers_name(config)}Config")(**words(config))
    model = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="eager").eval().float()
    with torch.no_grad():
        biases = [b for name, b in model.named_buffers() if "e_score_correction" in name]
        for values in (*model.parameters(), *biases):
            values.add_(torch.randn_like(values) * (0.2 if values.ndim >= 2 else 0.3))
            values.copy_(values.bfloat16())
        logits = model(torch.tensor([IDS])).logits[0].numpy()
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, **{k: config[k] for k in HUB if k in config}}))
    return logits


def _tokenizer() -> Any:
    """Bytes, six merges, two special tokens."""
    from tokenizers import Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel

    vocabulary = {char: i for i, char in enumerate(sorted(ByteLevel.alphabet()))}
    merges = [("h", "e"), ("t", "he"), ("i", "n"), ("Ġ", "the"), ("a", "n"), ("e", "r")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    engine = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    engine.pre_tokenizer, engine.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=engine,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        additional_special_tokens=["<|user|>"],
    )


def loaded(path: Path, ops: Ops) -> Driver:
    return Driver(build(open_checkpoint(ModelFiles("m", path)), ops, 128))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_recorded_headers_are_the_converters_own(name: str, made: Made) -> None:
    assert facts(made.file(name)) == json.loads(FACTS.read_text())[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_kit_writes_the_bytes_that_the_converters_write(name: str, made: Made, tmp_path: Path) -> None:
    folder = open_checkpoint(ModelFiles("m", made.folder(name)))
    wide = {name: folder.stored(name).data for name in folder.names if _is_matrix(folder, name)}
    tensors = {**wide, **{name: folder.vector(name) for name in folder.names - set(wide)}}
    ours = GGUFFile(write_gguf(tmp_path / "m.gguf", CONFIGS[name], tensors))
    theirs = GGUFFile(made.file(name))
    assert set(ours.tensors) == set(theirs.tensors)
    for tensor in theirs.tensors:
        np.testing.assert_array_equal(ours.data(tensor), theirs.data(tensor), tensor)


def _is_matrix(checkpoint: Any, name: str) -> bool:
    shape = next((len(tensor.shape) for tensor in checkpoint.lying() if tensor.name == name), None)
    return shape == 2 if shape else not name.endswith((".bias", "_bias"))


@pytest.mark.parametrize("outtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name: str, outtype: str, made: Made, ops: Ops) -> None:
    theirs = made.logits[name]
    (ours,) = loaded(made.file(name, outtype), ops).run([IDS], [[LENGTH]])
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in APART])
def test_text_is_that_of_llama_cpp(name: str, made: Made, ops: Ops, llama: Any) -> None:
    model = llama_cpp_kit.Model(llama, made.file(name))
    theirs = model.greedy(IDS, MORE)
    model.close()
    driver, ids = loaded(made.file(name), ops), list(IDS)
    for _ in range(MORE):
        (logits,) = driver.run([ids], [[len(ids)]])
        ids.append(int(logits[-1].argmax()))
    assert ids[LENGTH:] == theirs


def test_mxfp4_experts_are_the_same_blocks_in_both_formats(made: Made, tmp_path: Path) -> None:
    """gpt-oss as it is published: the converters bring its nibbles into GGML's order, and so do we."""
    packed, file = _packed(made.folder("gpt-oss"), tmp_path / "tiny"), tmp_path / "m.gguf"
    llama_cpp_kit.convert("f32", {packed: file})
    folder, gguf_file = (open_checkpoint(ModelFiles("m", path)) for path in (packed, file))
    assert folder.names == gguf_file.names
    experts = [name for name in folder.names if ".experts." in name and name.endswith(".weight")]
    assert len(experts) == 4 * 6 * 3
    for name in experts:
        one, two = folder.stored(name), gguf_file.stored(name)
        assert one.kind == two.kind == "MXFP4"
        np.testing.assert_array_equal(one.data, two.data)


def _packed(source: Path, folder: Path) -> Path:
    """A copy whose experts are random blocks."""
    shutil.copytree(source, folder)
    draw, tensors = np.random.default_rng(3), load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith((".gate_up_proj", ".down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = draw.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8)
        tensors[f"{name}_scales"] = draw.integers(120, 130, (experts, outputs, inputs // 32), np.uint8)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    return folder


def test_the_vocabulary_that_the_converters_write_is_read(made: Made) -> None:
    text = "the inner and the other\n\n 3 herons"
    ours = Tokenizer(gguf_vocabulary(GGUFFile(made.file("qwen3")).metadata)).encode(text)
    assert ours == _tokenizer().encode(text)
