"""A session for a model's files: its text stack and dialect, names and defaults put together."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from radixmill.core.config import Config, ServerOptions
from radixmill.core.errors import CannotStart
from radixmill.front.session.detect import detect_dialect
from radixmill.front.session.door import Limits
from radixmill.front.session.session import Session
from radixmill.front.session.text import ModelText
from radixmill.front.text import load_text
from radixmill.link.client import EngineClient
from radixmill.store import ModelFiles, generation_defaults

UNLIMITED = Limits(requests=sys.maxsize, tokens=sys.maxsize)  # where nobody has to be protected from others


def open_text(config: Config, files: ModelFiles) -> ModelText:
    """A model's tokenizer and template, and its dialect with the proof. Raises CannotStart."""
    options, flag = config.model, "--default-chat-template-kwargs"
    stack = load_text(files, chat_template=options.chat_template, tokenizer=options.tokenizer)
    found = detect_dialect(stack, options.reasoning_parser, options.tool_call_parser, trust=options.trust_parsers)
    try:
        kwargs = msgspec.json.decode(options.default_chat_template_kwargs, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise CannotStart(f"{flag} is not a JSON object: {error}", """Write it as '{"name": value}'""") from None
    try:
        return ModelText(stack, found, kwargs)
    except ValueError as error:
        raise CannotStart(f"{flag}: {error}", "Leave them out") from None


def open_session(
    config: Config, files: ModelFiles, text: ModelText, client: EngineClient, limits: Limits | None = None
) -> Session:
    """The front's side of the model in `files`. Sampling defaults come from its makers unless told otherwise. `limits`:
    instead of the server's."""
    defaults = generation_defaults(files) if config.server.sampling_defaults == "model" else {}
    served = config.model.served_model_name or (files.name,)
    return Session(
        text,
        client,
        served,
        defaults=defaults,
        limits=limits or limits_of(config.server),
        shared_prefixes=config.cache.shared_prefix_cache,
        log_prompts=config.server.log_prompts,
    )


def limits_of(server: ServerOptions) -> Limits:
    """What one front takes: its share of what the server does."""
    return Limits(
        requests=max(server.max_queued_requests // server.fronts, 1),
        tokens=max(server.max_queued_tokens // server.fronts, 1),
        prompt=server.max_prompt_tokens,
        wait=server.max_queue_time or None,
        seconds=server.max_running_time or None,
    )
