"""The offline LLM: the same waist as the server, and the same bytes, also when its engine is killed."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from radixmill.core.errors import BadRequest, CannotStart
from radixmill.llm import LLM, Params

SETTINGS = {"load_format": "dummy", "max_total_tokens": 16384}


@pytest.fixture(scope="module")
def llm(tiny: Path) -> object:
    with LLM(str(tiny), **SETTINGS) as opened:
        yield opened


def test_answers_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = [f"number {i} " * (1 + i % 5) for i in range(20)]
    together = llm.generate(prompts, Params(max_tokens=12, seed=3, ignore_eos=True), progress=False)
    alone = [llm.generate(p, Params(max_tokens=12, seed=3, ignore_eos=True), progress=False)[0] for p in prompts]
    assert [a.choices for a in together] == [a.choices for a in alone]
    assert all(len(a.choices[0].token_ids) == 12 and a.choices[0].finish_reason == "length" for a in together)


def test_each_prompt_may_have_its_own_wishes(llm: LLM) -> None:
    one, two = llm.generate(
        ["a", [5, 6, 7]],
        [
            Params(max_tokens=2, temperature=0, logprobs=3, ignore_eos=True),
            Params(max_tokens=5, n=3, seed=1, ignore_eos=True),
        ],
        progress=False,
    )
    assert len(one.choices) == 1 and len(one.choices[0].logprobs or []) == 2
    assert all(len(top) == 3 for _, top in one.choices[0].logprobs or [])
    assert two.prompt_token_ids == (5, 6, 7) and len(two.choices) == 3 and two.seed == 1
    assert len({tuple(choice.token_ids) for choice in two.choices}) > 1


def test_a_progress_bar_is_shown(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"], Params(max_tokens=2))
    assert "2/2" in capsys.readouterr().err


def test_what_cannot_be_asked_is_an_error_and_the_llm_goes_on(llm: LLM) -> None:
    with pytest.raises(BadRequest, match="4096"):
        llm.generate("x" * 5000, progress=False)
    with pytest.raises(ValueError, match="2 prompts, but 1 params"):
        llm.generate(["a", "b"], [Params()], progress=False)
    assert llm.generate("a", Params(max_tokens=1), progress=False)


def test_its_engine_may_be_killed(llm: LLM) -> None:
    prompts = [f"prompt {i}" for i in range(8)]
    wish = Params(max_tokens=150, seed=9, ignore_eos=True)
    undisturbed = llm.generate(prompts, wish, progress=False)
    victim = llm.engine_pid
    assert victim is not None
    killer = threading.Thread(target=lambda: (time.sleep(0.15), os.kill(victim, signal.SIGKILL)))
    killer.start()
    disturbed = llm.generate(prompts, wish, progress=False)
    killer.join()
    assert [a.choices for a in disturbed] == [a.choices for a in undisturbed]
    assert llm.generate("after", wish, progress=False) and llm.engine_pid not in (None, victim)


def test_threads_and_the_size_of_steps_change_nothing(tiny: Path) -> None:
    prompts = [f"number {i} " * (1 + 7 * i) for i in range(6)]
    wish = Params(max_tokens=20, temperature=0.9, seed=3, ignore_eos=True, logprobs=2)
    said = []
    for settings in ({"threads": 1}, {"threads": 2}, {"threads": 3, "step_tokens": 24}):
        with LLM(str(tiny), **SETTINGS, **settings) as llm:
            said.append([answer.choices for answer in llm.generate(prompts, wish, progress=False)])
    assert said[0] == said[1] == said[2]


@pytest.mark.weights
def test_preempted_sequences_say_what_they_would_have_said(smollm2: Path) -> None:
    """Five that do not fit together: some lose their KV and compute it again, to the same ids and log-probabilities. What a
    grammar binds goes on where its matcher was."""
    places = ("Here", "There", "Long ago", "Never", "Where")
    prompts = [f"{place} were the old mills by the river, and" for place in places]
    free = Params(max_tokens=120, temperature=0.8, seed=4, ignore_eos=True, logprobs=1)
    numbers = {
        "type": "array",
        "items": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    }
    bound = replace(free, json_schema={**numbers, "minItems": 30}, ignore_eos=False)
    worded = replace(free, regex="([a-z]{2,9} ){60}", ignore_eos=False)
    wish = [bound, free, worded, bound, free]
    with LLM("smollm2-135m-instruct", max_total_tokens=8192, page_size=16) as roomy:
        alone = [roomy.generate(*each, progress=False)[0].choices for each in zip(prompts, wish, strict=True)]
    with LLM("smollm2-135m-instruct", max_total_tokens=304, context_length=200, page_size=16) as tight:
        tight.generate(prompts[0], [replace(bound, max_tokens=1)], progress=False)  # builds the grammars, so that all
        tight.generate(prompts[0], [replace(worded, max_tokens=1)], progress=False)  # five run at the same time
        crowd = [answer.choices for answer in tight.generate(prompts, wish, progress=False)]
        assert tight.stats()["preemptions"] > 0
    assert crowd == alone
    assert crowd[0][0].text.startswith("[") and crowd[2][0].text.replace(" ", "").islower()


def test_a_model_that_cannot_be_loaded(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(CannotStart, match="nowhere"):
        LLM(str(tmp_path / "nowhere"))
    with pytest.raises(CannotStart, match="KV cache"):
        LLM(str(tiny), load_format="dummy", kv_cache_bytes=1000)
    with pytest.raises(TypeError, match="frobnicate"):
        LLM(str(tiny), frobnicate=1)


def test_closing_ends_the_engine_and_leaves_no_folder(tiny: Path) -> None:
    llm = LLM(str(tiny), **SETTINGS)
    pid, folder = llm.engine_pid, llm._supervisor._folder.path
    assert pid and folder.exists()
    llm.close()
    llm.close()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_closing_in_the_middle_of_a_recovery_says_nothing(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        with LLM(str(tiny), **SETTINGS) as llm:
            killed = None
            while llm.call(_state(llm)) == "ready":
                if (pid := llm.engine_pid) not in (None, killed):  # again, if its recovery was over before we looked
                    os.kill(pid, signal.SIGKILL)
                    killed = pid
                time.sleep(0.001)
        gc.collect()
    said = capfd.readouterr().err
    assert "Task was destroyed" not in said and "Traceback" not in said and "never awaited" not in said


async def _state(llm: LLM) -> str:
    assert llm.front.client
    return llm.front.client.health().state
