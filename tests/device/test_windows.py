"""Models with windows, served by scheduler and device together: whatever is reused, let go of, computed anew or preempted,
every answer has the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from radixmill.core.config import CacheOptions, ComputeOptions, Config, Hardware, ModelOptions, ScheduleOptions
from radixmill.core.messages import SeqStart, Submit, TokenLogprob
from radixmill.core.request import GenerateRequest, SamplingParams
from radixmill.device.executor import LocalExecutor, open_executor
from radixmill.device.models import family
from radixmill.device.worker import detect
from radixmill.engine.schedule import Scheduler
from radixmill.store import ModelFiles
from tests.device.gguf_kit import CONFIGS
from tests.device.tiny_models import config
from tests.engine.fakes import lone_pages

PAGE, SLOTS, STEP = 4, 4, 16
MODELS: dict[str, dict[str, Any]] = {  # mistral: no layer that forgets nothing; gpt-oss: sinks
    "gemma3": CONFIGS["gemma3"],
    "mistral": {**CONFIGS["llama"], "architectures": ["MistralForCausalLM"], "sliding_window": 5},
    **{name: {**config(name), "max_position_embeddings": 128} for name in ("gpt-oss", "olmo3")},
}
Said = dict[int, list[tuple[int, TokenLogprob]]]


@pytest.fixture(params=MODELS)
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> LocalExecutor:
    (tmp_path / "config.json").write_text(json.dumps(MODELS[request.param]))
    settings = Config(
        model=ModelOptions(load_format="dummy"),
        compute=ComputeOptions(threads=1),
        cache=CacheOptions(page_size=PAGE, max_total_tokens=9000 * PAGE),
        schedule=ScheduleOptions(max_running_requests=SLOTS, step_tokens=STEP),
    )
    return open_executor(settings, ModelFiles(request.param, tmp_path), Hardware(1, 1 << 30, detect().isa))


def requests() -> list[Submit]:
    """Long prompts, forks of them, and what begins like others."""
    dice = Random(3)
    story, out = [dice.randrange(60) for _ in range(100)], []
    for turn in range(7):
        prompt = (*story[: dice.choice([20, 45, 70, 99])], turn)
        sampling = SamplingParams(max_tokens=12, temperature=0.8, logprobs=1)
        ids = (2 * turn, 2 * turn + 1)
        out.append(
            Submit(GenerateRequest(id="r", prompt=prompt, sampling=sampling), tuple(SeqStart(i, 70 + i) for i in ids))
        )
    return out


def serve(executor: LocalExecutor, pages: int, window_pages: int | None, *, reuse: bool = True) -> tuple[Said, Any]:
    """What each sequence says, where the scheduler knows of so many pages of each group."""
    full, *windows = executor.spec.kv_groups
    groups = (replace(full, pages=pages), *(replace(g, pages=window_pages or pages) for g in windows))
    spec = replace(executor.spec, kv_groups=groups)
    options = ScheduleOptions(max_running_requests=SLOTS, step_tokens=STEP, step_seconds=1000.0, speculation="ngram")
    scheduler = Scheduler(spec, options, reuse)
    coming, said = requests(), {id: [] for id in range(14)}
    while coming or not scheduler.idle:
        if coming:
            scheduler.submit("front", coming.pop(0))
        for _ in range(3):
            if plan := scheduler.schedule():
                ticket = executor.launch(plan)
                ticket.sample(scheduler.masks(plan))
                for _, delta in scheduler.commit(plan, ticket.result()):
                    said[delta.seq] += zip(delta.tokens, delta.logprobs or (), strict=True)
    scheduler.cache.check()
    return said, scheduler.counters


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
    of_all = sum(model.kv(i).nbytes("f32") for i in range(model.layers))
    settings = Config(
        model=ModelOptions(load_format="dummy"),
        compute=ComputeOptions(threads=1, compute="exact"),
        cache=CacheOptions(page_size=PAGE, kv_cache_dtype="f32", kv_cache_bytes=tokens * of_all),
    )
    spec = open_executor(settings, ModelFiles("m", tmp_path), Hardware(1, 1 << 30, detect().isa)).spec
    assert spec.context >= min(tokens - 2 * PAGE, 128)
    assert (len(spec.kv_groups) == 1) == (spec.context <= 30)


def test_same_bits_whatever_the_pools_hold(executor: LocalExecutor) -> None:
    (window,) = (group.window for group in executor.spec.kv_groups[1:])
    assert window
    least = lone_pages(window, PAGE, STEP, SLOTS)
    expected, alone = serve(executor, 130, None, reuse=False)
    assert all(len(tokens) == 12 for tokens in expected.values())
    roomy, hits = serve(executor, 130, None)
    tight, fewer = serve(executor, 130, least)
    pressed, preempted = serve(executor, 40, least)
    assert roomy == tight == pressed == expected
    assert alone.reused_tokens == 0 < fewer.reused_tokens and hits.computed_tokens < fewer.computed_tokens
    assert preempted.preemptions > 0
