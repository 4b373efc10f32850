"""Requests from the published schema against the real model: no 5xx, no violation of the schema, streams as answers."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.data import shared
from tests.e2e.kit import Server
from tests.front.conformance import Tally, report, tried, wishes
from tests.front.openapi import FILE
from tests.front.schema_requests import Wish

CASES = 200
MOST = {  # the field that limits the output, and how many tokens it gets where the wish names no number
    "/v1/chat/completions": ("max_tokens", 8),
    "/v1/completions": ("max_tokens", 8),
    "/v1/responses": ("max_output_tokens", 16),
}


def brief(wish: Wish) -> Wish:
    """The same wish for this model, with few tokens to generate where it names no number."""
    if not isinstance(wish.body, dict):
        return wish._replace(path=wish.path.replace("echo", "default"))
    body = dict(wish.body)
    if body.get("model") in ("echo", "echo-alias"):
        body["model"] = "default"
    field, tokens = MOST.get(wish.path, ("", 0))
    if field and body.get(field) is None:
        body[field] = tokens
    return wish._replace(body=body)


@pytest.mark.weights
@pytest.mark.slow
def test_the_real_model_keeps_to_the_published_schema(smollm2_server: Server) -> None:
    shared(*FILE)
    wanted = [brief(wish) for wish in wishes(CASES, seed=2)]

    async def go() -> Tally:
        async with httpx.AsyncClient(base_url=smollm2_server.url, timeout=120, trust_env=False) as http:
            return await tried(http, wanted)

    tally = asyncio.run(go())
    print("\n" + report(tally))
    assert not tally.violations, "\n\n".join(tally.violations[:3])
    assert tally.requests >= CASES and sum(tally.streams.values()) > CASES / 10
