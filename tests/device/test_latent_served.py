"""Models of latent attention, served by scheduler and device together: whatever is reused, copied or preempted, every answer
has the same bits; and what a token keeps is as small as it should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config, Hardware, ModelOptions, ScheduleOptions
from radixmill.device.executor import LocalExecutor, open_executor
from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.models import family
from radixmill.device.worker import detect
from radixmill.store import ModelFiles
from tests.device import tiny_models
from tests.device.test_models import CONFIGS
from tests.device.test_windows import PAGE, SLOTS, STEP, serve


@pytest.fixture(params=[("deepseek-v3", "auto"), ("youtu", "int8")], ids="-".join)
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> LocalExecutor:
    name, kv = request.param
    whole = {**tiny_models.config(name), "vocab_size": 96, "max_position_embeddings": 256}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    config = Config(
        model=ModelOptions(load_format="dummy"),
        compute=ComputeOptions(threads=1),
        cache=CacheOptions(page_size=PAGE, max_total_tokens=400 * PAGE, kv_cache_dtype=kv),
        schedule=ScheduleOptions(max_running_requests=SLOTS, step_tokens=STEP),
    )
    return open_executor(config, ModelFiles(name, tmp_path), Hardware(1, 1 << 30, detect().isa))


def test_same_bits_whatever_the_pool_holds(executor: LocalExecutor) -> None:
    expected, alone = serve(executor, 130, None, reuse=False)
    assert all(len(tokens) == 12 for tokens in expected.values())
    roomy, hits = serve(executor, 130, None)
    pressed, preempted = serve(executor, 32, None)
    assert roomy == pressed == expected
    assert alone.reused_tokens == 0 < hits.reused_tokens
    assert preempted.preemptions > 0


@pytest.mark.skipif(not native_isa(), reason="the compiled kernels are not installed")
@pytest.mark.parametrize("name", ["DeepSeek-V2", "DeepSeek-V2-Lite", "DeepSeek-V3", "Kimi-K2-Instruct"])
def test_what_a_token_keeps_in_a_layer(name: str) -> None:
    """One latent and what turns, once, for all heads."""
    config = family(CONFIGS[name]).config.from_hf(CONFIGS[name])
    shape = config.kv(config.layers - 1)
    for kv, nbytes in (("f16", 2 * (512 + 64)), ("f32", 4 * (512 + 64)), ("int8", 512 + 64 + 4)):
        ops = open_backend("cpu", "fast", 1, native_isa(), kv)  # type: ignore[arg-type]
        assert shape.nbytes(kv) == nbytes == ops.kv_bytes_per_token(shape, 64)  # type: ignore[arg-type]
