"""Health, information, and the few orders that are not about one answer."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from radixmill import __version__
from radixmill.core.config import Config, walk
from radixmill.core.errors import BadRequest, EngineFailed, ServeError
from radixmill.front.api.body import Reader
from radixmill.front.api.docs import operation
from radixmill.front.session import Ask, Front, Sampling, TokenPrompt, gather

STATS_SECONDS = 2.0
PROBE_SECONDS = 20.0
PROBE_TENANT = "\0health"  # a cache namespace no client can name by accident
ID_PREFIXES = ("chatcmpl-", "cmpl-", "resp_", "msg_")
REDACTED = "[redacted]"


class AbortBody(Struct, kw_only=True):
    """The body of POST /abort_request."""

    rid: str = ""
    abort_all: bool = False


class Aborted(Struct):
    aborted: int


class Flushed(Struct):
    success: bool
    message: str


KINDS = (AbortBody, Aborted, Flushed)


def add_health_routes(app: FastAPI, front: Front) -> None:
    async def live() -> Response:
        return Response()

    async def ready() -> Response:
        front.ready_session()
        return Response()

    async def generate() -> Response:
        await probe(front)
        return Response()

    for path, endpoint, summary in (
        ("/live", live, "The process answers"),
        ("/ready", ready, "A request sent now would be served"),
        ("/health", ready, "A request sent now would be served"),
        ("/health_generate", generate, "One token was generated just now"),
    ):
        app.add_api_route(path, endpoint, methods=["GET"], operation_id=path[1:], **operation(summary, None, None))
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


async def probe(front: Front) -> None:
    """Generate one token. Raises ServeError."""
    session = front.ready_session()
    ask = Ask(
        id=f"health-{uuid.uuid4().hex}",
        model="default",
        prompts=(TokenPrompt((0,)),),
        max_tokens=1,
        sampling=Sampling(temperature=0.0, ignore_eos=True),
        tenant=PROBE_TENANT,
    )
    generation = await session.start(ask)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await gather(generation)
    except TimeoutError:
        raise EngineFailed(f"No token came within {PROBE_SECONDS:g} seconds.", code="stalled") from None
    finally:
        generation.close()


def add_info_routes(app: FastAPI, front: Front) -> None:
    _add_get(app, ("/version",), lambda: {"version": __version__}, "The server's version")
    _add_get(app, ("/model_info", "/get_model_info"), lambda: model_info(front), "The model")

    async def info() -> Response:
        return _json({**server_info(front), "internal_states": await engine_stats(front)})

    for path in ("/server_info", "/get_server_info"):
        shown = operation("Settings, and why; the engine's counters", None, None)
        app.add_api_route(path, info, methods=["GET"], operation_id=path[1:], **shown)


def model_info(front: Front) -> dict[str, Any]:
    session = front.ready_session()
    spec, options = session.spec(), front.config.model
    return {
        "model_path": options.model,
        "tokenizer_path": options.tokenizer or options.model,
        "served_model_name": session.served[0],
        "served_model_names": list(session.served),
        "is_generation": True,
        "preferred_sampling_params": session.defaults or None,
        "load_format": options.load_format,
        "has_image_understanding": "image" in spec.modalities,
        "has_audio_understanding": "audio" in spec.modalities,
        "model_type": spec.architecture,
        "architectures": [spec.architecture],
        "context_length": spec.context,
        "context_reason": spec.context_reason,
        "vocab_size": spec.vocab_size,
        "eos_token_ids": list(spec.eos_ids),
        "numerics": spec.numerics,
        "compute": spec.compute,
        "kv_cache_dtype": spec.kv_dtype,
        "isa": spec.isa,
    }


def server_info(front: Front) -> dict[str, Any]:
    """Settings flat (as SGLang's scripts read them) and as the tree that starts the same server; secrets redacted."""
    spec = front.client.spec if front.client else None
    health = asdict(front.client.health()) if front.client else {"state": "loading"}
    flat = {path[-1]: value for path, value in settings(front.config)}
    return {
        **flat,
        "model_path": front.config.model.model,
        "config": tree(front.config),
        "version": __version__,
        "uptime_seconds": round(time.time() - front.started_at, 3),
        "engine": health,
        "requests": front.session.live if front.session else 0,
        "spec": None if spec is None else msgspec.to_builtins(spec),
        "max_total_num_tokens": None if spec is None else sum(g.pages for g in spec.kv_groups[:1]) * spec.page_size,
        "max_req_input_len": None if spec is None else spec.context - 1,
    }


async def engine_stats(front: Front) -> list[dict[str, Any]]:
    """The counters of each engine that answers soon; none of one that is loading, dead or busy."""
    try:
        async with asyncio.timeout(STATS_SECONDS):
            return [await front.client.control("stats")] if front.client else []
    except (ServeError, TimeoutError):
        return []


def settings(config: Config) -> list[tuple[tuple[str, ...], Any]]:
    """(path, value) of every setting; a secret's value only says whether there is one."""
    found = []
    for path, _, field in walk(Config):
        value: Any = config
        for name in path:
            value = getattr(value, name)
        found.append((path, REDACTED if value and field.metadata.get("secret") else value))
    return found


def tree(config: Config) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for (group, name), value in settings(config):
        groups.setdefault(group, {})[name] = value
    return groups


def add_order_routes(app: FastAPI, front: Front) -> None:
    aborts = Reader(AbortBody, max_bytes=front.config.server.max_body_bytes, strict=front.config.server.strict_fields)

    async def flush_cache() -> Response:
        front.ready_session()
        assert front.client is not None
        await front.client.control("flush_cache")
        return _json(Flushed(True, "The prefix cache is empty."))

    async def abort_request(request: Request) -> Response:
        parsed = await aborts.read(request)
        session, body = front.ready_session(), parsed.body
        if not body.rid and not body.abort_all:
            raise BadRequest("rid must be the id of a request, or abort_all true.", param="rid")
        return _json(Aborted(session.abort(_bare(body.rid), everything=body.abort_all)))

    app.add_api_route(
        "/flush_cache", flush_cache, methods=["POST"], **operation("Empty the prefix cache", None, Flushed)
    )
    app.add_api_route(
        "/abort_request",
        abort_request,
        methods=["POST"],
        **operation("Stop the requests whose id begins with rid, or all", AbortBody, Aborted),
    )


def _bare(id: str) -> str:
    """A request's id out of a response's."""
    return next((id[len(prefix) :] for prefix in ID_PREFIXES if id.startswith(prefix)), id)


def _add_get(app: FastAPI, paths: tuple[str, ...], make: Callable[[], dict[str, Any]], summary: str) -> None:
    async def endpoint() -> Response:
        return _json(make())

    for path in paths:
        app.add_api_route(path, endpoint, methods=["GET"], operation_id=path[1:], **operation(summary, None, None))


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
