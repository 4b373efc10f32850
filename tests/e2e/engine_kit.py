"""The HTTP app over a real engine, all in this process but the engine: its dialect can be changed between requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from radixmill.front.api.app import create_app
from radixmill.front.dialects import Dialect
from radixmill.llm import LLM
from tests.front.kit import parse_sse
from tests.front.test_api_fold import fold_chat

CHAT = "/v1/chat/completions"


class Live:
    """Chats with a real model."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self.app = create_app(llm.front)
        self.own = llm.session.text.dialect

    def chats(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """All at once; of each its only choice, folded if it was streamed."""
        return self.llm.call(self._chats(bodies))

    @contextlib.contextmanager
    def writing(self, dialect: Dialect) -> Iterator[None]:
        """Answers are bound and read as this family writes them."""
        self.llm.session.text.dialect = dialect
        try:
            yield
        finally:
            self.llm.session.text.dialect = self.own

    async def _chats(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=None) as http:
            return list(await asyncio.gather(*(_chat(http, body) for body in bodies)))


async def _chat(http: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post(CHAT, json={"model": "default", **body})
    assert answer.status_code == 200, f"{answer.text}\n{json.dumps(body)}"
    whole = fold_chat(parse_sse(answer.text)) if body.get("stream") else answer.json()
    choice: dict[str, Any] = whole["choices"][0]
    return choice
