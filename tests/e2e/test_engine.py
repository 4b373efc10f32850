"""SGLang's offline Engine, and what POST /generate answers: the same dicts; streams, scores, constraints' names."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import radixmill
from radixmill.core.errors import BadRequest, CannotStart
from radixmill.llm import LLM, Params
from radixmill.native import Engine
from radixmill.utils import async_stream_and_merge, stream_and_merge
from tests.e2e.kit import Server

SETTINGS = {"load_format": "dummy", "max_total_tokens": 16384}
PROMPTS = ["Once upon a time", "The mill stood", "ab" * 100]
SCORED = {
    "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2, "token_ids_logprob": [3, 5],
    "return_text_in_logprobs": True, "return_prompt_token_ids": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[Engine]:
    with Engine(model_path=str(tiny), **SETTINGS) as opened:
        yield opened


def timeless(one: dict[str, Any]) -> dict[str, Any]:
    """Without what may differ between two runs of one record."""
    meta = {key: value for key, value in one["meta_info"].items() if key not in ("e2e_latency", "cached_tokens", "id")}
    return {**one, "meta_info": meta}


def wish(**more: Any) -> dict[str, Any]:
    return {"max_new_tokens": 12, "seed": 7, "ignore_eos": True, **more}


@pytest.mark.parametrize("more", [{}, SCORED], ids=["plain", "scored"])
@pytest.mark.parametrize("params", [wish(), wish(n=2, temperature=0.9), wish(max_new_tokens=0)], ids=str)
def test_the_engine_says_what_the_server_says(
    engine: Engine, tiny_server: Server, params: dict[str, Any], more: dict[str, Any]
) -> None:
    mine = engine.generate(PROMPTS, params, **more)
    theirs = tiny_server.post("/generate", text=PROMPTS, sampling_params=params, **more).json()
    assert len(mine) == 3 * params.get("n", 1)
    assert [timeless(one) for one in as_json(mine)] == [timeless(one) for one in theirs]


def as_json(answers: list[dict[str, Any]]) -> Any:
    """Tuples as lists."""
    return [listed(answer) for answer in answers]


def listed(value: Any) -> Any:
    match value:
        case dict():
            return {key: listed(item) for key, item in value.items()}
        case list() | tuple():
            return [listed(item) for item in value]
        case _:
            return value


def test_one_prompt_is_one_dict_and_ids_are_as_good_as_text(engine: Engine) -> None:
    one = engine.generate(PROMPTS[0], wish(), **SCORED)
    ids = engine.generate(input_ids=one["prompt_token_ids"], sampling_params=wish(), **SCORED)
    assert timeless(one) == timeless(ids) and len(one["output_ids"]) == 12
    assert one["meta_info"]["finish_reason"] == {"type": "length", "length": 12}


def test_a_streams_last_word_is_the_whole_answer(engine: Engine) -> None:
    whole = engine.generate(PROMPTS, wish(n=2), **SCORED)
    last: dict[int, dict[str, Any]] = {}
    for chunk in engine.generate(PROMPTS, wish(n=2), stream=True, **SCORED):
        index = chunk.pop("index")
        assert index not in last or chunk["text"].startswith(last[index]["text"])
        last[index] = chunk
    assert [timeless(last[i]) for i in range(6)] == [timeless(one) for one in whole]


def test_leaving_a_stream_stops_it(engine: Engine) -> None:
    stream = engine.generate(PROMPTS[0], wish(max_new_tokens=3000), stream=True)
    next(stream)
    stream.close()
    engine.generate(PROMPTS[0], wish(max_new_tokens=1))
    assert engine.session.live == 0 and engine.stats()["running"] == 0


def test_in_a_loop_of_the_callers(engine: Engine) -> None:
    async def go() -> None:
        whole = await engine.async_generate(PROMPTS[0], wish())
        others = await asyncio.gather(*(engine.async_generate(p, wish()) for p in PROMPTS))
        assert timeless(others[0]) == timeless(whole)
        parts = [chunk async for chunk in await engine.async_generate(PROMPTS[0], wish(), stream=True)]
        assert timeless(parts[-1]) == timeless(whole) and len(parts) > 3
        merged = [part async for part in async_stream_and_merge(engine, PROMPTS[0], wish())]
        assert "".join(merged) == whole["text"] == stream_and_merge_in_thread
        with pytest.raises(BadRequest):
            await engine.async_generate("", wish())

    stream_and_merge_in_thread = stream_and_merge(engine, PROMPTS[0], wish())
    asyncio.run(go())


def test_what_is_said_is_scored_alike(engine: Engine) -> None:
    """Log-probabilities of an output, and of the same tokens as the end of a prompt: equal to the bit."""
    said = engine.generate(PROMPTS[2], wish(max_new_tokens=90), **SCORED)
    ids, meta = [*said["prompt_token_ids"], *said["output_ids"]], said["meta_info"]
    scored = engine.generate(input_ids=ids, sampling_params=wish(max_new_tokens=0), **SCORED)["meta_info"]
    for name in ("token_logprobs", "top_logprobs", "token_ids_logprobs"):
        assert scored[f"input_{name}"] == meta[f"input_{name}"] + meta[f"output_{name}"]
    assert len(scored["input_token_logprobs"]) == len(ids) and scored["input_token_logprobs"][0][0] is None


def test_bad_requests_name_their_field(engine: Engine) -> None:
    for params, field in (
        ({"temprature": 1}, "sampling_params.temprature"),
        ({"temperature": float("nan")}, "sampling_params.temperature"),
        ({"top_p": 2}, "sampling_params.top_p"),
    ):
        with pytest.raises(BadRequest) as caught:
            engine.generate("x", params)
        assert caught.value.param == field
    with pytest.raises(BadRequest, match="image_data"):
        engine.generate("x", image_data="a.png")
    with pytest.raises(TypeError, match="frobnicate"):
        engine.generate("x", frobnicate=1)


def test_what_it_tells_of_itself(engine: Engine, tiny: Path) -> None:
    assert engine.get_model_info()["model_path"] == str(tiny)
    info = engine.get_server_info()
    assert info["max_total_tokens"] == 16384 and info["internal_states"][0]["ended"] > 0
    engine.generate(PROMPTS[0], wish())
    assert engine.generate(PROMPTS[0], wish())["meta_info"]["cached_tokens"] > 0
    engine.flush_cache()
    assert engine.generate(PROMPTS[0], wish())["meta_info"]["cached_tokens"] == 0


def test_settings_by_sglangs_names(tiny: Path) -> None:
    flags = {"context_length": 128, "chunked_prefill_size": 32, "disable_radix_cache": True, "tp_size": 1}
    with Engine(model_path=str(tiny), load_format="dummy", max_total_tokens=4096, **flags) as opened:
        config = opened.config
        assert (config.model.context_length, config.schedule.step_tokens, config.cache.prefix_cache) == (128, 32, False)
        assert opened.generate("x", wish())["output_ids"]
        opened.shutdown()
        opened.shutdown()
    with pytest.raises(CannotStart, match="tp-size"):
        Engine(model_path=str(tiny), tp_size=2)
    with pytest.raises(TypeError, match="frobnicate"):
        Engine(model_path=str(tiny), frobnicate=1)
    assert radixmill.Engine is Engine and radixmill.LLM is LLM


def test_llm_streams_and_scores(engine: Engine, tiny: Path) -> None:
    with LLM(str(tiny), **SETTINGS) as llm:
        params = Params(max_tokens=12, seed=7, ignore_eos=True, n=2, prompt_logprobs=2)
        (answer,) = llm.generate(PROMPTS[1], params, progress=False)
        texts, ids, reasons = ["", ""], [[], []], {}
        for piece in llm.stream(PROMPTS[1], params):
            texts[piece.choice] += piece.text
            ids[piece.choice] += piece.token_ids
            reasons |= {piece.choice: piece.finish_reason} if piece.finish_reason else {}
        assert texts == [choice.text for choice in answer.choices]
        assert ids == [choice.token_ids for choice in answer.choices] and reasons == {0: "length", 1: "length"}
        with pytest.raises(BadRequest, match="ebnf"):
            llm.generate("x", Params(regex="a", ebnf="root ::= [a]"), progress=False)
    scored = engine.generate(PROMPTS[1], wish(n=2), **SCORED)[0]["meta_info"]["input_token_logprobs"]
    assert answer.prompt_logprobs is not None and answer.prompt_logprobs[0] is None
    assert [one and one[0] for one in answer.prompt_logprobs] == [logprob for logprob, _, _ in scored]


@pytest.mark.parametrize("logprobs", [0, 3])
def test_echo_and_generate_agree(tiny_server: Server, logprobs: int) -> None:
    """/v1/completions with echo, against /generate of the same tokens."""
    body = {"prompt": PROMPTS, "max_tokens": 6, "seed": 7, "echo": True, "logprobs": logprobs, "return_token_ids": True}
    choices = tiny_server.post("/v1/completions", **body).json()["choices"]
    asked = {"text": PROMPTS, "return_logprob": True, "logprob_start_len": 0}
    for choice, prompt in zip(choices, PROMPTS, strict=True):
        ids = [*choice["prompt_token_ids"], *choice["token_ids"]]
        asked = {"input_ids": ids, "return_logprob": True, "logprob_start_len": 0}
        meta = tiny_server.post("/generate", sampling_params={"max_new_tokens": 0}, **asked).json()["meta_info"]
        assert choice["logprobs"]["token_logprobs"] == [entry[0] for entry in meta["input_token_logprobs"]]
        assert choice["text"].startswith(prompt)
        offsets = choice["logprobs"]["text_offset"]
        assert offsets == sorted(offsets) and offsets[len(choice["prompt_token_ids"])] == len(prompt)


@pytest.mark.weights
def test_the_real_model_is_scored_as_it_speaks(smollm2_server: Server) -> None:
    """Forced by a prompt of its own words: equal log-probabilities, and a text that is likelier than its reverse."""
    said = smollm2_server.post("/generate", text="The capital of France is", sampling_params=wish(temperature=0), **SCORED).json()  # fmt: skip
    ids, meta = [*said["prompt_token_ids"], *said["output_ids"]], said["meta_info"]
    asked = {"return_logprob": True, "logprob_start_len": 0, "sampling_params": {"max_new_tokens": 0}}
    forward, backward = smollm2_server.post("/generate", input_ids=[ids, ids[::-1]], **asked).json()
    scored = [entry[0] for entry in forward["meta_info"]["input_token_logprobs"]]
    assert scored == [entry[0] for entry in meta["input_token_logprobs"] + meta["output_token_logprobs"]]
    assert "Paris" in said["text"]
    assert sum(scored[1:]) > sum(entry[0] for entry in backward["meta_info"]["input_token_logprobs"][1:]) + 20


def test_a_killed_engine_scores_nothing_twice_and_nothing_less(engine: Engine) -> None:
    prompts = [f"{i} " * 400 for i in range(5)]
    params = wish(n=2, max_new_tokens=30)
    undisturbed = engine.generate(prompts, params, **SCORED)
    engine.flush_cache()
    victim = engine.engine_pid
    assert victim
    killer = threading.Timer(0.15, os.kill, (victim, signal.SIGKILL))
    killer.start()
    disturbed = engine.generate(prompts, params, **SCORED)
    killer.join()
    assert [timeless(one) for one in disturbed] == [timeless(one) for one in undisturbed]
    assert engine.generate("after", wish()) and engine.engine_pid not in (None, victim)
