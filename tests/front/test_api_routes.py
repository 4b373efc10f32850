"""Everything around generation: models, health, information, keys, ids, orders, documents."""

from __future__ import annotations

import asyncio
import re

import httpx
import msgspec
import pytest

from radixmill.core.config import Config, walk
from radixmill.core.errors import ServeError
from radixmill.front.api.app import create_app
from radixmill.front.session import Front
from radixmill.front.session.caller import namespace
from tests.fakes import ByteText, EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, answer, call, chunks, error, make_app, make_front, post, says


def test_models():
    app = make_app()
    cards = call(app, "GET", "/v1/models").json()
    assert cards["object"] == "list" and [card["id"] for card in cards["data"]] == ["echo", "echo-alias"]
    card = call(app, "GET", "/v1/models/echo-alias").json()
    assert (card["id"], card["root"], card["max_model_len"], card["max_model_len_reason"]) == (
        "echo-alias",
        "echo",
        512,
        "512: the fake's own",
    )
    assert call(app, "GET", "/v1/models/default").json()["id"] == "echo"
    fault = error(call(app, "GET", "/v1/models/org/other"), 404)
    assert fault["code"] == "model_not_found"


def test_the_answer_names_the_model_that_was_asked_for():
    app = make_app()
    assert [answer(app, CHAT, {**HELLO, "model": m})["model"] for m in ("echo", "echo-alias", "default")] == [
        "echo",
        "echo-alias",
        "echo",
    ]


