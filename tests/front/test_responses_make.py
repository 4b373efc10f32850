"""POST /v1/responses, whole and streamed: every event against the published schema, and the fold of the stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.front.dialects import THINKING
from radixmill.front.session import Arguments, Call, Content, End, Reasoning, Token
from radixmill.front.session.caller import namespace
from radixmill.front.session.session import Session
from tests.fakes import EOS, ByteText, EchoClient
from tests.front.kit import install, make_app, make_front, says
from tests.front.responses_kit import HI, NOTE, WEATHER, Scripted, essence, events, fold, whole


def kinds(stream: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in stream]


def test_the_events_of_a_message():
    stream = events(make_app(EchoClient(says("abc"), cuts=(1, 2))), HI)
    assert kinds(stream) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["delta"] for event in stream if "delta" in event] == ["a", "bc"]
    (item,) = fold(stream)
    assert item["content"] == [{"type": "output_text", "text": "abc", "annotations": [], "logprobs": []}]
    last = stream[-1]["response"]
    assert last["output"] == [item] and item["id"].startswith("msg_") and last["id"].startswith("resp_")
    assert stream[0]["response"]["status"] == "in_progress" and "usage" not in stream[0]["response"]
    assert {event["response"]["id"] for event in stream if "response" in event} == {last["id"]}
    assert last["usage"] == {
        "input_tokens": 4, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 4},
        "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 8,
    }  # fmt: skip


def test_every_field_is_echoed():
    body = {
        "input": "hi", "instructions": "Be kind.", "max_output_tokens": 32, "max_tool_calls": 3, "metadata": {"a": "b"},
        "parallel_tool_calls": False, "prompt_cache_key": "k", "prompt_cache_retention": "24h",
        "reasoning": {"effort": "low", "summary": "auto"}, "safety_identifier": "s", "service_tier": "flex",
        "store": False, "temperature": 0.5, "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "weather"}, "tools": [WEATHER, NOTE], "top_logprobs": 2,
        "top_p": 0.9, "truncation": "auto", "user": "u", "background": False, "seed": 7,
    }  # fmt: skip
    answer = whole(make_app(), body)
    same = set(body) - {"input", "service_tier", "tools"}
    assert {name: answer[name] for name in same} == {name: body[name] for name in same}
    assert answer["service_tier"] == "default"
    assert answer["tools"] == [WEATHER, {**NOTE, "format": {"type": "text"}}]
    assert answer["completed_at"] >= answer["created_at"]


def test_what_was_not_given_has_its_default():
    answer = whole(make_app(defaults={"temperature": 0.25, "top_p": 0.75}), HI)
    expected = {
        "status": "completed", "background": False, "error": None, "incomplete_details": None, "instructions": None,
        "max_output_tokens": None, "max_tool_calls": None, "model": "echo", "object": "response", "store": True,
        "parallel_tool_calls": True, "previous_response_id": None, "reasoning": {"effort": None, "summary": None},
        "temperature": 0.25, "top_p": 0.75, "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto", "tools": [], "top_logprobs": 0, "truncation": "disabled", "metadata": {},
        "system_fingerprint": "n-echo",
    }  # fmt: skip
    assert {name: answer[name] for name in expected} == expected


def test_an_answer_cut_short_says_why():
    app = make_app(EchoClient(says("x" * 40)))
    stream = events(app, {**HI, "max_output_tokens": 16})
    last = stream[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == "incomplete" and last["response"]["completed_at"] is None
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert fold(stream)[0]["status"] == "incomplete"
    assert whole(app, {**HI, "max_output_tokens": 16})["output"][0]["content"][0]["text"] == "x" * 16


def test_an_answer_of_nothing_is_an_empty_message():
    stream = events(make_app(EchoClient(says(""))), HI)
    assert [item["content"][0]["text"] for item in fold(stream)] == [""]
    assert stream[-1]["response"]["status"] == "completed"


def test_an_engine_that_fails():
    app = make_app(EchoClient(says("abc", end=()), broken="failed"))
    stream = events(app, HI)
    assert kinds(stream)[-2:] == ["error", "failed"]
    assert stream[-2]["code"] == "internal_error" and "kernel" not in stream[-2]["message"]
    failed = stream[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert failed["output"][0]["status"] == "incomplete"


def test_logprobs_only_where_they_are_included():
    app = make_app(EchoClient(says("aé")))
    body = {**HI, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    stream = events(app, body)
    (item,) = fold(stream)
    entries = item["content"][0]["logprobs"]
    assert [entry["bytes"] for entry in entries] == [[97], [0xC3], [0xA9], list(b"<|eos|>")]
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    assert essence(whole(app, body)["output"]) == essence([item])
    silent = events(make_app(EchoClient(says(""))), body)
    assert len(fold(silent)[0]["content"][0]["logprobs"]) == 1, "the end token's, of an empty answer"
    assert whole(app, {**HI, "top_logprobs": 2})["output"][0]["content"][0]["logprobs"] == []


def test_a_stop_string_and_a_seed_are_honoured():
    client = EchoClient(says("one two three"))
    answer = whole(make_app(client), {**HI, "stop": " three", "seed": 5})
    assert (answer["output"][0]["content"][0]["text"], answer["seed"]) == ("one two", 5)
    assert client.seeds == [(5,)]


def test_sampling_reaches_the_engine():
    client = EchoClient()
    body = {
        "temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1,
        "repetition_penalty": 1.5, "logit_bias": {"3": 4}, "stop_token_ids": [7], "min_tokens": 1, "ignore_eos": True,
        "max_output_tokens": 20,
    }  # fmt: skip
    whole(make_app(client), {**HI, **body, "cache_salt": "s", "priority": 4})
    request = client.requests[0]
    sampling = request.sampling
    assert (request.tenant, request.priority, sampling.max_tokens) == (namespace("", ["s"]), 4, 20)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.5, 3, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1, -1, 1.5)
    assert sampling.logit_bias == ((3, 4.0),) and sampling.stop_token_ids == (7,)
    assert sampling.min_tokens == 1 and sampling.ignore_eos


@pytest.mark.parametrize("name", ["rid", "request_id"])
def test_a_request_may_name_itself(name):
    assert whole(make_app(), {**HI, name: "abc"})["id"] == "resp_abc"


APP, FRONT = make_front()
TEXTS = st.lists(st.sampled_from(["a", "é", "😀", "\n", "stop", "<"]), max_size=6).map("".join)


@given(
    TEXTS,
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([None, "stop", ["é"]]),
    st.sampled_from([None, 16]),
)
@settings(max_examples=60, deadline=None)
def test_the_fold_of_a_stream_is_the_whole(said, cuts, logprobs, stop, most):
    body = {**HI, "seed": 1, "include": ["message.output_text.logprobs"] if logprobs else [], "stop": stop}
    body |= {"max_output_tokens": most}
    install(FRONT, EchoClient(lambda request, choice: [*said.encode(), EOS], cuts=cuts))
    stream = events(APP, body)
    assert stream[-1]["response"]["output"] == fold(stream)
    answer = whole(APP, body)
    assert essence(stream[-1]["response"]) == essence(answer)
    install(FRONT, EchoClient(lambda request, choice: [*said.encode(), EOS], cuts=[1000]))
    assert essence(whole(APP, body)) == essence(answer)


WORDS = (
    "<think>Let me see.</think>\n\nI will look.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"place": "Rome"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "note", "arguments": {"input": "buy é\\n"}}\n</tool_call>'
)


def speaking(said: str, cuts: list[int]):
    """The app over a model that thinks and calls."""
    client = EchoClient(says(said), cuts=cuts)
    FRONT.client, FRONT.session = client, Session(ByteText(THINKING), client, ("echo",))
    return APP


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.sampled_from([None, 20, 60, 110, 150]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_models_own_words_make_the_same_items_however_they_come(cuts, most, logprobs):
    body = {**HI, "tools": [{**WEATHER, "strict": False}, NOTE], "max_output_tokens": most}
    body["include"] = ["message.output_text.logprobs"] if logprobs else []
    stream = events(speaking(WORDS, cuts), body)
    output = fold(stream)
    assert stream[-1]["response"]["output"] == output
    for other in (cuts, [1], [1000]):
        answer = whole(speaking(WORDS, other), body)
        assert essence(answer["output"]) == essence(output)
        assert answer["usage"] == stream[-1]["response"]["usage"]
    if most is None:
        assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "custom_tool_call"]
        assert json.loads(output[2]["arguments"]) == {"place": "Rome"} and output[3]["input"] == "buy é\n"
        assert output[0]["content"][0]["text"] == "Let me see."
        assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] > 10


# What the pipeline behind a session says of thoughts and calls, given as events.

THOUGHTS = [Reasoning(0, "Let me "), Reasoning(0, "see.")]
CALLING = [Call(0, 0, "call_1", "weather"), Arguments(0, 0, '{"place":'), Arguments(0, 0, ' "Rome"}')]
NOTING = [Call(0, 1, "call_2", "note", custom=True), Arguments(0, 1, "buy "), Arguments(0, 1, "milk")]
STORY = [*THOUGHTS, Content(0, "I will"), Content(0, " look."), *CALLING, *NOTING, End(0, "tool_calls")]


class ScriptedSession(Session):
    """A session whose answers are given events."""

    story: list[tuple[Any, ...]]

    def _choice(self, *given):
        return Scripted(self.story)


def telling(story: list[tuple[Any, ...]]):
    """The app, with a session that tells `story`."""
    install(FRONT, EchoClient(says("x" * (len(story) - 1))))
    FRONT.session.__class__ = ScriptedSession
    FRONT.session.story = story
    return APP


def test_thoughts_words_and_calls_each_become_an_item():
    app = telling([(event,) for event in STORY])
    stream = events(app, {**HI, "tools": [WEATHER, NOTE]})
    thought, message, call, note = fold(stream)
    assert thought["summary"] == [] and thought["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert message["content"][0]["text"] == "I will look."
    assert (call["name"], call["call_id"], json.loads(call["arguments"])) == ("weather", "call_1", {"place": "Rome"})
    assert (note["type"], note["name"], note["input"]) == ("custom_tool_call", "note", "buy milk")
    prefixes = [item["id"].split("_")[0] for item in (thought, message, call, note)]
    assert prefixes == ["rs", "msg", "fc", "ctc"]
    assert stream[-1]["type"] == "response.completed"
    whole(telling([(event,) for event in STORY]), {**HI, "tools": [WEATHER, NOTE]})


@pytest.mark.parametrize(
    "upto, last", [(1, "reasoning"), (3, "message"), (5, "function_call"), (8, "custom_tool_call")]
)
def test_what_is_cut_is_incomplete_and_what_was_before_it_is_not(upto, last):
    stream = events(telling([(event,) for event in [*STORY[:upto], End(0, "length")]]), HI)
    items = fold(stream)
    assert items[-1]["type"] == last and stream[-1]["type"] == "response.incomplete"
    assert [item["status"] for item in items] == ["completed"] * (len(items) - 1) + ["incomplete"]


def test_an_answer_of_thoughts_alone_has_an_empty_message():
    items = fold(events(telling([(Reasoning(0, "hm"),), (End(0, "stop"),)]), HI))
    assert [item["type"] for item in items] == ["reasoning", "message"]


def test_a_call_without_arguments_yet_has_empty_ones():
    items = fold(events(telling([(Call(0, 0, "c", "f"), End(0, "length"))]), HI))
    assert items[0]["arguments"] == "" and items[0]["status"] == "incomplete"


def test_a_token_without_text_before_a_call_opens_no_message():
    story = [(Content(0, "", (Token(5, 0),)), *CALLING, End(0, "tool_calls"))]
    stream = events(telling(story), {**HI, "include": ["message.output_text.logprobs"]})
    assert [item["type"] for item in fold(stream)] == ["function_call"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, len(STORY) - 1))
@settings(max_examples=60, deadline=None)
def test_how_events_come_together_changes_nothing(cuts, upto):
    story = STORY if upto == len(STORY) - 1 else [*STORY[:upto], End(0, "length")]
    grouped, at = [], 0
    while at < len(story):
        size = cuts[len(grouped) % len(cuts)]
        grouped.append(tuple(story[at : at + size]))
        at += size
    stream = events(telling(grouped), HI)
    answer = whole(telling(grouped), HI)
    one_by_one = whole(telling([(event,) for event in story]), HI)
    assert stream[-1]["response"]["output"] == fold(stream)
    for response in (answer, one_by_one):
        assert essence(response["output"]) == essence(fold(stream))
        assert response["status"] == stream[-1]["response"]["status"]


@pytest.mark.parametrize("most", range(16, 81, 3))
def test_an_answer_cut_by_length_is_accepted_as_history(most):
    """Responses ask for at least 16 tokens."""
    said = '<tool_call>\n{"name": "weather", "arguments": {"place": "Rome", "n": [1, 2]}}\n</tool_call>'
    install(FRONT, EchoClient(says(said)))
    body = {**HI, "tools": [WEATHER], "tool_choice": "required", "max_output_tokens": most}
    output = whole(APP, body)["output"]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "4"}
        for item in output
        if item["type"] == "function_call"
    ]
    whole(APP, {"input": [{"role": "user", "content": "hi"}, *output, *results, {"role": "user", "content": "on"}]})
    for message in FRONT.session.text.chats[-1].messages:
        for call in message.get("tool_calls", ()):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
