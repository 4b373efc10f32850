"""Chat completions with `store`: kept, read, listed, named anew, forgotten; and whose they are."""

from __future__ import annotations

import openai
import pytest

from tests.fakes import EchoClient
from tests.front.kit import CHAT, HELLO, answer, call, chunks, error, make_app, says, serving
from tests.front.responses_kit import get
from tests.front.test_api_fold import essence, fold_chat
from tests.front.test_api_schema import conforms

STORED = {**HELLO, "store": True}


def test_a_stored_answer_is_read_again_and_another_is_not():
    app = make_app()
    made = answer(app, CHAT, {**STORED, "metadata": {"a": "b"}, "logprobs": True})
    assert get(app, f"{CHAT}/{made['id']}") == made
    for body in (HELLO, {**HELLO, "store": False}):
        fault = error(call(app, "GET", f"{CHAT}/{answer(app, CHAT, body)['id']}"), 404)
        assert fault["param"] == "completion_id"


@pytest.mark.parametrize("fields", [{}, {"n": 2, "logprobs": True}, {"stop": "l"}, {"max_tokens": 2}])
def test_the_fold_of_a_stream_is_what_is_kept(fields):
    app = make_app(EchoClient(says("Hello"), cuts=(2, 1)))
    parts = chunks(app, CHAT, {**STORED, **fields, "seed": 3, "stream_options": {"include_usage": True}})
    kept = get(app, f"{CHAT}/{parts[0]['id']}")
    conforms("CreateChatCompletionResponse", kept)
    assert essence(kept) == fold_chat(parts)


def test_pages():
    app = make_app()
    ids = [answer(app, CHAT, {**STORED, "metadata": {"n": str(i % 2)}})["id"] for i in range(5)]
    page = get(app, CHAT, limit=2)
    conforms("ChatCompletionList", page)
    assert [one["id"] for one in page["data"]] == ids[:2] and page["has_more"]
    rest = get(app, CHAT, after=page["last_id"])
    assert [one["id"] for one in rest["data"]] == ids[2:] and not rest["has_more"]
    assert [one["id"] for one in get(app, CHAT, order="desc")["data"]] == ids[::-1]
    assert [one["id"] for one in get(app, CHAT, **{"metadata[n]": "1"})["data"]] == ids[1::2]
    assert [one["id"] for one in get(app, CHAT, model="echo")["data"]] == ids
    nothing = get(app, CHAT, model="other")
    conforms("ChatCompletionList", nothing)
    assert nothing["data"] == []
    for query, param in (({"limit": "x"}, "limit"), ({"order": "up"}, "order"), ({"after": "nope"}, "after")):
        assert error(call(app, "GET", CHAT, params=query), 400)["param"] == param


def test_messages():
    app = make_app()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": parts, "name": "ann"}]
    id = answer(app, CHAT, {"messages": messages, "store": True})["id"]
    page = get(app, f"{CHAT}/{id}/messages")
    assert page["data"] == [
        {"id": f"{id}-0", "role": "system", "content": "s", "refusal": None, "content_parts": None},
        {"id": f"{id}-1", "role": "user", "content": None, "refusal": None, "content_parts": parts, "name": "ann"},
    ]
    conforms("ChatCompletionMessageList", page)
    assert get(app, f"{CHAT}/{id}/messages", order="desc", limit=1)["data"][0]["id"] == f"{id}-1"


def test_other_metadata():
    app = make_app()
    made = answer(app, CHAT, {**STORED, "metadata": {"a": "b"}})
    changed = call(app, "POST", f"{CHAT}/{made['id']}", json={"metadata": {"c": "d"}}).json()
    conforms("CreateChatCompletionResponse", changed)
    assert changed == {**made, "metadata": {"c": "d"}} == get(app, f"{CHAT}/{made['id']}")
    assert call(app, "POST", f"{CHAT}/{made['id']}", json={"metadata": None}).json()["metadata"] == {}
    for body, param in (({}, "metadata"), ({"metadata": {"a": 1}}, "metadata.a")):
        assert error(call(app, "POST", f"{CHAT}/{made['id']}", json=body), 400)["param"] == param


def test_forgetting():
    app = make_app()
    id = answer(app, CHAT, STORED)["id"]
    gone = call(app, "DELETE", f"{CHAT}/{id}").json()
    conforms("ChatCompletionDeleted", gone)
    assert gone["id"] == id and get(app, CHAT)["data"] == []
    for method, path, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("GET", "/messages", None),
        ("POST", "", {"metadata": {}}),
    ):
        assert error(call(app, method, f"{CHAT}/{id}{path}", json=body), 404)["param"] == "completion_id"


def test_a_key_never_sees_another_keys_answers():
    app = make_app(api_key=("ann", "bob"))
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in ("ann", "bob"))
    id = call(app, "POST", CHAT, json=STORED, headers=ann).json()["id"]
    assert call(app, "GET", CHAT, headers=bob).json()["data"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/messages")):
        error(call(app, method, f"{CHAT}/{id}{path}", headers=bob), 404)
    assert call(app, "GET", f"{CHAT}/{id}", headers=ann).status_code == 200


def test_a_stored_chat_is_no_response_and_the_other_way_round():
    app = make_app()
    chat = answer(app, CHAT, STORED)["id"]
    response = answer(app, "/v1/responses", {"input": "hi"})["id"]
    error(call(app, "GET", f"/v1/responses/{chat}"), 404)
    error(call(app, "GET", f"{CHAT}/{response}"), 404)
    assert len(get(app, CHAT)["data"]) == 1


def test_the_official_client():
    with serving(make_app()) as live, openai.OpenAI(base_url=live.url + "/v1", api_key="x", max_retries=0) as client:
        kept = client.chat.completions
        ids = [kept.create(model="echo", **STORED, metadata={"n": str(i)}).id for i in range(3)]
        assert [one.id for one in kept.list(limit=2)] == ids, "the client pages by itself"
        assert [one.id for one in kept.list(metadata={"n": "1"})] == [ids[1]]
        assert kept.retrieve(ids[0]).choices[0].message.content == "Hello"
        assert kept.update(ids[0], metadata={"n": "9"}).id == ids[0]
        assert [one.id for one in kept.list(metadata={"n": "9"})] == [ids[0]]
        assert [message.content for message in kept.messages.list(ids[0])] == ["hi"]
        assert kept.delete(ids[0]).deleted
        with pytest.raises(openai.NotFoundError):
            kept.retrieve(ids[0])
