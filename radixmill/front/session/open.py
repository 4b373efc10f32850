"""A session for a model's files: its text stack and dialect, names and defaults put together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from radixmill.core.config import Config, ServerOptions
from radixmill.core.errors import CannotStart
from radixmill.core.spec import ModelSpec
from radixmill.front.session.detect import detect_dialect
from radixmill.front.session.door import Bounds
from radixmill.front.session.guest import Guests
from radixmill.front.session.receipt import Notary, SigningKey
from radixmill.front.session.record import RecordFolder, Scribe, TextHashes
from radixmill.front.session.session import Policy, Session
from radixmill.front.session.text import ModelText
from radixmill.front.text import TextStack, load_text
from radixmill.link.client import EngineClient
from radixmill.store import ModelFiles, generation_defaults
from radixmill.store.digest import WeightDigest

UNLIMITED = Bounds(
    requests=sys.maxsize, sequences=sys.maxsize, tokens=sys.maxsize
)  # where nobody has to be protected from others


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
    config: Config, files: ModelFiles, text: ModelText, client: EngineClient, limits: Bounds | None = None
) -> Session:
    """The front's side of the model in `files`, whose engine is ready. Sampling defaults come from its makers unless told
    otherwise. `limits`: instead of the server's. Raises CannotStart."""
    defaults = generation_defaults(files) if config.server.sampling_defaults == "model" else {}
    served = config.model.served_model_name or (files.name,)
    notary = open_notary(config, files, text, client.spec) if client.spec else None
    policy = Policy(config.cache.shared_prefix_cache, config.server.trust_priority, config.server.log_prompts)
    bounds = limits or limits_of(config.server)
    guests = Guests(text) if config.server.trust_request_chat_template else None
    return Session(text, client, served, defaults=defaults, limits=bounds, policy=policy, notary=notary, guests=guests)


def open_notary(config: Config, files: ModelFiles, text: ModelText, spec: ModelSpec) -> Notary:
    """Who tells of a model's answers. Raises CannotStart where a key that was named can't be used."""
    server = config.server
    key = SigningKey(Path(server.receipt_key).expanduser() if server.receipt_key else None)
    if server.receipt_key:
        key.key()
    weights = WeightDigest(files, spec.weight_marks, dummy=config.model.load_format == "dummy")
    folder = RecordFolder(Path(server.record_dir).expanduser()) if server.record_dir else None
    return Notary(Scribe(config, spec, text_hashes(text.stack)), weights, key, folder)


def text_hashes(stack: TextStack) -> TextHashes:
    template = stack.template
    return TextHashes(stack.tokenizer, stack.tokenizer.vocab_size, template.sources if template else None)


def limits_of(server: ServerOptions) -> Bounds:
    """What one front takes: its share of what the server does."""
    return Bounds(
        requests=max(server.max_queued_requests // server.fronts, 1),
        sequences=max(server.max_queued_sequences // server.fronts, 1),
        tokens=max(server.max_queued_tokens // server.fronts, 1),
        prompt=server.max_prompt_tokens,
        wait=server.max_queue_time or None,
        seconds=server.max_running_time or None,
    )
