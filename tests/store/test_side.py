"""End tokens and sampling advice, from folders and from GGUF metadata."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest

import radixmill.store
from radixmill.core.errors import BadModel
from radixmill.store import GGUFFile, ModelFiles, eos_ids, generation_defaults


def folder(path: Path, **contents: Any) -> ModelFiles:
    for name, value in contents.items():
        (path / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return ModelFiles("m", path)


def gguf_file(path: Path, tokens: list[str], control: set[int], **ids: int | float) -> ModelFiles:
    writer = gguf.GGUFWriter(path / "m.gguf", "llama")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in control else 1 for i in range(len(tokens))])
    for key, value in ids.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(key.replace("__", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return ModelFiles("m", path / "m.gguf")


@pytest.mark.parametrize(
    ("contents", "ends"),
    [
        ({"config": {"eos_token_id": 2}}, (2,)),
        ({"config": {"eos_token_id": 2}, "generation_config": {"eos_token_id": [9, 7]}}, (2, 7, 9)),
        ({"config": {"text_config": {"eos_token_id": 1}}, "generation_config": {"eos_token_id": [1, 106]}}, (1, 106)),
        ({"config": {"eos_token_id": None}}, ()),
        ({"config": {"eos_token_id": -1}}, ()),
        (
            {
                "config": {"eos_token_id": 0},
                "tokenizer_config": {
                    "eos_token": "<|im_end|>",
                    "added_tokens_decoder": {"5": {"content": "<|im_end|>"}},
                },
            },
            (0, 5),
        ),
        (
            {
                "config": {},
                "tokenizer_config": {"eos_token": {"content": "</s>"}},
                "tokenizer": {"added_tokens": [{"id": 3, "content": "</s>"}, {"id": 4, "content": "<s>"}]},
            },
            (3,),
        ),
    ],
)
def test_ends_of_a_folder(tmp_path: Path, contents: dict[str, Any], ends: tuple[int, ...]) -> None:
    assert eos_ids(folder(tmp_path, **contents)) == ends


def test_ends_of_a_gguf(tmp_path: Path) -> None:
    tokens = ["<|endoftext|>", "a", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "b"]
    files = gguf_file(tmp_path, tokens, {0, 2, 4}, tokenizer__ggml__eos_token_id=0, tokenizer__ggml__eot_token_id=5)
    # 3 looks like an end but is plain text in this vocabulary
    assert eos_ids(files) == eos_ids(files, GGUFFile(files.root)) == (0, 2, 4, 5)


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        (["<|endoftext|>", "<|end|>", "<|user|>"], (0, 1)),  # Phi
        (["<|endoftext|>", "<|return|>", "<|end|>", "<|call|>", "<|start|>"], (0, 1, 3)),  # gpt-oss
        (["[BOS]", "[EOS]", "<|im_end|>", "[EOT]", "<|im_user|>"], (1, 2, 3)),  # Kimi K2
    ],
)
def test_ends_of_families_that_have_several(tokens: list[str], ends: tuple[int, ...], tmp_path: Path) -> None:
    assert eos_ids(gguf_file(tmp_path, tokens, set(range(len(tokens))))) == ends


def test_ids_outside_the_vocabulary_are_dropped(tmp_path: Path) -> None:
    assert eos_ids(gguf_file(tmp_path, ["a", "b"], set(), tokenizer__ggml__eos_token_id=77)) == ()


def test_sampling_advice_of_a_folder(tmp_path: Path) -> None:
    advice = {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "do_sample": True,
        "eos_token_id": 1,
        "max_length": 20,
        "min_p": None,
    }
    files = folder(tmp_path, generation_config=advice)
    assert generation_defaults(files) == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    assert generation_defaults(folder(tmp_path, generation_config={"do_sample": False, "temperature": 0.6})) == {
        "temperature": 0.0
    }


def test_no_advice(tmp_path: Path) -> None:
    assert generation_defaults(ModelFiles("m", tmp_path)) == {}


def test_sampling_advice_of_a_gguf(tmp_path: Path) -> None:
    keys = {"general__sampling__temp": 0.5, "general__sampling__top_k": 40}
    files = gguf_file(tmp_path, ["a"], set(), **keys)
    assert generation_defaults(files) == {"temperature": 0.5, "top_k": 40}
    folder(tmp_path, generation_config={"temperature": 0.25})
    assert generation_defaults(files)["temperature"] == 0.25


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", "[" * 100_000])
def test_damaged_side_files(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadModel, match=r"generation_config\.json is not"):
        generation_defaults(folder(tmp_path, generation_config=text))


def test_the_door() -> None:
    assert radixmill.store.__all__ == [
        "GGUFFile",
        "ModelFiles",
        "cached",
        "eos_ids",
        "find",
        "generation_defaults",
        "pull",
    ]


def test_importing_the_store_is_cheap() -> None:
    heavy = ["numpy", "huggingface_hub", "tqdm", "torch", "gguf"]
    code = f"import sys, radixmill.store; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
