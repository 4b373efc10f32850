"""Windows that no sequence fills: groups of pages that are not made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config, Hardware, ModelOptions
from radixmill.device.executor import open_executor
from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.models import family
from radixmill.device.worker import detect
from radixmill.store import ModelFiles
from tests.device.gguf_kit import CONFIGS

PAGE = 4
MODELS: dict[str, dict[str, Any]] = {  # mistral: no layer that forgets nothing
    "gemma3": CONFIGS["gemma3"],
    "mistral": {**CONFIGS["llama"], "architectures": ["MistralForCausalLM"], "sliding_window": 5},
}


@pytest.mark.parametrize(("name", "context", "windows"), [
    ("gemma3", 7, [None, 6]), ("gemma3", 6, [None]), ("mistral", 5, [None]), ("mistral", None, [None, 5]),
])  # fmt: skip
def test_windows_that_are_never_full_make_no_group(
    name: str, context: int | None, windows: list[int | None], tmp_path: Path
) -> None:
    opened = []
    for beside in (False, True):
        (tmp_path / "config.json").write_text(json.dumps(MODELS[name]))
        settings = Config(
            model=ModelOptions(load_format="dummy", context_length=context),
            compute=ComputeOptions(threads=1),
            cache=CacheOptions(page_size=PAGE, kv_cache_bytes=1 << 20),
        )
        files, hardware = ModelFiles(name, tmp_path), Hardware(1, 1 << 30, detect().isa)
        opened.append(open_executor(settings, files, hardware, beside=beside).spec)
    spec = opened[0]
    assert [group.window for group in spec.kv_groups] == windows
    assert sorted(i for group in spec.kv_groups for i in group.layers) == list(range(MODELS[name]["num_hidden_layers"]))
    assert sum(group.pages * group.bytes_per_token for group in spec.kv_groups) * PAGE <= 1 << 20
    assert opened[1].kv_groups == spec.kv_groups and opened[1].numerics == spec.numerics


@pytest.mark.parametrize("tokens", [5 * PAGE, 9 * PAGE, 10 * PAGE, 64 * PAGE])
def test_windows_that_are_never_full_take_no_context_away(tokens: int, tmp_path: Path) -> None:
    """Also where memory, not the settings, makes the context too short for them."""
    hf = {**MODELS["gemma3"], "sliding_window": 30}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    model: Any = family(hf).config.from_hf(hf)
    ops = open_backend("cpu" if native_isa() else "reference", "exact", 1, native_isa(), "f32")
    of_all = sum(ops.kv_bytes_per_token(model.kv(i), PAGE) for i in range(model.layers))
    settings = Config(
        model=ModelOptions(load_format="dummy"),
        compute=ComputeOptions(threads=1, compute="exact"),
        cache=CacheOptions(page_size=PAGE, kv_cache_dtype="f32", kv_cache_bytes=tokens * of_all),
    )
    spec = open_executor(settings, ModelFiles("m", tmp_path), Hardware(1, 1 << 30, detect().isa)).spec
    assert spec.context >= min(tokens - 2 * PAGE, 128)
    assert (len(spec.kv_groups) == 1) == (spec.context <= 30)


def test_the_numerics_id_does_not_depend_on_the_memory_there_is(tmp_path: Path) -> None:
    """A window is full at one context and never at another: the same bits, under the same id."""
    (tmp_path / "config.json").write_text(json.dumps(MODELS["gemma3"]))
    ids, groups = set(), set()
    for context in (6, 7):
        settings = Config(
            model=ModelOptions(load_format="dummy", context_length=context),
            compute=ComputeOptions(threads=1),
            cache=CacheOptions(page_size=PAGE, kv_cache_bytes=1 << 20),
        )
        spec = open_executor(settings, ModelFiles("m", tmp_path), Hardware(1, 1 << 30, detect().isa)).spec
        ids.add(spec.numerics)
        groups.add(len(spec.kv_groups))
    assert len(ids) == 1 and groups == {1, 2}
