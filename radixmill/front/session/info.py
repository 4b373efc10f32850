"""What a server tells of itself: its model, its settings, its engine's counters. Secrets are redacted."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

import msgspec

from radixmill import __version__
from radixmill.core.config import Config, walk
from radixmill.core.errors import ServeError
from radixmill.front.session.front import Front

STATS_SECONDS = 2.0
REDACTED = "[redacted]"


def model_info(front: Front) -> dict[str, Any]:
    session = front.ready_session()
    spec, options, speaks = session.spec(), front.config.model, session.text.detected
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
        "reasoning_parser": None if speaks.reasoning_parser == "none" else speaks.reasoning_parser,
        "reasoning_basis": speaks.basis("thoughts"),
        "tool_call_parser": None if speaks.tool_call_parser == "none" else speaks.tool_call_parser,
        "tool_call_basis": speaks.basis("calls"),
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
        "requests": front.live,
        "spec": None if spec is None else msgspec.to_builtins(spec),
        "max_total_num_tokens": spec.kv_tokens if spec and spec.kv_groups else None,
        "max_req_input_len": None if spec is None else spec.context - 1,
    }


async def engine_stats(front: Front) -> list[dict[str, Any]]:
    """The counters of each engine that answers soon, beside those of this front's door; none of one that is loading, dead
    or busy."""
    try:
        async with asyncio.timeout(STATS_SECONDS):
            stats = [await front.client.control("stats")] if front.client else []
    except (ServeError, TimeoutError):
        return []
    door = front.session.door.stats() if front.session else {}
    return [{**each, **door} for each in stats]


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
