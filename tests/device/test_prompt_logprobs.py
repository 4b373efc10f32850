"""Log-probabilities of prompt tokens on a real device: scheduler, runner, kernels and sampler together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixmill.core.config import CacheOptions, ComputeOptions, Config, ModelOptions, ScheduleOptions
from radixmill.core.messages import TokenLogprob
from radixmill.device.executor import LocalExecutor, open_executor
from radixmill.engine.schedule import Scheduler
from radixmill.store import ModelFiles
from tests.engine.fakes import submit

VOCAB = 60
TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "eos_token_id": 7,
}  # fmt: skip
PROMPT = [n * n % VOCAB for n in range(100)]
OPTIONS = ScheduleOptions(speculation="off", max_running_requests=4)
Told = dict[int, tuple[list[int], list[TokenLogprob], tuple[TokenLogprob, ...] | None]]


def opened(folder: Path, backend: str, compute: str) -> LocalExecutor:
    return open_executor(
        Config(
            model=ModelOptions(load_format="dummy" if (folder / "dummy").exists() else "auto"),
            compute=ComputeOptions(compute=compute, backend=backend, threads=2),
            cache=CacheOptions(page_size=4, max_total_tokens=1024),
            schedule=OPTIONS,
        ),
        ModelFiles("tiny", folder),
    )


@pytest.fixture(scope="module", params=["reference-exact", "cpu-exact", "cpu-fast"])
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalExecutor:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(TINY))
    (folder / "dummy").touch()
    return opened(folder, *request.param.split("-"))


def told(executor: LocalExecutor, *messages: Any, scheduler: Scheduler | None = None, overlap: bool = False) -> Told:
    """Tokens, their log-probabilities and the prompt's, of each sequence."""
    scheduler = scheduler or Scheduler(executor.spec, OPTIONS)
    for message in messages:
        scheduler.submit("front", message)
    said: Told = {}
    flying = None
    while not scheduler.idle:
        plan = scheduler.schedule()
        ticket = executor.launch(plan) if plan else None
        deltas = scheduler.commit(flying[0], flying[1].result()) if flying else []
        if plan and ticket:
            ticket.sample(None)
        flying = (plan, ticket) if plan and ticket else None
        if flying and not overlap:
            deltas += scheduler.commit(flying[0], flying[1].result())
            flying = None
        for _, delta in deltas + scheduler.pending():
            tokens, logprobs, scores = said.get(delta.seq, ([], [], None))
            scores = delta.prompt_logprobs if scores is None else scores
            said[delta.seq] = [*tokens, *delta.tokens], [*logprobs, *(delta.logprobs or ())], scores
    return said


def test_a_prompt_is_scored_as_it_would_be_said(executor: LocalExecutor) -> None:
    """The log-probabilities of an output, and of the same tokens as part of a prompt, are equal to the bit."""
    wish = {"temperature": 0.0, "ignore_eos": True, "logprob_ids": (3, 50)}
    tokens, logprobs, _ = told(executor, submit(PROMPT[:20], 0, max_tokens=80, logprobs=3, **wish))[0]
    whole = submit([*PROMPT[:20], *tokens], 1, max_tokens=0, prompt_logprobs=3, prompt_logprobs_from=20, **wish)
    assert told(executor, whole)[1] == ([], [], tuple(logprobs))
    assert all(len(entry.top) == 3 and [id for id, _ in entry.named] == [3, 50] for entry in logprobs)
    assert all(dict(entry.top).get(id, value) == value for entry in logprobs for id, value in entry.named)


@pytest.mark.parametrize("overlap", [False, True])
def test_cuts_company_and_what_is_cached_change_no_bit(executor: LocalExecutor, overlap: bool) -> None:
    wish = {"prompt_logprobs": 2, "temperature": 1.0, "logprobs": 1}
    (alone,) = told(executor, submit(PROMPT, 0, max_tokens=5, **wish)).values()
    assert alone[2] and len(alone[2]) == 99
    for step_tokens in (1, 16, 40, 512):
        options = ScheduleOptions(speculation="off", max_running_requests=4, step_tokens=step_tokens)
        scheduler = Scheduler(executor.spec, options)
        others = [submit(PROMPT[n:], n, max_tokens=9, temperature=1.0, prompt_logprobs=n) for n in (1, 2)]
        together = told(executor, others[0], submit(PROMPT, 0, max_tokens=5, **wish), others[1], scheduler=scheduler,
                        overlap=overlap)  # fmt: skip
        assert together[0] == alone
        assert told(executor, submit(PROMPT, 0, max_tokens=5, **wish), scheduler=scheduler, overlap=overlap)[0] == alone
        later = submit(PROMPT, 0, max_tokens=5, prompt_logprobs_from=61, **wish)
        assert told(executor, later, scheduler=scheduler)[0] == (*alone[:2], alone[2][60:])
        assert scheduler.counters.reused_tokens >= 60


def test_rows_that_guess_sit_beside_rows_that_score(executor: LocalExecutor) -> None:
    ngram = ScheduleOptions(speculation="ngram", max_running_requests=4)
    loops = [submit([5, 6, 7] * 9, i, max_tokens=60, temperature=0.0, logprobs=1, ignore_eos=True) for i in (1, 2)]
    asked = submit(PROMPT, 0, max_tokens=3, prompt_logprobs=1)
    for options in (OPTIONS, ngram):
        scheduler = Scheduler(executor.spec, options)
        for message in loops:
            scheduler.submit("front", message)
        for _ in range(4):
            plan = scheduler.schedule()
            assert plan
            ticket = executor.launch(plan)
            ticket.sample(None)
            scheduler.commit(plan, ticket.result())
        said = told(executor, asked, scheduler=scheduler)
        assert said[0] == told(executor, asked)[0]
    assert scheduler.counters.drafted > 0


@pytest.mark.oracle
def test_equal_to_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(11)
    numbers = {k: v for k, v in TINY.items() if k != "architectures"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**numbers)).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        theirs = torch.log_softmax(model(torch.tensor([PROMPT])).logits[0].double(), -1).numpy()
    model.save_pretrained(tmp_path)
    ours = told(opened(tmp_path, "cpu", "exact"), submit(PROMPT, 0, max_tokens=0, prompt_logprobs=5, logprob_ids=(9,)))
    entries = ours[0][2]
    assert entries is not None and len(entries) == 99
    for at, entry in enumerate(entries):
        assert entry.logprob == pytest.approx(theirs[at, PROMPT[at + 1]], abs=2e-4)
        assert dict(entry.named)[9] == pytest.approx(theirs[at, 9], abs=2e-4)
        best = np.argsort(-theirs[at], kind="stable")[:5]
        assert [value for _, value in entry.top] == pytest.approx(theirs[at, best].tolist(), abs=2e-4)
