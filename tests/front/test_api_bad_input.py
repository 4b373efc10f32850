"""Bad requests: each is an error in OpenAI's shape that names the field, in our own words, and reaches no engine."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.errors import BadRequest
from radixmill.front.api.body import Reader
from radixmill.front.api.explain import explain
from radixmill.front.api.openai.chat import ChatBody
from radixmill.front.api.openai.completions import CompletionBody
from radixmill.front.api.openai.fields import NEVER, NOT_YET
from radixmill.front.session.limits import RANGES, SIZES
from tests.fakes import EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, call, error, install, make_app, make_front, post

APP, FRONT = make_front()
FOREIGN_WORDS = re.compile(
    r"`(int|str|float|bool|array|object|null)|\$\.|pydantic|msgspec|Traceback|validation error|type=", re.I
)
HI = HELLO["messages"]


def refused(path: str, body: dict, param: str | None) -> dict:
    client = EchoClient()
    install(FRONT, client)
    fault = error(post(APP, path, body), 400)
    assert (fault["type"], fault["param"]) == ("invalid_request_error", param), fault
    assert not FOREIGN_WORDS.search(fault["message"]), fault
    assert not client.requests and FRONT.session.live == 0
    return fault


CHAT_CASES = [
    ({}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [*HI, {"role": "user"}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages[0].content[0].type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}]},
        "messages[0].content[0].type",
    ),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": "a",
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}],
                }
            ]
        },
        "messages[0].tool_calls",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "custom"}]}]},
        "messages[0].tool_calls[0].custom",
    ),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
    ({"logprobs": 3}, "logprobs"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"store": "yes"}, "store"),
]
TEXT_CASES = [
    ({"prompt": None}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt[1]"),
    ({"prompt": ["a", 1]}, "prompt[1]"),
    ({"prompt": [1, [2]]}, "prompt[1]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [1, 9999]}, "prompt[1]"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": [[1, 9999]]}, "prompt[0][1]"),
    ({"prompt": [[1], [2, 9999]]}, "prompt[1][1]"),
    ({"prompt": [[1], ["a"]]}, "prompt[1][0]"),
    ({"prompt": ["a"] * 2049}, "prompt"),
    ({"prompt": ["a"] * 100, "n": 100}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"logprobs": True}, "logprobs"),
]
COMMON_CASES = [
    ({"model": 3}, "model"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop": {"a": 1}}, "stop"),
    ({"stop": [f"s{i}" for i in range(33)]}, "stop"),
    ({"stop_token_ids": [1, 260]}, "stop_token_ids[1]"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ({"logit_bias": {"260": 1}}, "logit_bias.260"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "7"}, "seed"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"rid": "two words"}, "rid"),
    ({"rid": ""}, "rid"),
    ({"rid": "é"}, "rid"),
    ({"rid": "日本"}, "rid"),
    ({"rid": "a\r\nSet-Cookie: b"}, "rid"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"user": 7}, "user"),
    ({"regex": 1}, "regex"),
    ({"guided_choice": []}, "guided_choice"),
    ({"moderation": {}}, "moderation"),
]


@pytest.mark.parametrize("fields, param", CHAT_CASES + COMMON_CASES, ids=str)
def test_chat(fields, param):
    body = fields if fields == {} or "messages" in fields else {**HELLO, **fields}
    refused(CHAT, body, param)


@pytest.mark.parametrize("fields, param", TEXT_CASES + COMMON_CASES, ids=lambda v: str(v)[:60])
def test_text(fields, param):
    refused(TEXT, {"prompt": "x", **fields}, param)


WHERE = {  # name in the table → (route, field); the rest have the field's own name, on both routes
    "max_tokens": [(CHAT, "max_tokens")],
    "max_completion_tokens": [(CHAT, "max_completion_tokens")],
    "max_output_tokens": [("/v1/responses", "max_output_tokens")],
    "top_logprobs": [(CHAT, "top_logprobs")],
    "best_of": [(TEXT, "best_of")],
    "reasoning_effort": [(CHAT, "reasoning_effort")],
    "max_thinking_tokens": [(CHAT, "max_thinking_tokens"), ("/v1/responses", "max_thinking_tokens")],
    "max_tokens (completions)": [(TEXT, "max_tokens")],
    "logprobs (completions)": [(TEXT, "logprobs")],
    "token id": [(TEXT, "prompt")],
    "temperature (messages)": [],  # of Anthropic's API: tests/front/test_anthropic_requests.py
    "budget_tokens": [],
    "max_new_tokens": [],  # of SGLang's: tests/front/test_api_native.py
    "top_logprobs_num": [],
    "logprob_start_len": [],
}


@pytest.mark.parametrize("name", RANGES)
def test_every_range_of_the_table_is_enforced(name):
    low, high = RANGES[name]
    for path, field in WHERE.get(name, [(CHAT, name), (TEXT, name)]):
        for value in ([low - 1] if low is not None else []) + ([high + 1] if high is not None else []):
            body = {**HELLO, "prompt": "x", "logprobs": True if path == CHAT else None, field: value}
            param = field
            if name == "logit_bias":
                body[field], param = {"1": value}, "logit_bias.1"
            if name == "token id":
                body[field], param = [value], "prompt[0]"
            fault = refused(path, body, param)
            bound = low if value < low else high
            assert f"{bound:g}" in fault["message"] or str(bound) in fault["message"], fault["message"]


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_every_range_are_taken(name):
    install(FRONT, EchoClient())
    low, high = RANGES[name]
    for path, field in WHERE.get(name, [(CHAT, name), (TEXT, name)]):
        for value in (low, high):
            if value is None or ((field in ("prompt", "best_of") or name == "n") and value == high):
                continue
            body = {"prompt": "x", "logprobs": True if path == CHAT else None, field: value}
            if path == "/v1/responses":
                body = {"input": "x", field: value}
            if path == CHAT:
                body = {**HELLO, **body}
            if name == "logit_bias":
                body[field] = {"1": value}
            if name == "token id":
                body[field] = [value]
            assert post(APP, path, body).status_code == 200, (name, value)


def test_sizes_at_their_limits():
    install(FRONT, EchoClient())
    most = {name: int(limits.high or 0) for name, limits in SIZES.items()}
    good = [
        {"stop": [f"s{i}" for i in range(most["stop"])]},
        {"stop": "s" * most["stop string"]},
        {"rid": "r" * most["rid"]},
        {"stop_token_ids": [1] * most["stop_token_ids"]},
    ]
    for fields in good:
        assert post(APP, CHAT, {**HELLO, **fields}).status_code == 200
    bad = [
        ({"stop": "s" * (most["stop string"] + 1)}, "stop"),
        ({"rid": "r" * (most["rid"] + 1)}, "rid"),
        ({"stop_token_ids": [1] * (most["stop_token_ids"] + 1)}, "stop_token_ids"),
        ({"logit_bias": {str(i): 1 for i in range(most["logit_bias"] + 1)}}, "logit_bias"),
        ({"safety_identifier": "s" * (most["safety_identifier"] + 1)}, "safety_identifier"),
        ({"metadata": {str(i): "" for i in range(most["metadata"] + 1)}}, "metadata"),
        ({"messages": HI * (most["messages"] + 1)}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * (most["tools"] + 1)}, "tools"),
        ({"guided_choice": ["a"] * (most["choices"] + 1)}, "guided_choice"),
        ({"guided_choice": ["a" * (most["choice"] + 1)]}, "guided_choice[0]"),
    ]
    for fields, param in bad:
        refused(CHAT, {**HELLO, **fields}, param)


@pytest.mark.parametrize("name", [*NEVER, *NOT_YET])
def test_refused_fields_say_so_and_their_neutral_values_pass(name):
    path, kind = (TEXT, CompletionBody) if name in CompletionBody.__struct_fields__ else (CHAT, ChatBody)
    assert name in kind.__struct_fields__
    body = {**HELLO, "prompt": "x"}
    assert "supported" in refused(path, {**body, name: {"anything": 1}}, name)["message"]
    install(FRONT, EchoClient())
    for neutral in (None, *(NEVER | NOT_YET)[name]):
        response = post(APP, path, {**body, name: neutral})
        assert response.status_code == 200
        assert name not in response.headers["x-radixmill-ignored"]


RAW_CASES = [
    (b"", "empty"),
    (b"   ", "empty"),
    (b"{", "JSON"),
    (b'{"messages": [}', "JSON"),
    (b"hello", "JSON"),
    (b'{"messages":[]} {}', "JSON"),
    (b"[]", "an object"),
    (b"null", "an object"),
    (b'"text"', "an object"),
    (b'{"temperature": NaN, "messages": []}', "temperature must be a number that a machine can hold"),
    (b'{"temperature": Infinity, "messages": []}', "temperature must be a number that a machine can hold"),
    (b'{"temperature": 1e999, "messages": []}', "temperature must be a number that a machine can hold"),
    (b'{"seed": ' + b"9" * 5000 + b', "messages": []}', "seed must be a number that a machine can hold"),
    (b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', "UTF-8"),
    (b'{"user":"' + "é".encode("latin-1") + b'"}', "UTF-8"),
    (b'{"chat_template_kwargs":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b'},"messages":[]}', "nested"),
    (b'{"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "nested"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    (b"\x00", "JSON"),
]


@pytest.mark.parametrize("raw, words", RAW_CASES, ids=[raw[:24].decode("latin-1") for raw, _ in RAW_CASES])
@pytest.mark.parametrize("path", [CHAT, TEXT, "/tokenize", "/detokenize", "/abort_request"])
def test_bodies_that_are_no_json(path, raw, words):
    response = call(make_app(), "POST", path, content=raw, headers={"content-type": "application/json"})
    fault = error(response, 400)
    assert not FOREIGN_WORDS.search(fault["message"])
    if path == CHAT:
        assert words in fault["message"]


@pytest.mark.parametrize(
    "kind, good",
    [
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=x", False),
        ("application/json; charset=utf-8", True),
        ("Application/JSON", True),
        ("application/vnd.api+json", True),
        ("", True),
    ],
)
def test_content_types(kind, good):
    response = call(
        make_app(), "POST", CHAT, content=json.dumps(HELLO).encode(), headers={"content-type": kind} if kind else {}
    )
    if good:
        assert response.status_code == 200
    else:
        assert "application/json" in error(response, 400)["message"]


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length():
    app = make_app(max_body_bytes=1000)
    big = json.dumps({"messages": [{"role": "user", "content": "x" * 2000}]}).encode()

    async def parts():
        for start in range(0, len(big), 100):
            yield big[start : start + 100]

    for content in (big, parts()):
        response = call(app, "POST", CHAT, content=content, headers={"content-type": "application/json"})
        assert error(response, 413)["code"] == "request_too_large"
    small = json.dumps({"messages": [{"role": "user", "content": "x" * 100}]}).encode()
    assert call(app, "POST", CHAT, content=small, headers={"content-type": "application/json"}).status_code == 200


def test_the_context_limit_names_both_numbers():
    for path, body, param in (
        (CHAT, {**HELLO, "max_tokens": 600}, "max_tokens"),
        (TEXT, {"prompt": "x" * 500}, "max_tokens"),  # the default of 16 is too many
        (CHAT, {"model": "default", "messages": [{"role": "user", "content": "x" * 600}]}, "messages"),
        (TEXT, {"prompt": "x" * 999, "max_tokens": 0}, "prompt"),
    ):
        fault = error(post(make_app(), path, body), 400)
        assert (fault["code"], fault["param"]) == ("context_length_exceeded", param)
        assert "512" in fault["message"] and re.search(r"prompt has \d+ tokens", fault["message"])


def test_unknown_models():
    for path, body in ((CHAT, HELLO), (TEXT, {"prompt": "x"}), ("/tokenize", {"prompt": "x"})):
        fault = error(post(make_app(), path, {**body, "model": "gpt-5"}), 404)
        assert (fault["code"], fault["param"], fault["type"]) == ("model_not_found", "model", "invalid_request_error")


def test_unknown_fields_are_named_or_with_strict_fields_refused():
    body = {
        **HELLO,
        "temprature": 1,
        "x-y\nz": 2,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}], "mood": "good"},
            {"role": "assistant", "content": "b", "mood": ""},
        ],
        "stream": True,
        "stream_options": {"fast": True},
    }
    named = post(make_app(), CHAT, body).headers["x-radixmill-ignored"]
    assert set(named.split(", ")) == {
        "temprature",
        "x-y?z",
        "messages[].mood",
        "messages[].content[].cache_control",
        "stream_options.fast",
    }
    assert error(post(make_app(strict_fields=True), CHAT, {**HELLO, "temprature": 1}), 400)["param"] == "temprature"
    assert "x-radixmill-ignored" not in post(make_app(strict_fields=True), CHAT, HELLO).headers
    many = {**HELLO, **{f"field{i}": 1 for i in range(5000)}}
    assert len(post(make_app(), CHAT, many).headers["x-radixmill-ignored"]) < 4000


SCALARS = st.none() | st.booleans() | st.integers(-5, 200) | st.floats(-5, 5) | st.text(max_size=3)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "function"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(ChatBody.__struct_fields__), JSON, max_size=5),
    st.sampled_from([ChatBody, CompletionBody]),
)
@settings(max_examples=400, deadline=None)
def test_explain_and_the_decoder_agree(body, kind):
    raw = msgspec.json.encode(body)
    fault = explain(msgspec.json.decode(raw), msgspec.inspect.type_info(kind))
    try:
        msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError:
        assert fault is not None
    else:
        assert fault is None


@given(
    st.binary(max_size=60)
    | st.dictionaries(st.sampled_from(ChatBody.__struct_fields__), JSON, max_size=5).map(msgspec.json.encode)
)
@settings(max_examples=300, deadline=None)
def test_no_body_breaks_the_reader(raw):
    try:
        Reader(ChatBody, max_bytes=1000, strict=False).parse(raw)
    except BadRequest as fault:
        assert not FOREIGN_WORDS.search(fault.message)
