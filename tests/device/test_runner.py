"""From plans to results without trained weights: batches, slots, pages, masks, start-up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixmill.core.config import CacheOptions, ComputeOptions, Config, Hardware, ModelOptions, ScheduleOptions
from radixmill.core.errors import BadModel, CannotStart
from radixmill.core.plan import LAST_SAMPLED, Admit, Masks, PageCopy, StepPlan
from radixmill.core.request import SamplingParams
from radixmill.device.executor import LocalExecutor, open_executor
from radixmill.device.kernels import native_isa
from radixmill.device.runner import build_batch
from radixmill.device.worker import cores, detect, free_bytes
from radixmill.store import ModelFiles
from tests.device.kernel_kit import arrays
from tests.device.model_kit import generate, page_table

PAGE = 4
TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "eos_token_id": 7,
}  # fmt: skip
HARDWARE = Hardware(cores=1, free_bytes=1 << 24, isa="")
GREEDY = SamplingParams(max_tokens=9, temperature=0.0)


def config(**cache: Any) -> Config:
    return Config(
        model=ModelOptions(load_format="dummy"),
        compute=ComputeOptions(compute="exact", backend="reference"),
        cache=CacheOptions(**{"page_size": PAGE, "max_total_tokens": 256, **cache}),
        schedule=ScheduleOptions(max_running_requests=4),
    )


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return ModelFiles("tiny", tmp_path)


@pytest.fixture
def executor(files: ModelFiles) -> LocalExecutor:
    return open_executor(config(), files, HARDWARE)


def plan(rows: list[tuple[int, int, list[int], bool]], pages: list[list[int]], **more: Any) -> StepPlan:
    """Rows of (slot, start, tokens, samples)."""
    return StepPlan(
        step=more.pop("step", 0),
        slots=np.array([r[0] for r in rows], np.int32),
        starts=np.array([r[1] for r in rows], np.int32),
        counts=np.array([len(r[2]) for r in rows], np.int32),
        tokens=np.array([t for r in rows for t in r[2]], np.int64),
        samples=np.array([r[3] for r in rows], np.bool_),
        pages=(page_table(pages),),
        **more,
    )


def admit(slot: int, prompt: list[int], sampling: SamplingParams = GREEDY) -> Admit:
    return Admit(slot, sampling, slot, tuple(prompt), (), frozenset())


ROW = st.tuples(
    st.integers(0, 30), st.lists(st.just(LAST_SAMPLED) | st.integers(0, 39), min_size=1, max_size=6), st.booleans()
)


@given(st.lists(ROW, min_size=1, max_size=5), st.booleans(), st.randoms(use_true_random=False))
def test_a_batch_says_for_each_token_what_the_plan_said(
    rows: list[tuple[int, list[int], bool]], guessing: bool, random: Any
) -> None:
    slots = random.sample(range(8), len(rows))
    last = np.arange(100, 108)
    guesses = [guessing and samples and random.randrange(len(tokens)) for _, tokens, samples in rows]
    given = plan([(s, *row) for s, row in zip(slots, rows, strict=True)], [[1]] * len(rows))
    given = replace(given, guesses=np.array(guesses, np.int32) if guessing else None)
    batch = build_batch(given, last, PAGE)
    ids, positions, wanted, starts = [], [], [], [0]
    for slot, (start, tokens, samples), extra in zip(slots, rows, guesses, strict=True):
        ids += [100 + slot if t == LAST_SAMPLED else t for t in tokens]
        positions += range(start, start + len(tokens))
        wanted += range(len(ids) - 1 - extra, len(ids)) if samples else []
        starts.append(len(ids))
    assert batch.ids.tolist() == ids
    assert batch.positions.tolist() == positions
    assert batch.wanted.tolist() == wanted
    assert batch.ragged[0].query_starts.tolist() == starts
    assert [a.dtype for a in (batch.ids, batch.positions, batch.wanted)] == [np.int64, np.int32, np.int32]
    assert batch.ragged[0].query_starts.dtype == np.int32


def test_company_chunks_and_slots_change_no_token(executor: LocalExecutor) -> None:
    prompts = [[1, 2, 3, 4, 5], [9, 8], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]]
    together = generate(executor, prompts, GREEDY, chunk=3)
    assert together == [generate(executor, [prompt], GREEDY)[0] for prompt in prompts]
    assert len({tuple(answer) for answer in together}) == 3


def test_the_devices_last_token_is_the_one_it_drew(executor: LocalExecutor) -> None:
    """Decoding with placeholders and with the tokens spelled out gives the same."""
    prompt, pages = [5, 6, 7], [[3, 1, 2]]
    first = executor.runner.step(plan([(2, 0, prompt, True)], pages, admits=(admit(2, prompt),))).tokens[0]
    blind = executor.runner.step(plan([(2, 3, [LAST_SAMPLED], True)], pages)).tokens[0]
    executor.runner.step(plan([(2, 0, prompt, True)], pages, admits=(admit(2, prompt),)))
    assert executor.runner.step(plan([(2, 3, [int(first)], True)], pages)).tokens[0] == blind


def test_a_copied_page_continues_like_its_source(executor: LocalExecutor) -> None:
    """Positions 0..5 are computed in pages 1 and 2; page 2's two are copied to page 9, for a fork in slot 1."""
    prompt = [1, 2, 3, 4, 5, 6]
    executor.runner.step(plan([(0, 0, prompt, True)], [[1, 2]], admits=(admit(0, prompt),)))
    fork = plan(
        [(0, 6, [30, 31], True), (1, 6, [33], True)],
        [[1, 2], [1, 9]],
        admits=(admit(1, [*prompt, 33]),),
        copies=(PageCopy(0, src=2, dst=9, tokens=2),),
    )
    forked = executor.runner.step(fork).tokens
    fresh = [generate(executor, [prompt + more], greedy(1))[0][0] for more in ([30, 31], [33])]
    assert forked.tolist() == fresh


