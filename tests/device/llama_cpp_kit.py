"""llama.cpp: its converters in a process of their own, its library through the bindings of llama-cpp-python.

RADIXMILL_LLAMA_CPP names a folder with the unpacked sdist of llama-cpp-python; RADIXMILL_LLAMA_LIB one with libllama.so,
built from the vendor/llama.cpp of that sdist (`cmake -DBUILD_SHARED_LIBS=ON …`, target llama; minutes).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CONVERT = Path(__file__).parent / "gguf_convert.py"


def source() -> Path:
    """The sdist. Skips where none is named."""
    if not (folder := os.environ.get("RADIXMILL_LLAMA_CPP")):
        pytest.skip("RADIXMILL_LLAMA_CPP does not name a folder with the unpacked sdist of llama-cpp-python")
    return Path(folder)


def convert(outtype: str, files: Mapping[Path, Path]) -> None:
    """Folder → GGUF file, for each."""
    pairs = [str(path) for pair in files.items() for path in pair]
    command = [sys.executable, str(CONVERT), str(source() / "vendor" / "llama.cpp"), outtype, *pairs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def library() -> Any:
    """The bindings' lowest layer. Skips where no library is named."""
    if not (folder := os.environ.get("RADIXMILL_LLAMA_LIB")):
        pytest.skip("RADIXMILL_LLAMA_LIB does not name a folder with libllama.so")
    os.environ["LLAMA_CPP_LIB_PATH"] = folder
    package = types.ModuleType("llama_cpp")  # without its __init__, which wants more packages than we need
    package.__path__ = [str(source() / "llama_cpp")]
    sys.modules.setdefault("llama_cpp", package)
    llama = importlib.import_module("llama_cpp.llama_cpp")
    llama.llama_backend_init()
    return llama


class Model:
    """A GGUF file in llama.cpp, in float32 throughout."""

    def __init__(self, llama: Any, path: Path) -> None:
        self.llama = llama
        model = llama.llama_model_default_params()
        model.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(str(path).encode(), model)
        assert self.model, f"llama.cpp does not load {path}"
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The likeliest tokens after a prompt, each prompt computed anew."""
        found = list(prompt)
        for _ in range(count):
            found.append(int(self.last(found).argmax()))
        return found[len(prompt) :]

    def last(self, ids: Sequence[int]) -> np.ndarray:
        """Logits of the token after `ids`, [V]."""
        llama, context = self.llama, self._context()
        batch = llama.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, i == len(ids) - 1
        assert llama.llama_decode(context, batch) == 0
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, len(ids) - 1), (self.vocab,)).copy()
        llama.llama_batch_free(batch)
        llama.llama_free(context)
        return logits

    def close(self) -> None:
        self.llama.llama_model_free(self.model)

    def _context(self) -> Any:
        params = self.llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 128
        params.n_threads = params.n_threads_batch = 1
        params.flash_attn_type = params.type_k = params.type_v = 0  # off; keys and values as float32
        context = self.llama.llama_init_from_model(self.model, params)
        assert context
        return context


def quiet(llama: Any) -> Any:
    """Its log goes nowhere; the result must live as long as the library is used."""
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    return silent
