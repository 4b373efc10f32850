"""Every family served by scheduler and device together: whatever is reused, let go of, computed anew or preempted, every
answer has the same bits as that of the request alone."""

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
from radixmill.device.worker import detect
from radixmill.engine.schedule import Scheduler
from radixmill.store import ModelFiles
from tests.device import tiny_models
from tests.engine.fakes import lone_pages

PAGE, SLOTS, STEP = 4, 4, 16
ROOMY, TIGHT = 130, 32  # pages; the longest sequence needs 30
TOKENS = 20
# Name, and how pages keep what layers say: by whole numbers too, heads as well as latents.
SERVED = [*((name, "auto") for name in tiny_models.MODELS), ("gpt-oss", "int8"), ("youtu", "int8")]
Said = dict[int, list[tuple[int, TokenLogprob]]]


@pytest.fixture(params=SERVED, ids="-".join)
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> LocalExecutor:
    name, kv = request.param
    (tmp_path / "config.json").write_text(json.dumps(tiny_models.config(name, max_position_embeddings=128)))
    settings = Config(
        model=ModelOptions(load_format="dummy"),
        compute=ComputeOptions(threads=1),
        cache=CacheOptions(page_size=PAGE, max_total_tokens=9000 * PAGE, kv_cache_dtype=kv),
        schedule=ScheduleOptions(max_running_requests=SLOTS, step_tokens=STEP),
    )
    return open_executor(settings, ModelFiles(name, tmp_path), Hardware(1, 1 << 30, detect().isa))


def requests() -> list[Submit]:
    """Long prompts, forks of them, and what begins like others."""
    dice = Random(3)
    story, out = [dice.randrange(60) for _ in range(100)], []
    for turn in range(7):
        prompt = (*story[: dice.choice([20, 45, 70, 99])], turn)
        sampling = SamplingParams(max_tokens=TOKENS, temperature=1.0, logprobs=1)
        ids = (2 * turn, 2 * turn + 1)
        out.append(
            Submit(GenerateRequest(id="r", prompt=prompt, sampling=sampling), tuple(SeqStart(i, 70 + i) for i in ids))
        )
    return out


def serve(
    executor: LocalExecutor, coming: list[Submit], pages: int, window_pages: int, *, reuse: bool = True
) -> tuple[Said, Any]:
    """What each sequence says, where the scheduler knows of so many pages of each group."""
    full, *windows = executor.spec.kv_groups
    groups = (replace(full, pages=pages), *(replace(g, pages=window_pages) for g in windows))
    spec = replace(executor.spec, kv_groups=groups)
    options = ScheduleOptions(max_running_requests=SLOTS, step_tokens=STEP, step_seconds=1000.0, speculation="ngram")
    scheduler = Scheduler(spec, options, reuse)
    coming = list(coming)
    said: Said = {start.seq: [] for submit in coming for start in submit.seqs}
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


def lone(executor: LocalExecutor) -> Said:
    """What each sequence says with nobody beside it and nothing kept."""
    said: Said = {}
    for whole in requests():
        for start in whole.seqs:
            answer, counters = serve(executor, [replace(whole, seqs=(start,))], ROOMY, ROOMY, reuse=False)
            assert counters.reused_tokens == counters.preemptions == 0
            said |= answer
    return said


def test_same_bits_whatever_the_pools_hold(executor: LocalExecutor) -> None:
    expected = lone(executor)
    assert len(expected) == 14 and all(len(tokens) == TOKENS for tokens in expected.values())
    together, none = serve(executor, requests(), ROOMY, ROOMY, reuse=False)
    roomy, hits = serve(executor, requests(), ROOMY, ROOMY)
    windows = [group.window for group in executor.spec.kv_groups[1:] if group.window]
    least = lone_pages(max(windows, default=1), PAGE, STEP, SLOTS)
    pressed, preempted = serve(executor, requests(), TIGHT, least)
    assert together == roomy == pressed == expected
    assert none.reused_tokens == 0 < hits.reused_tokens and hits.computed_tokens < none.computed_tokens
    assert preempted.preemptions > 0 and preempted.reused_tokens > 0
    if windows:
        tight, fewer = serve(executor, requests(), ROOMY, least)
        assert tight == expected
        assert fewer.reused_tokens > 0 and hits.computed_tokens < fewer.computed_tokens
