"""POST /generate: SGLang's shape of a request and its answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.request import Constraint
from radixmill.front.session.caller import namespace
from tests.fakes import EOS, EchoClient
from tests.front.kit import answer, call, chunks, error, install, make_app, make_front, post, says

GEN = "/generate"
HI: dict[str, Any] = {"text": "hi"}


def generate(client: EchoClient, body: dict[str, Any], **server: Any) -> Any:
    return answer(make_app(client, **server), GEN, body)


def lp(token: int) -> float:
    return -0.5 - token / 512


def timeless(one: dict[str, Any]) -> dict[str, Any]:
    """An answer without its place in a batch and its latency, which is checked."""
    assert one["meta_info"].pop("e2e_latency") >= 0
    one.pop("index", None)
    return one


def test_one_prompt() -> None:
    client = EchoClient(says("yo"), cached=1)
    got = timeless(generate(client, {**HI, "rid": "job", "sampling_params": {"seed": 5}}))
    assert got == {
        "text": "yo",
        "output_ids": [*b"yo", EOS],
        "meta_info": {
            "id": "job",
            "finish_reason": {"type": "stop", "matched": EOS},
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "cached_tokens": 1,
            "reasoning_tokens": 0,
            "weight_version": "default",
            "seed": 5,
        },
    }
    assert client.requests[0].sampling.max_tokens == 128


def test_reasons_to_end() -> None:
    def reason(**params: Any) -> Any:
        return generate(EchoClient(says("abcdef")), {**HI, "sampling_params": params})["meta_info"]["finish_reason"]

    assert reason(max_new_tokens=3) == {"type": "length", "length": 3}
    assert reason(stop="cd") == {"type": "stop", "matched": "cd"}
    assert reason(stop_token_ids=[ord("b")]) == {"type": "stop", "matched": ord("b")}
    assert reason(max_new_tokens=0) == {"type": "length", "length": 0}


def test_parameters_reach_the_engine() -> None:
    client = EchoClient()
    params = {
        "max_new_tokens": 9, "min_new_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1,
        "frequency_penalty": 0.3, "presence_penalty": 0.2, "repetition_penalty": 1.1, "logit_bias": {"5": 1.5},
        "stop_token_ids": [9], "ignore_eos": True, "sampling_seed": 77, "n": 2, "spaces_between_special_tokens": True,
    }  # fmt: skip
    generate(client, {**HI, "sampling_params": params, "priority": 3, "cache_salt": "s", "extra_key": "e"})
    (request,) = client.requests
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.temperature, sampling.top_p) == (9, 2, 0.5, 0.9)
    assert (sampling.top_k, sampling.min_p, sampling.frequency_penalty, sampling.presence_penalty) == (7, 0.1, 0.3, 0.2)
    assert (sampling.repetition_penalty, sampling.logit_bias, sampling.ignore_eos) == (1.1, ((5, 1.5),), True)
    assert sampling.stop_token_ids == (9,) and client.seeds[0][0] == 77 and len(client.seeds[0]) == 2
    assert (request.priority, request.tenant) == (3, namespace("", ["s", "e"]))
    generate(client, {**HI, "sampling_params": {"max_new_tokens": None}})
    assert client.requests[-1].sampling.max_tokens == 510, "null: to the end of the context"


def test_a_batch_is_a_list_even_of_one() -> None:
    client = EchoClient(lambda request, choice: [*bytes(request.prompt).upper(), EOS])
    assert [one["text"] for one in generate(client, {"text": ["a", "b"]})] == ["A", "B"]
    assert [one["text"] for one in generate(client, {"text": ["a"]})] == ["A"]
    assert [one["text"] for one in generate(client, {"input_ids": [[97], [98, 99]]})] == ["A", "BC"]
    assert generate(client, {"input_ids": [97, 98]})["text"] == "AB"


def test_choices_of_prompts_are_flat() -> None:
    client = EchoClient(lambda request, choice: [request.prompt[0], 48 + choice])
    got = generate(client, {"text": ["a", "b"], "sampling_params": {"n": 2}})
    assert [one["text"] for one in got] == ["a0", "a1", "b0", "b1"]
    assert [one["text"] for one in generate(client, {**HI, "sampling_params": {"n": 2}})] == ["h0", "h1"]


def test_each_prompt_of_a_batch_may_have_its_own() -> None:
    client = EchoClient(says("abcdef"))
    body = {
        "text": ["x", "yy"],
        "rid": ["one", "two"],
        "sampling_params": [{"max_new_tokens": 1, "seed": 1}, {"max_new_tokens": 2, "seed": 2}],
        "return_logprob": [False, True],
        "logprob_start_len": [-1, 0],
        "top_logprobs_num": [0, 1],
        "token_ids_logprob": [None, [7]],
        "cache_salt": ["p", "q"],
    }
    one, two = (each["meta_info"] for each in generate(client, body))
    assert (one["id"], two["id"], one["seed"], two["seed"]) == ("one", "two", 1, 2)
    assert (one["completion_tokens"], two["completion_tokens"]) == (1, 2)
    assert "output_token_logprobs" not in one and len(two["input_token_logprobs"]) == 2
    assert two["output_token_ids_logprobs"] == [[[-10.0, 7, None]]] * 2
    assert [r.tenant for r in client.requests] == [namespace("", [salt]) for salt in "pq"]
    assert [m["meta_info"]["id"] for m in generate(client, {"text": ["x", "y"], "rid": "r"})] == ["r_0", "r_1"]


def test_log_probabilities() -> None:
    body = {
        "text": "abc", "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2,
        "token_ids_logprob": [7, 9], "return_text_in_logprobs": True, "return_prompt_token_ids": True,
    }  # fmt: skip
    got = generate(EchoClient(says("d")), body)
    meta = got["meta_info"]
    assert got["prompt_token_ids"] == [*b"abc"]
    assert meta["input_token_logprobs"] == [[None, 97, "a"], [lp(98), 98, "b"], [lp(99), 99, "c"]]
    assert meta["output_token_logprobs"] == [[lp(100), 100, "d"], [lp(EOS), EOS, "<|eos|>"]]
    assert meta["output_token_logprobs_length"] == 2
    assert meta["input_top_logprobs"] == [None, *([[-0.25, t, chr(t)], [-1.25, t + 1, chr(t + 1)]] for t in b"bc")]
    assert meta["output_top_logprobs"][0] == [[-0.25, 100, "d"], [-1.25, 101, "e"]]
    assert meta["input_token_ids_logprobs"] == [None, *[[[-10.0, 7, "\x07"], [-12.0, 9, "\t"]]] * 2]
    assert meta["output_token_ids_logprobs"] == [[[-10.0, 7, "\x07"], [-12.0, 9, "\t"]]] * 2


@pytest.mark.parametrize(("start", "ids"), [(-1, []), (None, []), (1, [98, 99]), (2, [99]), (3, [])])
def test_prompts_are_scored_from_where_one_asks(start: int | None, ids: list[int]) -> None:
    body = {"text": "abc", "return_logprob": True, "logprob_start_len": start}
    meta = generate(EchoClient(says("d")), body)["meta_info"]
    assert [entry[:2] for entry in meta["input_token_logprobs"]] == [[lp(i), i] for i in ids]
    assert "input_top_logprobs" not in meta and "input_token_ids_logprobs" not in meta


def test_only_scores() -> None:
    body = {"text": "abc", "return_logprob": True, "logprob_start_len": 0, "sampling_params": {"max_new_tokens": 0}}
    got = generate(EchoClient(), body)
    assert got["output_ids"] == [] and len(got["meta_info"]["input_token_logprobs"]) == 3
    assert got["meta_info"]["output_token_logprobs"] == []


# --- streams


def test_a_stream_tells_all_so_far_each_time() -> None:
    parts = chunks(make_app(EchoClient(says("abc"))), GEN, HI)
    assert [part["text"] for part in parts] == ["a", "ab", "abc", "abc"]
    assert [len(part["output_ids"]) for part in parts] == [1, 2, 3, 4]
    assert [part["meta_info"]["finish_reason"] for part in parts[:-1]] == [None] * 3
    assert all("index" not in part for part in parts)


@pytest.mark.parametrize("by_flag", [False, True])
def test_or_what_is_new(by_flag: bool) -> None:
    body = {**HI, "return_logprob": True, "logprob_start_len": 0, "return_prompt_token_ids": True}
    asked = {} if by_flag else {"incremental_streaming_output": True}
    parts = chunks(make_app(EchoClient(says("abc")), incremental_streaming_output=by_flag), GEN, {**body, **asked})
    assert [part["text"] for part in parts] == ["a", "b", "c", ""]
    assert [part["output_ids"] for part in parts] == [[97], [98], [99], [EOS]]
    assert [len(part["meta_info"]["input_token_logprobs"]) for part in parts] == [2, 0, 0, 0]
    assert [len(part["meta_info"]["output_token_logprobs"]) for part in parts] == [1] * 4
    assert ["prompt_token_ids" in part for part in parts] == [True, False, False, False]
    if by_flag:
        parts = chunks(
            make_app(EchoClient(says("abc")), incremental_streaming_output=True),
            GEN,
            {**HI, "incremental_streaming_output": False},
        )
        assert parts[-1]["text"] == "abc"


def test_batches_are_numbered() -> None:
    client = EchoClient(lambda request, choice: [request.prompt[0], 48 + choice])
    parts = chunks(make_app(client), GEN, {"text": ["a", "b"], "sampling_params": {"n": 2}})
    last = {part["index"]: part["text"] for part in parts}
    assert last == {0: "a0", 1: "a1", 2: "b0", 3: "b1"}


BODIES = st.fixed_dictionaries(
    {"text": st.sampled_from(["p", ["p"], ["p", "qq"]])},
    optional={
        "return_logprob": st.booleans(),
        "logprob_start_len": st.sampled_from([-1, 0, 1]),
        "top_logprobs_num": st.sampled_from([0, 2]),
        "token_ids_logprob": st.just([3]),
        "return_text_in_logprobs": st.booleans(),
        "return_prompt_token_ids": st.booleans(),
        "sampling_params": st.fixed_dictionaries(
            {"seed": st.just(3)},
            optional={
                "n": st.sampled_from([1, 3]),
                "stop": st.sampled_from(["b", ["é", "ab"]]),
                "max_new_tokens": st.sampled_from([0, 3]),
                "no_stop_trim": st.booleans(),
                "skip_special_tokens": st.booleans(),
            },
        ),
    },
)
APP, FRONT = make_front()


@given(
    BODIES,
    st.lists(st.text("abé😀", max_size=6), min_size=3, max_size=3),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_a_streams_last_word_is_the_whole_answer(body: dict[str, Any], said: list[str], cuts: list[int]) -> None:
    """Cumulative: the last chunk of each choice. Incremental: what they add up to."""
    body.setdefault("sampling_params", {"seed": 3})
    scripts = [[*text.encode(), EOS] for text in said]
    body["rid"] = "r"

    def fresh() -> None:
        install(FRONT, EchoClient(lambda request, choice: scripts[choice], cuts=cuts))

    fresh()
    whole = answer(APP, GEN, body)
    whole = [timeless(one) for one in (whole if isinstance(whole, list) else [whole])]
    fresh()
    last = {part.get("index", 0): timeless(part) for part in chunks(APP, GEN, body)}
    assert [last[i] for i in range(len(whole))] == whole
    fresh()
    sums: dict[int, dict[str, Any]] = {}
    for part in chunks(APP, GEN, {**body, "incremental_streaming_output": True}):
        add(sums, part.get("index", 0), timeless(part))
    assert [sums[i] for i in range(len(whole))] == whole


def add(sums: dict[int, dict[str, Any]], index: int, part: dict[str, Any]) -> None:
    if index not in sums:
        sums[index] = part
        return
    have = sums[index]
    have["text"] += part["text"]
    have["output_ids"] += part["output_ids"]
    for key, value in part["meta_info"].items():
        if isinstance(value, list) or key == "output_token_logprobs_length":
            have["meta_info"][key] += value
        else:
            have["meta_info"][key] = value


# --- what is refused

BAD = [
    ({}, "text"),
    ({"text": "a", "input_ids": [1]}, "text"),
    ({"text": ""}, "text"),
    ({"text": ["a", ""]}, "text[1]"),
    ({"text": []}, "text"),
    ({"text": 5}, "text"),
    ({"input_ids": [1, [2]]}, "input_ids[1]"),
    ({"input_ids": [[1], 2]}, "input_ids[1]"),
    ({"input_ids": [1, 9999]}, "input_ids[1]"),
    ({"input_ids": [[1], [9999]]}, "input_ids[1][0]"),
    ({"input_ids": [[]]}, "input_ids[0]"),
    ({**HI, "sampling_params": {"temprature": 1}}, "sampling_params.temprature"),
    ({**HI, "sampling_params": {"temperature": -1}}, "sampling_params.temperature"),
    ({**HI, "sampling_params": {"max_new_tokens": 511}}, "sampling_params.max_new_tokens"),
    ({**HI, "sampling_params": {"min_new_tokens": 200}}, "sampling_params.min_new_tokens"),
    ({**HI, "sampling_params": {"stop_token_ids": [999]}}, "sampling_params.stop_token_ids[0]"),
    ({**HI, "sampling_params": {"logit_bias": {"x": 1}}}, "sampling_params.logit_bias.x"),
    ({**HI, "sampling_params": {"custom_params": {"a": 1}}}, "sampling_params.custom_params.a"),
    ({**HI, "sampling_params": {"stop_regex": "a+"}}, "sampling_params.stop_regex"),
    ({**HI, "sampling_params": {"beam_width": 2}}, "sampling_params.beam_width"),
    ({**HI, "sampling_params": {"regex": "a", "ebnf": "root ::= a"}}, "sampling_params.ebnf"),
    ({**HI, "sampling_params": [{}]}, "sampling_params"),
    ({"text": ["a", "b"], "sampling_params": [{}]}, "sampling_params"),
    ({"text": ["a", "b"], "sampling_params": [{}, {"top_q": 1}]}, "sampling_params[1].top_q"),
    ({"text": ["a", "b"], "sampling_params": [{}, {"max_new_tokens": 600}]}, "sampling_params[1].max_new_tokens"),
    ({"text": ["a", "b"], "rid": ["x", "x"]}, "rid"),
    ({"text": ["a", "b"], "rid": ["x"]}, "rid"),
    ({**HI, "rid": "a b"}, "rid"),
    ({**HI, "max_thinking_tokens": -1}, "max_thinking_tokens"),
    ({**HI, "max_thinking_tokens": [1]}, "max_thinking_tokens"),
    ({"text": ["a", "b"], "max_thinking_tokens": [1]}, "max_thinking_tokens"),
    ({**HI, "require_reasoning": 1}, "require_reasoning"),
    ({**HI, "image_data": "x.png"}, "image_data"),
    ({**HI, "lora_path": "x"}, "lora_path"),
    ({**HI, "return_hidden_states": True}, "return_hidden_states"),
    ({**HI, "return_logprob": True, "logprob_start_len": 3}, "logprob_start_len"),
    ({**HI, "return_logprob": True, "token_ids_logprob": [999]}, "token_ids_logprob[0]"),
    ({**HI, "return_logprob": True, "token_ids_logprob": [[1]]}, "token_ids_logprob"),
    ({"text": ["a", "b"], "token_ids_logprob": [[1], 2]}, "token_ids_logprob"),
    ({"text": ["a"] * 20, "sampling_params": {"n": 128}}, "sampling_params"),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=[str(b)[:60] for b, _ in BAD])
def test_bad_input_names_its_field(body: dict[str, Any], param: str) -> None:
    client = EchoClient()
    found = error(post(make_app(client), GEN, body), 400)
    assert found["param"] == param and found["type"] == "invalid_request_error"
    assert not client.live, "whatever of the batch had begun is stopped"


def test_a_batch_begins_as_a_whole_or_not_at_all() -> None:
    client = EchoClient()
    error(post(make_app(client), GEN, {"text": ["a", "b"], "sampling_params": [{}, {"stop_token_ids": [999]}]}), 400)
    assert len(client.requests) == 1 and client.cancelled == [0] and not client.live


def test_unknown_fields_are_named() -> None:
    response = post(make_app(), GEN, {**HI, "log_metrics": True, "no_logs": False})
    assert response.headers["X-RadixMill-Ignored"] == "log_metrics, no_logs"
    assert error(post(make_app(strict_fields=True), GEN, {**HI, "no_logs": True}), 400)["param"] == "no_logs"


def test_values_that_ask_for_nothing_are_let_through() -> None:
    body = {**HI, "image_data": None, "return_hidden_states": False, "sampling_params": {"beam_width": 1, "stop": []}}
    assert generate(EchoClient(), body)["text"] == "Hello"


def test_put_is_as_good_as_post() -> None:
    assert call(make_app(), "PUT", GEN, json=HI).json()["text"] == "Hello"


def test_a_failure_in_the_midst_of_a_stream() -> None:
    client = EchoClient(says("ab", end=()), broken="failed")
    text = post(make_app(client), GEN, {**HI, "stream": True}).text
    assert '"error"' in text and text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("params", "constraint"),
    [
        ({"regex": "a+"}, Constraint(kind="regex", text="a+")),
        ({"ebnf": 'root ::= "a"'}, Constraint(kind="ebnf", text='root ::= "a"')),
        ({"json_schema": '{"type": "object"}'}, Constraint(kind="json_schema", text='{"type": "object"}')),
        ({"json_schema": {"type": "object"}}, Constraint(kind="json_schema", text='{"type": "object"}')),
        ({"structural_tag": {"type": "x"}}, Constraint(kind="structural_tag", text='{"type": "x"}')),
    ],
    ids=str,
)
def test_constraints_reach_the_engine(params: dict[str, Any], constraint: Constraint) -> None:
    client = EchoClient()
    generate(client, {**HI, "sampling_params": params})
    assert client.requests[0].constraint == constraint