def greedy(count: int) -> SamplingParams:
    return SamplingParams(max_tokens=count, temperature=0.0)


def test_only_rows_that_sample_get_a_token(executor: LocalExecutor) -> None:
    rows = [(0, 0, [1, 2], False), (1, 0, [3, 4], True), (2, 0, [5], False)]
    admits = tuple(admit(r[0], r[2], with_logprobs()) for r in rows)
    result = executor.runner.step(plan(rows, [[0], [1], [2]], step=17, admits=admits))
    assert result.step == 17
    assert [t == -1 for t in result.tokens] == [True, False, True]
    assert [p is None for p in result.logprobs] == [True, False, True]
    assert executor.runner.step(plan([(0, 2, [3], False)], [[0]])).tokens.tolist() == [-1]


def with_logprobs() -> SamplingParams:
    return SamplingParams(max_tokens=9, temperature=0.0, logprobs=2)


def test_masks_are_keyed_by_row_of_the_plan(executor: LocalExecutor) -> None:
    rows = [(0, 0, [1, 2], False), (1, 0, [3, 4], True), (2, 0, [5], True)]
    only = np.zeros(2, np.uint32)
    only[1] = 1 << 3  # token 35
    admits = tuple(admit(r[0], r[2]) for r in rows)
    free = executor.runner.step(plan(rows, [[0], [1], [2]], admits=admits))
    ticket = executor.launch(plan(rows, [[0], [1], [2]], admits=admits))
    ticket.sample(Masks({2: only}))
    assert ticket.result().tokens.tolist() == [-1, free.tokens[1], 35]
    assert ticket.result().seconds > 0
    assert executor.stats()["device_tokens"] == 5


def test_forced_tokens_are_computed_and_counted(executor: LocalExecutor) -> None:
    """A row whose grammar chose two tokens goes on like one that drew them: they stand in its KV, and count as output."""
    prompt, forced = [1, 2, 3], (30, 31)

    def after(stop: frozenset[int], told: tuple[tuple[int, tuple[int, ...]], ...]) -> tuple[int, int]:
        sampling = SamplingParams(max_tokens=9, min_tokens=3, temperature=0.0)
        card = Admit(0, sampling, 1, tuple(prompt), (), stop)
        first = int(executor.runner.step(plan([(0, 0, prompt, True)], [[0]], admits=(card,))).tokens[0])
        row = [(0, 3, [first, *forced], True)]
        return first, int(executor.runner.step(plan(row, [[0, 1]], forced=told)).tokens[0])

    first, favourite = after(frozenset(), ())
    fresh = generate(executor, [(*prompt, first, *forced)], greedy(1))[0][0]
    assert fresh == favourite != first
    assert after(frozenset({favourite}), ((0, forced),)) == (first, favourite)  # the fourth token may be a stop
    assert after(frozenset({favourite}), ())[1] != favourite  # as far as the sampler knows, it is the second


