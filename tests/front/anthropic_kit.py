"""What the tests of Anthropic's API stand on: its official client, and a session that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx
import httpx2
from fastapi import FastAPI

from radixmill.core.errors import ServeError
from radixmill.front.session import ANYONE, Ask, Caller, Event, Facts, Front, Generation, Session, Usage
from radixmill.front.session.door import Bounds, Door
from tests.fakes import ByteText, EchoClient
from tests.front.kit import serving

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HI: dict[str, Any] = {"model": "echo", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Told(Generation):
    """An answer whose events are given; it may fail where an error stands among them."""

    def __init__(self, facts: Facts, told: Sequence[tuple[Event, ...] | ServeError], usage: Usage) -> None:
        super().__init__(facts, (), (), lambda: None, Door(Bounds()).enter())
        self.told, self.final = told, usage

    def __aiter__(self) -> AsyncIterator[tuple[Event, ...]]:
        return self._tell()

    async def _tell(self) -> AsyncIterator[tuple[Event, ...]]:
        for events in self.told:
            if isinstance(events, ServeError):
                raise events
            yield events

    def usage(self) -> Usage:
        return self.final


class TellingSession(Session):
    """A session that answers every Ask with `told`; the Asks are kept."""

    def __init__(self) -> None:
        super().__init__(ByteText(), EchoClient(), ("echo",))
        self.told: Sequence[tuple[Event, ...] | ServeError] = ()
        self.final = Usage(prompt=10, completion=7, cached=3, reasoning=2)
        self.asks: list[Ask] = []

    async def start(self, ask: Ask, caller: Caller = ANYONE) -> Generation:
        self.asks.append(ask)
        facts = Facts(
            id=ask.id, model=ask.model, created=1, seed=ask.seed or 0, fingerprint="n", prompts=((1,),), width=1
        )
        return Told(facts, self.told, self.final)


def telling_front(front: Front) -> TellingSession:
    """Put a telling session into a front."""
    session = TellingSession()
    front.client, front.session = session.client, session
    return session


@contextmanager
def client_of(app: FastAPI, key: str = "none") -> Iterator[anthropic.Anthropic]:
    """The official client, talking to the app over a socket; it never retries."""
    with serving(app) as live:
        yield official(live.url, key)


def official(url: str, key: str = "none") -> anthropic.Anthropic:
    http = httpx2.Client(trust_env=False, timeout=120)
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, http_client=http)


def fault(response: httpx.Response, status: int, kind: str) -> str:
    """The message of an error, whose shape, status and type are checked."""
    assert response.status_code == status, (response.status_code, response.text)
    body = response.json()
    assert set(body) == {"type", "error", "request_id"} and body["type"] == "error"
    assert set(body["error"]) == {"type", "message"} and body["error"]["type"] == kind
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return body["error"]["message"]


def parse_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, each named as its type says."""
    blocks = text.split("\n\n")
    assert blocks.pop() == "" and "[DONE]" not in text
    found = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found