NEED_MODEL = [
    ("GET", "/ready"),
    ("GET", "/health"),
    ("GET", "/health_generate"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/echo"),
    ("GET", "/model_info"),
    ("POST", "/flush_cache"),
    ("POST", CHAT),
    ("POST", TEXT),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
]
BODIES = {CHAT: HELLO, TEXT: {"prompt": "x"}, "/tokenize": {"prompt": "x"}, "/detokenize": {"tokens": [1]}}


def statuses(app) -> dict[str, int]:
    return {path: call(app, method, path, json=BODIES.get(path)).status_code for method, path in NEED_MODEL}


def test_nothing_is_promised_before_the_model_is_there():
    front = Front(Config())
    app = create_app(front)
    assert set(statuses(app).values()) == {503}
    for path in ("/live", "/version", "/server_info", "/docs", "/openapi.json"):
        assert call(app, "GET", path).status_code == 200
    fault = error(call(app, "GET", "/v1/models"), 503)
    assert fault["code"] == "not_ready" and "loading" in fault["message"]


@pytest.mark.parametrize("state, status", [("loading", 503), ("draining", 503), ("failed", 503), ("ready", 200)])
def test_states_of_the_engine(state, status):
    assert set(statuses(make_app(EchoClient(state=state))).values()) == {status}


def test_while_an_engine_is_restarted_work_is_taken_and_health_says_no():
    found = statuses(make_app(EchoClient(state="restarting")))
    assert {path for path, status in found.items() if status == 503} == {
        "/ready",
        "/health",
        "/v1/models",
        "/v1/models/echo",
    }
    assert set(found.values()) == {200, 503}


def test_draining():
    app, front = make_front()
    front.draining = True
    assert set(statuses(app).values()) == {503}
    assert call(app, "GET", "/live").status_code == 200


def test_head_requests_of_load_balancers():
    assert [call(make_app(), "HEAD", path).status_code for path in ("/health", "/ready", "/live")] == [200] * 3


def test_health_generate_really_generates():
    client = EchoClient(says("never mind"))
    assert call(make_app(client), "GET", "/health_generate").status_code == 200
    assert client.requests[0].sampling.max_tokens == 1 and not client.live
    broken = EchoClient(lambda request, choice: [], broken="failed")
    assert call(make_app(broken), "GET", "/health_generate").status_code == 500


def test_a_stalled_engine_is_not_healthy(monkeypatch):
    monkeypatch.setattr("radixmill.front.api.health.PROBE_SECONDS", 0.02)
    client = EchoClient(pause=5)
    fault = error(call(make_app(client), "GET", "/health_generate"), 503)
    assert fault["code"] == "not_ready" and "No token came" in fault["message"] and not client.live


def test_information():
    app = make_app()
    info = call(app, "GET", "/model_info").json()
    assert info == call(app, "GET", "/get_model_info").json()
    assert (info["served_model_name"], info["context_length"], info["numerics"]) == ("echo", 512, "n-echo")
    assert call(app, "GET", "/version").json()["version"]


def test_server_info_has_every_setting_and_no_secret():
    keys = ("sk-very-secret", "sk-also-secret")
    app = make_app(api_key=keys)
    response = call(app, "GET", "/server_info", headers={"x-api-key": keys[0]})
    info = response.json()
    for path, _, _ in walk(Config):
        assert path[-1] in info and path[-1] in info["config"][path[0]]
    assert not any(key in response.text for key in keys) and info["config"]["server"]["api_key"] == "[redacted]"
    assert call(make_app(), "GET", "/get_server_info").json()["config"]["server"]["api_key"] == []


def every_route(app):
    """Paths and methods, without the names of what stands in paths."""
    for route in app.routes:
        for method in route.methods:
            yield re.sub(r"[{}]", "", route.path), method


def test_keys():
    app = make_app(api_key=("one", "two é"))
    for headers in (
        {"authorization": "Bearer one"},
        {"authorization": "bearer one"},
        {"x-api-key": "one"},
        {"x-api-key": "two é".encode()},
    ):
        assert post(app, CHAT, HELLO, headers=headers).status_code == 200
    for headers in (
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer on"},
        {"authorization": "Basic one"},
        {"x-api-key": "One"},
        {"x-api-key": "onetwo"},
    ):
        response = post(app, CHAT, HELLO, headers=headers)
        assert error(response, 401)["code"] == "invalid_api_key" and response.headers["www-authenticate"] == "Bearer"
    for path in ("/health", "/ready", "/live", "/health_generate"):
        assert call(app, "GET", path).status_code == 200
    for path in ("/nope", "/health/x"):
        assert call(app, "GET", path).status_code == 401
    opened = {"/health", "/ready", "/live", "/health_generate"}
    asked = [(path, method) for path, method in every_route(app) if path not in opened]
    assert len(asked) > 20
    for path, method in asked:
        assert call(app, method, path, content=b"{}").status_code == 401, (method, path)
    assert (
        call(app, "OPTIONS", CHAT, headers={"origin": "http://a", "access-control-request-method": "POST"}).status_code
        == 200
    )


def test_cors_is_open_and_without_credentials():
    app = make_app(api_key=("k",))
    preflight = call(
        app,
        "OPTIONS",
        CHAT,
        headers={
            "origin": "http://a",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, x-stainless-os",
        },
    )
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    refused = post(app, CHAT, HELLO, headers={"origin": "http://a"})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in {**preflight.headers, **refused.headers}


def test_request_ids_in_and_out():
    app = make_app()
    assert post(app, CHAT, HELLO, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("two words", "x" * 129, "\x7f"):
        assert post(app, CHAT, HELLO, headers={"x-request-id": bad}).headers["x-request-id"] != bad
    for response in (call(app, "GET", "/nope"), post(app, CHAT, {}), call(app, "GET", "/live")):
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
    response = post(app, CHAT, {**HELLO, "rid": "job"}, headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "job" and response.json()["id"] == "chatcmpl-job"
    assert answer(app, TEXT, {"prompt": "x", "rid": "job"})["id"] == "cmpl-job"
    assert answer(app, TEXT, {"prompt": "x", "rid": "cmpl-job"})["id"] == "cmpl-job"
    ids = {answer(app, CHAT, HELLO)["id"] for _ in range(3)}
    assert len(ids) == 3 and all(id.startswith("chatcmpl-") for id in ids)


@pytest.mark.parametrize(
    "method, path, status, allow",
    [
        ("GET", TEXT, 405, "POST"),
        ("PUT", TEXT, 405, "POST"),
        ("GET", "/flush_cache", 405, "POST"),
        ("GET", "/abort_request", 405, "POST"),
        ("POST", "/v1/models", 405, "GET"),
        ("GET", "/", 404, None),
        ("POST", "/v1/chat/completions/", 404, None),
        ("GET", "/v1/nope", 404, None),
    ],
)
def test_wrong_methods_and_routes(method, path, status, allow):
    response = call(make_app(), method, path)
    assert error(response, status)["type"] == "invalid_request_error"
    assert response.headers.get("allow") == allow


def test_flush_cache_is_an_order_to_the_engine():
    client = EchoClient()
    assert call(make_app(client), "POST", "/flush_cache").json()["success"]
    assert client.controls == ["flush_cache"]

    async def busy(verb: str, **args):
        raise ServeError("The cache is in use.")

    client.control = busy
    assert error(call(make_app(client), "POST", "/flush_cache"), 500)["message"] == "The cache is in use."


@pytest.mark.parametrize("rid", ["job-7", "chatcmpl-job-7", "job", None])
def test_abort_request(rid):
    client = EchoClient(says("x" * 100))
    app, front = make_front(client)

    async def go():
        client.gate = asyncio.Event()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", trust_env=False) as http:
            running = asyncio.create_task(http.post(CHAT, json={**HELLO, "rid": "job-7"}))
            while not client.live:
                await asyncio.sleep(0.001)
            body = {"abort_all": True} if rid is None else {"rid": rid}
            aborted = await http.post("/abort_request", json=body)
            client.gate.set()
            return aborted.json(), (await running).json()

    aborted, response = asyncio.run(go())
    assert aborted == {"aborted": 1} and response["choices"][0]["finish_reason"] == "abort"
    assert not client.live and front.session.live == 0


def test_abort_request_needs_to_know_what():
    assert error(post(make_app(), "/abort_request", {}), 400)["param"] == "rid"
    assert post(make_app(), "/abort_request", {"rid": "nobody"}).json() == {"aborted": 0}


def test_tokenize_and_back():
    app = make_app()
    for prefix in ("", "/v1"):
        assert post(app, f"{prefix}/tokenize", {"prompt": "hé"}).json() == {
            "tokens": [104, 195, 169],
            "count": 3,
            "max_model_len": 512,
        }
        assert post(app, f"{prefix}/detokenize", {"tokens": [104, 195, 169]}).json() == {"text": "hé"}
    assert post(app, "/tokenize", {"prompt": ["a", "bc"]}).json()["count"] == [1, 2]
    assert post(app, "/tokenize", {"messages": HELLO["messages"]}).json()["tokens"] == [258, 104, 105, 259]
    assert post(app, "/detokenize", {"tokens": [[97], [98]]}).json() == {"text": ["a", "b"]}
    assert post(app, "/detokenize", {"tokens": [256, 97], "skip_special_tokens": False}).json() == {"text": "<|eos|>a"}
    assert post(app, "/detokenize", {"tokens": []}).json() == {"text": ""}


@pytest.mark.parametrize(
    "path, body, param",
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO["messages"]}, "prompt"),
        ("/tokenize", {"prompt": [1]}, "prompt[0]"),
        ("/detokenize", {"tokens": [999]}, "tokens[0]"),
        ("/detokenize", {"tokens": [[1], 2]}, "tokens"),
        ("/detokenize", {"tokens": [[1], [999]]}, "tokens[1][0]"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
    ],
)
def test_tokenize_bad_input(path, body, param):
    assert error(post(make_app(), path, body), 400)["param"] == param


def test_too_many_requests():
    client = EchoClient()
    app = make_app(client, max_requests=2)

    async def go():
        client.gate = asyncio.Event()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", trust_env=False) as http:
            running = [asyncio.create_task(http.post(CHAT, json=HELLO)) for _ in range(2)]
            while len(client.live) < 2:
                await asyncio.sleep(0.001)
            third = await http.post(CHAT, json=HELLO)
            client.gate.set()
            return third, [(await r).status_code for r in running], (await http.post(CHAT, json=HELLO)).status_code

    third, others, later = asyncio.run(go())
    fault = error(third, 429)
    assert (fault["type"], fault["code"]) == ("rate_limit_error", "rate_limit_exceeded") and int(
        third.headers["retry-after"]
    ) >= 1
    assert others == [200, 200] and later == 200


def test_our_bugs_are_500_without_our_insides(caplog):
    class Broken(ByteText):
        def encode_chat(self, chat):
            raise RuntimeError("secret path /etc/passwd")

    app, front = make_front()
    front.session.preparer.text = Broken()
    for stream in (False, True):
        response = post(app, CHAT, {**HELLO, "stream": stream})
        fault = error(response, 500)
        assert "secret" not in response.text and fault["type"] == "server_error"
        assert response.headers["x-request-id"] in caplog.text
    assert front.session.live == 0


@pytest.mark.parametrize("path, body", [(CHAT, HELLO), (TEXT, {"prompt": "x"})])
def test_failures_before_and_after_the_first_byte(path, body):
    early = EchoClient(lambda request, choice: [], broken="failed")
    for stream in (False, True):
        response = post(make_app(early), path, {**body, "stream": stream})
        assert error(response, 500)["code"] == "internal_error" and "kernel" not in response.text
    late = EchoClient(lambda request, choice: [*b"abc"], broken="failed")
    parts = chunks(make_app(late), path, body)
    assert parts[-1]["error"]["code"] == "internal_error" and "choices" in parts[0] and len(parts) >= 3
    assert not late.live


def test_defaults_of_the_model_hold_on_both_routes():
    for path, body in ((CHAT, HELLO), (TEXT, {"prompt": "x"})):
        client = EchoClient()
        app = make_app(client, defaults={"temperature": 0.2, "top_p": 0.9})
        answer(app, path, body)
        answer(app, path, {**body, "temperature": 1.5})
        assert [(r.sampling.temperature, r.sampling.top_p) for r in client.requests] == [(0.2, 0.9), (1.5, 0.9)]


def test_fields_that_reach_the_engine():
    client = EchoClient()
    body = {
        **HELLO,
        "cache_salt": "team-a",
        "priority": -3,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "repetition_penalty": 1.1,
        "logit_bias": {"65": 2},
        "stop_token_ids": [7],
        "ignore_eos": True,
        "max_tokens": 9,
        "max_completion_tokens": 5,
        "seed": -1,
    }
    response = answer(make_app(client), CHAT, body)
    request = client.requests[0]
    assert (request.tenant, request.priority, request.sampling.max_tokens) == (
        namespace("", ["team-a"]),
        -3,
        5,
    )
    assert (
        request.sampling.frequency_penalty,
        request.sampling.presence_penalty,
        request.sampling.repetition_penalty,
    ) == (0.5, -0.5, 1.1)
    assert (request.sampling.logit_bias, request.sampling.stop_token_ids, request.sampling.ignore_eos) == (
        ((65, 2.0),),
        (7,),
        True,
    )
    assert response["seed"] == -1 and client.seeds == [(2**64 - 1,)]


def test_what_the_template_gets():
    seen = []

    class Watching(ByteText):
        def encode_chat(self, chat):
            seen.append(chat)
            return [1]

    app, front = make_front()
    front.session.preparer.text = Watching()
    call_ = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "be nice"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call_], "reasoning_content": "hm"},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]
    answer(
        app,
        CHAT,
        {
            "messages": messages,
            "continue_final_message": True,
            "chat_template_kwargs": {"enable_thinking": False},
            "reasoning_effort": "low",
            "verbosity": "high",
        },
    )
    (chat,) = seen
    assert chat.messages == (
        messages[0],
        messages[1],
        messages[2],
        messages[3],
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
    )
    assert (chat.add_generation_prompt, chat.continue_final_message) == (False, True)
    assert chat.template_kwargs == {"enable_thinking": False, "reasoning_effort": "low", "verbosity": "high"}


