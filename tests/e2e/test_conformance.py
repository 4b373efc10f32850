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

CASES, TOKENS = 200, 8


def brief(wish: Wish) -> Wish:
    """The same wish for this model, with few tokens to generate where it names no number."""
    if not isinstance(wish.body, dict):
        return wish._replace(path=wish.path.replace("echo", "default"))
    known = {"model": "default"} if wish.body.get("model") in ("echo", "echo-alias") else {}
    most = {"max_tokens": TOKENS} if wish.body.get("max_tokens") is None and wish.field != "max_tokens" else {}
    return wish._replace(body={**wish.body, **known, **most})


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