def test_a_token_is_drawn_for_the_position_where_it_will_stand(executor: LocalExecutor) -> None:
    """Random draws depend on the position: a prompt computed in two chunks draws as the whole one does."""
    warm = SamplingParams(max_tokens=12, temperature=2.0)
    prompt = [1, 2, 3, 4, 5, 6, 7]
    answers = {tuple(generate(executor, [prompt], warm, chunk=n)[0]) for n in (1, 3, 7)}
    assert len(answers) == 1
    resumed = (*prompt, *list(*answers)[:4])
    rest = generate(executor, [resumed], SamplingParams(max_tokens=8, temperature=2.0))[0]
    assert tuple(rest) == next(iter(answers))[4:]


def test_the_spec_says_what_was_opened(executor: LocalExecutor) -> None:
    spec = executor.spec
    assert (spec.name, spec.architecture, spec.vocab_size, spec.eos_ids) == ("tiny", "LlamaForCausalLM", 40, (7,))
    assert (spec.page_size, spec.slots, spec.context, spec.compute) == (PAGE, 4, 64, "exact")
    (group,) = spec.kv_groups
    assert (group.layers, group.pages, group.window) == ((0, 1), 64, None)
    assert group.bytes_per_token == 2 * 2 * 2 * 4 * 4  # layers, keys and values, heads, values of a head, bytes
    assert executor.stats()["kv_bytes"] == 64 * PAGE * group.bytes_per_token
    assert [name for name, _ in spec.phases] == ["open files", "pack weights", "allocate KV cache"]
    assert any("KV cache 64 pages" in note for note in spec.notes)


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_reads_every_weight_but_of_a_separate_embedding(tmp_path: Path, tied: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "tie_word_embeddings": tied}))
    executor = open_executor(config(), ModelFiles("tiny", tmp_path), HARDWARE)
    block = (16 + 8 + 8) * 16 + 16 * 16 + 3 * 24 * 16  # q, k, v; out; gate, up, down
    stats = executor.stats()
    assert stats["weight_bytes_per_token"] == 4 * (2 * block + 40 * 16)
    assert stats["products_per_token"] == 2 * block


@pytest.mark.parametrize("compute", ["fast", "exact"])
def test_int8_keys_and_values(files: ModelFiles, compute: str) -> None:
    """As the spec, the pool's size and the copies of pages have it; as invariant as any."""
    room = 64 * PAGE * 2 * 2 * 2 * (4 + 4)  # pages, layers, keys and values, heads, bytes of a head and its scale
    options = config(kv_cache_dtype="int8", kv_cache_bytes=room, max_total_tokens=None)
    executor = open_executor(replace(options, compute=replace(options.compute, compute=compute)), files, HARDWARE)
    spec = executor.spec
    assert (spec.kv_dtype, spec.compute, executor.config.cache.kv_cache_dtype) == ("int8", compute, "int8")
    assert spec.kv_groups[0].bytes_per_token * 64 * PAGE == room == executor.stats()["kv_bytes"]
    assert spec.kv_groups[0].pages == 64
    test_company_chunks_and_slots_change_no_token(executor)
    test_a_copied_page_continues_like_its_source(executor)


@pytest.mark.parametrize("size", [1, 100])
def test_a_pool_takes_no_more_than_it_may(files: ModelFiles, size: int) -> None:
    """Where neither pages nor heads fill whole vectors."""
    if not native_isa():
        pytest.skip("the compiled kernels are not installed")
    room = 1 << 20
    options = config(page_size=size, kv_cache_bytes=room, max_total_tokens=None)
    options = replace(options, compute=ComputeOptions(backend="cpu"))
    executor = open_executor(options, files, replace(HARDWARE, isa=native_isa()))
    taken = sum(array.nbytes for layer in executor.runner.kv.layers for array in arrays(layer))
    most, page = executor.spec.kv_bytes, executor.spec.kv_groups[0].bytes_per_token * size
    assert 0.99 * most < taken <= most == executor.stats()["kv_bytes"] <= room < most + page


