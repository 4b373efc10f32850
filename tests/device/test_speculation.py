"""Guesses on a real device: scheduler, runner, kernels and sampler together say the same with and without, to the bit."""

from __future__ import annotations

import json
from collections import defaultdict
from random import Random
from typing import Any

import numpy as np
import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config, ModelOptions, ScheduleOptions
from radixmill.core.plan import NO_TOKEN, Admit, Masks
from radixmill.core.request import SamplingParams
from radixmill.device.executor import LocalExecutor, open_executor
from radixmill.device.sampling import Sampler
from radixmill.engine.schedule import Scheduler
from radixmill.store import ModelFiles
from tests.engine.fakes import Prophet, submit

VOCAB = 60
TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "eos_token_id": 7,
}  # fmt: skip
PROMPTS = [[1, 2, 3, 4, 5], [9, 8], [n * n % VOCAB for n in range(21)]]
WISHES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "seeded": {"temperature": 1.3, "top_p": 0.9},
    "penalties": {"temperature": 0.8, "repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.2},
    "min_tokens": {"temperature": 0.0, "min_tokens": 12, "stop_token_ids": tuple(range(0, VOCAB, 2))},
    "bias": {"temperature": 1.0, "logit_bias": ((3, 4.0), (11, 4.0)), "top_k": 4},
    "stops": {"temperature": 1.0, "stop_token_ids": tuple(range(0, VOCAB, 5))},
}


@pytest.fixture(scope="module", params=["reference-exact", "cpu-exact", "cpu-fast"])
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalExecutor:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(TINY))
    backend, compute = request.param.split("-")
    return open_executor(
        Config(
            model=ModelOptions(load_format="dummy"),
            compute=ComputeOptions(compute=compute, backend=backend, threads=2),
            cache=CacheOptions(page_size=4, max_total_tokens=512),
            schedule=ScheduleOptions(max_running_requests=4),
        ),
        ModelFiles("tiny", folder),
    )


def said(executor: LocalExecutor, wish: dict[str, Any], scheduler: Scheduler) -> dict[int, Any]:
    """Tokens, log-probabilities and end of each prompt."""
    for i, prompt in enumerate(PROMPTS):
        sampling = {"max_tokens": 40, "ignore_eos": True, "logprobs": 3, **wish}
        scheduler.submit("front", submit(prompt, i, seed=50 + i, **sampling))
    tokens, logprobs, ends = defaultdict(list), defaultdict(list), {}
    while not scheduler.idle:
        plan = scheduler.schedule()
        assert plan
        ticket = executor.launch(plan)
        ticket.sample(None)
        for _, delta in scheduler.commit(plan, ticket.result()):
            assert delta.seq not in ends and delta.at == len(tokens[delta.seq])
            assert len(delta.tokens) == len(delta.logprobs or ())
            tokens[delta.seq] += delta.tokens
            logprobs[delta.seq] += delta.logprobs or ()
            if delta.end:
                ends[delta.seq] = delta.end
        scheduler.cache.check()
    return {i: (tokens[i], logprobs[i], ends[i]) for i in range(len(PROMPTS))}


@pytest.mark.parametrize("name", WISHES)
@pytest.mark.parametrize("skill", [0.0, 0.7, 1.0])
def test_guesses_change_no_bit(executor: LocalExecutor, name: str, skill: float) -> None:
    options = ScheduleOptions(speculation="off", max_running_requests=4)
    plain = said(executor, WISHES[name], Scheduler(executor.spec, options))
    scheduler = Scheduler(executor.spec, options)
    scheduler.guesser = prophet = Prophet(Random(name), skill, 5)
    prophet.truths += [[*prompt, *plain[i][0]] for i, prompt in enumerate(PROMPTS)]
    assert said(executor, WISHES[name], scheduler) == plain
    counters = scheduler.counters
    assert counters.drafted >= counters.accepted and (counters.drafted > 20 or name == "stops")
    assert skill == 0.0 or counters.accepted > 0 or name == "stops"


