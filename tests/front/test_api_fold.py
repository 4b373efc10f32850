"""Fold(stream) == non-stream, for every feature together, under every cut of the deltas."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from radixmill.front.dialects import THINKING
from tests.fakes import EOS, ByteText, EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, answer, chunks, install, make_app, make_front

TEXTS = st.lists(st.sampled_from(["a", "b", "é", "😀", "\n", "stop", "<"]), max_size=8).map("".join)
COMMON = {
    "n": st.sampled_from([None, 1, 3]),
    "seed": st.just(5),
    "stop": st.sampled_from([None, "stop", ["b\n", "é", "pb"]]),
    "stop_token_ids": st.sampled_from([None, [ord("<")]]),
    "no_stop_trim": st.sampled_from([None, True]),
    "skip_special_tokens": st.sampled_from([None, False]),
    "min_tokens": st.sampled_from([None, 2]),
    "ignore_eos": st.sampled_from([None, True]),
    "return_token_ids": st.sampled_from([None, True]),
}
CHAT_FIELDS = COMMON | {
    "max_completion_tokens": st.sampled_from([None, 4]),
    "logprobs": st.sampled_from([None, True]),
    "service_tier": st.sampled_from([None, "auto"]),
}
TEXT_FIELDS = COMMON | {
    "prompt": st.sampled_from(["p", ["p", "qq"], [112, 113], [[112], [113, 113]]]),
    "max_tokens": st.sampled_from([None, 0, 40]),
    "logprobs": st.sampled_from([None, 0, 2]),
    "echo": st.sampled_from([None, True]),
}
WORLD = {
    "said": st.lists(TEXTS, min_size=3, max_size=3),
    "tails": st.lists(st.sampled_from([b"", b"\xf0\x9f", bytes([0xC3])]), min_size=3, max_size=3),
    "cuts": st.lists(st.integers(1, 7), min_size=1, max_size=4),
    "cached": st.integers(0, 2),
}


def world(said: list[str], tails: list[bytes], cuts: list[int], cached: int) -> EchoClient:
    """Three scripts: choice c of any prompt says said[c], perhaps with half a character at the end, then EOS."""
    scripts = [[*text.encode(), *tail, EOS] for text, tail in zip(said, tails, strict=True)]
    return EchoClient(lambda request, choice: scripts[choice], cuts=cuts, cached=cached)


APP, FRONT = make_front()


def run(
    path: str, body: dict[str, Any], fake: dict[str, Any], text: ByteText | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A stream's chunks, and the essence of the whole answer, which must not depend on the cuts."""
    install(FRONT, world(**fake), text)
    parts = chunks(APP, path, {**body, "stream_options": {"include_usage": True}})
    response = essence(answer(APP, path, body))
    install(FRONT, world(**{**fake, "cuts": [1000]}), text)
    assert essence(answer(APP, path, body)) == response
    return parts, response


def given_fields(fields: dict[str, st.SearchStrategy]) -> st.SearchStrategy:
    return st.fixed_dictionaries(fields).map(lambda body: {k: v for k, v in body.items() if v is not None})