def test_equal_numerics_ids_mean_equal_facts(files: ModelFiles, executor: LocalExecutor) -> None:
    def id_of(options: Config, hf: dict[str, Any] | None = None) -> str:
        (files.root / "config.json").write_text(json.dumps(hf or TINY))
        return open_executor(options, files, HARDWARE).spec.numerics

    mine, same = executor.spec.numerics, config()
    assert id_of(same) == mine
    assert id_of(config(max_total_tokens=128)) == mine
    assert id_of(replace(same, compute=replace(same.compute, threads=3))) == mine
    others = [
        id_of(config(page_size=8)),
        id_of(config(kv_cache_dtype="int8")),
        id_of(replace(same, compute=replace(same.compute, compute="fast"))),
        id_of(same, {**TINY, "rms_norm_eps": 1e-3}),
    ]
    assert len({mine, *others}) == 5
    assert id_of(config(kv_cache_dtype="f32")) == mine


@pytest.mark.parametrize(
    ("cache", "free", "words"),
    [
        ({"max_total_tokens": 1 << 30}, 1 << 24, "only 15 MiB of memory are free"),
        ({"max_total_tokens": 8}, 1 << 24, "too little memory for the KV cache"),
        ({"max_total_tokens": None}, 1 << 10, "too little memory for the KV cache"),
    ],
)
def test_too_little_memory_is_one_clear_line(files: ModelFiles, cache: Any, free: int, words: str) -> None:
    with pytest.raises(CannotStart, match=words) as error:
        open_executor(config(**cache), files, replace(HARDWARE, free_bytes=free))
    assert "\n" not in str(error.value)


def test_a_refused_allocation_is_one_clear_line(files: ModelFiles) -> None:
    """More than any machine maps, although `hardware` claims it is there."""
    with pytest.raises(CannotStart, match="KV cache needs"):
        open_executor(config(max_total_tokens=1 << 50), files, replace(HARDWARE, free_bytes=1 << 62))


def test_a_missing_backend_and_an_unknown_architecture_cannot_start(files: ModelFiles) -> None:
    wanted = config()
    with pytest.raises(CannotStart, match="compiled kernels"):
        open_executor(replace(wanted, compute=replace(wanted.compute, backend="cpu")), files, HARDWARE)
    (files.root / "config.json").write_text(json.dumps({**TINY, "architectures": ["BambooForCausalLM"]}))
    with pytest.raises(BadModel, match="BambooForCausalLM"):
        open_executor(wanted, files, HARDWARE)


def test_this_machine_has_something() -> None:
    found = detect()
    assert found.cores == cores() >= 1
    assert found.free_bytes > 1 << 20


def test_free_memory_is_the_least_that_any_limit_leaves(tmp_path: Path) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:  8000 kB\n")
    group.mkdir()
    assert free_bytes(meminfo, group, group / "none") == 8000 * 1024
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5000000\n")
    assert free_bytes(meminfo, group, group / "none") == 8000 * 1024
    (group / "memory.max").write_text("6000000\n")
    assert free_bytes(meminfo, group, group / "none") == 1_000_000
    (group / "memory.stat").write_text("anon 1\ninactive_file 400000\n")
    assert free_bytes(meminfo, group, group / "none") == 1_400_000
    (group / "memory.max").write_text("4000000\n")
    assert free_bytes(meminfo, group, group / "none") == 0


def test_free_memory_under_the_older_groups(tmp_path: Path) -> None:
    (tmp_path / "memory.limit_in_bytes").write_text("300\n")
    (tmp_path / "memory.usage_in_bytes").write_text("100\n")
    (tmp_path / "memory.stat").write_text("total_inactive_file 50\n")
    assert free_bytes(cgroup=tmp_path / "none", cgroup_v1=tmp_path) == 250