def test_the_servers_own_guesses_change_no_bit(executor: LocalExecutor) -> None:
    wish = WISHES["bias"] | {"logit_bias": ((3, 9.0), (11, 9.0)), "max_tokens": 60}  # says little else than two tokens
    off, ngram = (ScheduleOptions(speculation=name, max_running_requests=4) for name in ("off", "ngram"))
    scheduler = Scheduler(executor.spec, ngram)
    assert said(executor, wish, scheduler) == said(executor, wish, Scheduler(executor.spec, off))
    assert scheduler.counters.drafted > scheduler.counters.accepted > 20


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_a_sampler_draws_a_run_as_it_draws_one_by_one(wish: dict[str, Any], masked: bool) -> None:
    """Rows of two slots side by side; one assumption of the first is wrong, all of the second are right."""
    params = SamplingParams(**{"max_tokens": 9, "logprobs": 2, **wish})
    logits = np.random.default_rng(3).normal(0, 3, (8, VOCAB)).astype(np.float32)
    cards = [
        Admit(slot, params, 40 + slot, (1, 2, 3), (4,), frozenset(wish.get("stop_token_ids", ()))) for slot in (1, 0)
    ]
    slots, positions = np.array([1] * 4 + [0] * 4, np.int32), np.array([4, 5, 6, 7] * 2)
    single, many = Sampler(VOCAB, 2), Sampler(VOCAB, 2)
    for card in cards:
        single.admit(card)
        many.admit(card)
    bits = np.random.default_rng(4).integers(0, 2**32, (8, -(-VOCAB // 32)), dtype=np.uint32)
    one = [
        single.sample(logits[r : r + 1], slots[r : r + 1], positions[r : r + 1], Masks({0: bits[r]} if masked else {}))
        for r in range(8)
    ]
    tokens = [int(drawn[0]) for drawn, _ in one]
    assumed = np.array([tokens[0], (tokens[1] + 1) % VOCAB, tokens[2], NO_TOKEN, *tokens[4:7], NO_TOKEN])
    drawn, logprobs = many.sample(logits, slots, positions, Masks(dict(enumerate(bits)) if masked else {}), assumed)
    assert drawn.tolist() == [*tokens[:2], NO_TOKEN, NO_TOKEN, *tokens[4:]]
    assert list(logprobs) == [*(p[0] for _, p in one[:2]), None, None, *(p[0] for _, p in one[4:])]
    assert many.last.tolist() == [tokens[7], tokens[1]]
    again = many.sample(logits[2:3], slots[2:3], positions[2:3], Masks({0: bits[2]} if masked else {}))
    assert (int(again[0][0]), again[1]) == (tokens[2], one[2][1])  # what was not drawn has left no trace


def test_rows_that_do_not_sample_sit_among_rows_with_guesses(executor: LocalExecutor) -> None:
    """A prompt in chunks beside streams with guesses: places of logits and of results do not get mixed up."""
    options = ScheduleOptions(speculation="off", max_running_requests=4, step_tokens=24)
    prompts = PROMPTS[:2] + [[n % VOCAB for n in range(100)]]
    answers = []
    for skill in (None, 0.8):
        scheduler = Scheduler(executor.spec, options)
        if skill:
            scheduler.guesser = prophet = Prophet(Random(1), skill, 4)
            prophet.truths += [[*p, *answers[0][i]] for i, p in enumerate(prompts)]
        answers.append(_late(executor, scheduler, prompts))
    assert answers[0] == answers[1] and scheduler.counters.accepted > 5


def _late(executor: LocalExecutor, scheduler: Scheduler, prompts: list[list[int]]) -> dict[int, list[int]]:
    """The last prompt comes when the others have begun. Tokens."""
    tokens: defaultdict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts[:-1]):
        scheduler.submit("front", submit(prompt, i, max_tokens=40, temperature=1.0))
    for turn in range(1000):
        if turn == 2:
            scheduler.submit("front", submit(prompts[-1], len(prompts) - 1, max_tokens=10, temperature=1.0))
        if turn > 2 and scheduler.idle:
            break
        plan = scheduler.schedule()
        assert plan
        ticket = executor.launch(plan)
        ticket.sample(None)
        for _, delta in scheduler.commit(plan, ticket.result()):
            tokens[delta.seq] += delta.tokens
    return dict(tokens)
