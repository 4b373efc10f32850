"""Responses over the scripted client: asked for whole and as a stream, each checked against the published schema."""

from __future__ import annotations

import copy
import json
from typing import Any

from fastapi import FastAPI

from radixmill.core.messages import TokenDelta
from radixmill.front.session.events import End, Event
from tests.front.kit import call, post
from tests.front.openapi import conforms

PATH = "/v1/responses"
HI = {"input": "hi"}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    "strict": True,
}
NOTE = {"type": "custom", "name": "note", "description": "Takes a note"}


def whole(app: FastAPI, body: dict[str, Any], status: int = 200, **more: Any) -> dict[str, Any]:
    response = post(app, PATH, {"model": "echo", **body}, **more)
    assert response.status_code == status, response.text
    conforms("Response", response.json())
    return response.json()


def events(app: FastAPI, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = post(app, PATH, {"model": "echo", **body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return parse(response.text)


def get(app: FastAPI, path: str, **query: Any) -> Any:
    response = call(app, "GET", path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def parse(text: str, start: int = 0) -> list[dict[str, Any]]:
    """Events of a stream, whose form, numbers and schemas are checked."""
    found = []
    *blocks, tail = text.split("\n\n")
    assert tail == ""
    for block in blocks:
        first, second = block.split("\n")
        event = json.loads(second.removeprefix("data: "))
        assert first == f"event: {event['type']}"
        conforms("ResponseStreamEvent", event)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(start, start + len(found)))
    return found


def fold(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that a client puts together from deltas alone; asserts the order of events on its way."""
    assert [event["type"] for event in stream[:2]] == ["response.created", "response.in_progress"]
    items: list[dict[str, Any]] = []
    is_open = part_open = False
    for event in copy.deepcopy(stream[2:-1]):
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert not is_open and event["output_index"] == len(items)
            items.append({**event["item"], "status": None})
            is_open = True
            continue
        item = items[event["output_index"]]
        assert is_open and event["output_index"] == len(items) - 1
        if kind == "output_item.done":
            assert not part_open and event["item"]["id"] == item["id"]
            item["status"] = event["item"]["status"]
            assert item == event["item"]
            is_open = False
            continue
        assert event["item_id"] == item["id"]
        part_open = _inside(item, kind, event, part_open)
    assert not is_open
    return items


def _inside(item: dict[str, Any], kind: str, event: dict[str, Any], part_open: bool) -> bool:
    match kind:
        case "content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(event["part"])
            return True
        case "content_part.done":
            assert item["content"][event["content_index"]] == event["part"]
            return False
        case "output_text.delta" | "reasoning_text.delta":
            part = item["content"][event["content_index"]]
            part["text"] += event["delta"]
            part.get("logprobs", []).extend(event.get("logprobs", ()))
        case "output_text.done" | "reasoning_text.done":
            part = item["content"][event["content_index"]]
            assert part["text"] == event["text"] and part.get("logprobs", []) == event.get("logprobs", [])
        case "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        case "function_call_arguments.done":
            assert (event["arguments"], event["name"]) == (item["arguments"], item["name"])
        case "custom_tool_call_input.delta":
            item["input"] += event["delta"]
        case "custom_tool_call_input.done":
            assert event["input"] == item["input"]
        case _:
            raise AssertionError(kind)
    return part_open


IDS = {"id", "item_id", "call_id", "created_at", "completed_at", "seed"}


def essence(value: Any) -> Any:
    """Without what belongs to the call."""
    match value:
        case dict():
            return {key: essence(inner) for key, inner in value.items() if key not in IDS}
        case list():
            return [essence(inner) for inner in value]
    return value


class Scripted:
    """A choice that says given events, a delta each: what the session's pipeline makes of a model's words."""

    def __init__(self, script: list[tuple[Event, ...]]) -> None:
        self.index, self.script, self.at = 0, script, 0
        self.counted, self.cached, self.ended, self.reasoning = 0, 0, False, 0

    def push(self, delta: TokenDelta) -> tuple[Event, ...]:
        self.counted += len(delta.tokens)
        said = self.script[min(self.at, len(self.script) - 1)]
        self.at += 1
        self.ended = any(isinstance(event, End) for event in said)
        return said