def fold_chat(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client puts together from a chat stream; asserts the rules of streams on its way."""
    choices: dict[int, dict[str, Any]] = {}
    assert parts[-1]["choices"] == [] and parts[-1]["usage"]
    for part in parts[:-1]:
        assert part["object"] == "chat.completion.chunk" and part["usage"] is None
        (said,) = part["choices"]
        index, delta = said["index"], said["delta"]
        if index not in choices:
            assert delta.keys() == {"role", "content", "refusal"} and said["finish_reason"] is None
            assert not delta["content"], "only who has nothing else to say begins with an empty text"
            message = dict(delta)
            choices[index] = {"index": index, "message": message, "logprobs": None, "finish_reason": None}
            if "prompt_token_ids" in said:
                choices[index] |= {"prompt_token_ids": said["prompt_token_ids"], "token_ids": []}
            continue
        choice = choices[index]
        assert choice["finish_reason"] is None, "nothing comes after the finish chunk"
        add(choice["message"], delta)
        choice.get("token_ids", []).extend(said.get("token_ids", ()))
        if said["logprobs"]:
            choice["logprobs"] = choice["logprobs"] or {"content": [], "refusal": None}
            choice["logprobs"]["content"] += said["logprobs"]["content"]
        if said["finish_reason"]:
            assert delta == {}
            choice["finish_reason"] = said["finish_reason"]
            choice |= {"matched_stop": said["matched_stop"]} if "matched_stop" in said else {}
    return whole(parts, choices)


def add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Put a delta's parts to the message; asserts the shape of calls."""
    for key in ("content", "reasoning_content", "reasoning"):
        if key in delta:
            message[key] = (message.get(key) or "") + delta[key]
    for part in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if "id" in part:
            assert part["index"] == len(calls) and part["function"] == {
                "name": part["function"]["name"],
                "arguments": "",
            }
            calls.append({key: value for key, value in part.items() if key != "index"})
        else:
            assert part.keys() == {"index", "function"} and part["index"] == len(calls) - 1
            calls[-1]["function"]["arguments"] += part["function"]["arguments"]
    if "function_call" in delta:
        call = message.setdefault("function_call", {"arguments": ""})
        call |= {key: value for key, value in delta["function_call"].items() if key == "name"}
        call["arguments"] += delta["function_call"]["arguments"]


def fold_text(parts: list[dict[str, Any]]) -> dict[str, Any]:
    choices: dict[int, dict[str, Any]] = {}
    assert parts[-1]["choices"] == [] and parts[-1]["usage"]
    for part in parts[:-1]:
        assert part["object"] == "text_completion" and part["usage"] is None
        (said,) = part["choices"]
        index = said["index"]
        if index not in choices:
            choices[index] = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
            if "prompt_token_ids" in said:
                choices[index] |= {"prompt_token_ids": said["prompt_token_ids"], "token_ids": []}
        choice = choices[index]
        assert choice["finish_reason"] is None, "nothing comes after the finish chunk"
        choice["text"] += said["text"]
        choice.get("token_ids", []).extend(said.get("token_ids", ()))
        if said["logprobs"]:
            have = choice["logprobs"] = choice["logprobs"] or {key: [] for key in said["logprobs"]}
            for key, values in said["logprobs"].items():
                have[key] += values
        if said["finish_reason"]:
            choice["finish_reason"] = said["finish_reason"]
            choice |= {"matched_stop": said["matched_stop"]} if "matched_stop" in said else {}
    return whole(parts, choices)


def whole(parts: list[dict[str, Any]], choices: dict[int, dict[str, Any]]) -> dict[str, Any]:
    first, last = parts[0], parts[-1]
    assert all(
        (part["id"], part["created"], part["model"]) == (first["id"], first["created"], first["model"])
        for part in parts
    )
    assert ["seed" in part for part in parts] == [True] + [False] * (len(parts) - 1)
    top = {key: first[key] for key in ("seed", "model", "system_fingerprint", "service_tier") if key in first}
    return top | {"choices": [choices[i] for i in sorted(choices)], "usage": last["usage"]}


def essence(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what belongs to the call; no logprobs at all are as good as an empty list of them."""
    kept = {key: value for key, value in response.items() if key not in ("id", "object", "created")}
    for choice in kept["choices"]:
        if choice["logprobs"] and not any(choice["logprobs"].values()):
            choice["logprobs"] = None
    return kept


@given(st.fixed_dictionaries(WORLD), given_fields(CHAT_FIELDS))
@settings(max_examples=150, deadline=None)
def test_chat(fake, fields):
    parts, response = run(CHAT, {**HELLO, **fields}, fake)
    assert fold_chat(parts) == response


CALLS = ['<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', '<tool_call>{"name": "g"}</tool_call>']
TAGGED = st.lists(
    st.sampled_from(
        [*CALLS, "<think>", "</think>", "\n", "a", "é", "stop", '<tool_call>{"name": "h"}</tool_call>', "<tool"]
    ),
    max_size=6,
).map("".join)
F = {"name": "f", "parameters": {"type": "object"}}
G = {"name": "g", "description": "d", "strict": True}
TOOLS = [{"type": "function", "function": function} for function in (F, G)]
TAG_WORLD = WORLD | {"said": st.lists(TAGGED, min_size=3, max_size=3)}
TAG_FIELDS = st.sampled_from([
    {},
    {"tools": TOOLS},
    {"tools": TOOLS[:1]},
    {"tools": TOOLS, "tool_choice": "required"},
    {"tools": TOOLS, "parallel_tool_calls": False},
    {"functions": [F, G]},
    {"functions": [F], "function_call": {"name": "f"}},
])  # fmt: skip
MORE_FIELDS = CHAT_FIELDS | {
    "separate_reasoning": st.sampled_from([None, False]),
    "stream_reasoning": st.sampled_from([None, False]),
    "max_completion_tokens": st.sampled_from([None, 4, 40]),
}


@given(st.fixed_dictionaries(TAG_WORLD), given_fields(MORE_FIELDS), TAG_FIELDS, st.sampled_from(["", "<think>\n"]))
@settings(max_examples=150, deadline=None)
def test_thoughts_and_calls(fake, fields, tools, begun):
    parts, response = run(CHAT, {**HELLO, "rid": "r", **fields, **tools}, fake, ByteText(THINKING, begun))
    assert fold_chat(parts) == response
    counted = sum(len(choice["logprobs"]["content"]) for choice in response["choices"] if choice["logprobs"])
    assert not counted or counted == response["usage"]["completion_tokens"], "one entry per counted token"


@given(st.fixed_dictionaries(WORLD), given_fields(TEXT_FIELDS))
@settings(max_examples=150, deadline=None)
def test_text(fake, body):
    assume(body.get("max_tokens") != 0 or not body.get("min_tokens"))
    parts, response = run(TEXT, body, fake)
    assert fold_text(parts) == response
    for choice in response["choices"]:
        if choice["logprobs"]:
            offsets = choice["logprobs"]["text_offset"]
            assert offsets == sorted(offsets) and all(0 <= at <= len(choice["text"]) for at in offsets)
    counted = sum(len(choice["logprobs"]["tokens"]) for choice in response["choices"] if choice["logprobs"])
    echoed = response["usage"]["prompt_tokens"] * (body.get("n") or 1) if body.get("echo") else 0
    assert not counted or counted == response["usage"]["completion_tokens"] + echoed, "one entry per counted token"


def test_usage_on_every_chunk():
    app = make_app(EchoClient(cached=1))
    options = {"include_usage": True, "continuous_usage_stats": True}
    for path, body in ((CHAT, HELLO), (TEXT, {"prompt": "x"})):
        parts = chunks(app, path, {**body, "stream_options": options})
        counts = [part["usage"]["completion_tokens"] for part in parts]
        assert counts == sorted(counts) and counts[-1] == 6
        assert {part["usage"]["prompt_tokens_details"]["cached_tokens"] for part in parts} == {1}
    parts = chunks(app, CHAT, {**HELLO, "stream_options": {"continuous_usage_stats": True}})
    assert parts[-1]["choices"], "no last chunk that nobody asked for"


def test_without_options_chunks_say_nothing_of_usage():
    assert all("usage" not in part for part in chunks(make_app(), CHAT, HELLO))


def test_best_of_returns_the_n_best_and_counts_them_all():
    client = EchoClient(lambda request, choice: [b"zebra", b"a", b"mm"][choice])
    body = {"prompt": "x", "n": 2, "best_of": 3, "seed": 1}
    response = answer(make_app(client), TEXT, body)
    assert [(c["index"], c["text"], c["logprobs"]) for c in response["choices"]] == [(0, "a", None), (1, "zebra", None)]
    assert response["usage"]["completion_tokens"] == 8