def test_hints_change_nothing_and_are_echoed_where_the_schema_echoes():
    client = EchoClient()
    hints = {
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {},
        "prediction": {"type": "content", "content": "x"},
        "service_tier": "flex",
        "metadata": {"a": "b"},
    }
    plain = answer(make_app(client), CHAT, {**HELLO, "seed": 1})
    hinted = answer(make_app(client), CHAT, {**HELLO, "seed": 1, **hints})
    assert (hinted["service_tier"], hinted["metadata"]) == ("default", {"a": "b"})
    assert "service_tier" not in plain and "metadata" not in plain
    assert hinted["choices"] == plain["choices"]
    first, second = (msgspec.structs.replace(r, id="", arrived=0.0) for r in client.requests)
    assert first == second


def test_logprobs_of_bytes_that_are_no_characters():
    app = make_app(EchoClient(lambda request, choice: [0xF0, 0x9F, 0x98, 0x80]))
    entries = answer(app, CHAT, {**HELLO, "logprobs": True, "top_logprobs": 1})["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in entries] == [[0xF0], [0x9F], [0x98], [0x80]]
    assert all(entry["token"] == "\ufffd" and entry["top_logprobs"][0]["bytes"] == entry["bytes"] for entry in entries)
    legacy = answer(app, TEXT, {"prompt": "x", "logprobs": 1})["choices"][0]
    assert legacy["text"] == "😀" and legacy["logprobs"]["tokens"][0] == "bytes:\\xf0"
    assert legacy["logprobs"]["text_offset"] == [0, 0, 0, 0]


def test_the_documents_show_what_is_parsed():
    document = call(make_app(), "GET", "/openapi.json").json()
    chat = document["components"]["schemas"]["ChatBody"]
    assert chat["required"] == ["messages"]
    assert {"minimum": 0, "maximum": 2, "type": "number"} in chat["properties"]["temperature"]["anyOf"]
    assert document["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ChatBody"
    }
    text = msgspec.json.encode(document).decode()
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in document["components"]["schemas"]
    operations = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert len(operations) == len(set(operations))
    assert "swagger" in call(make_app(), "GET", "/docs").text
