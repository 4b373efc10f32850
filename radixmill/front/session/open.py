"""A session for a model's files: names, defaults and text stack put together."""

from __future__ import annotations

from typing import Any

import msgspec

from radixmill.core.config import Config
from radixmill.core.errors import CannotStart
from radixmill.front.session.session import Session
from radixmill.front.session.text import ModelText
from radixmill.front.text import TextStack
from radixmill.link.client import EngineClient
from radixmill.store import ModelFiles, generation_defaults


def open_session(config: Config, files: ModelFiles, text: TextStack, client: EngineClient) -> Session:
    """The front's side of the model in `files`. Sampling defaults come from its makers unless told otherwise.

    Raises CannotStart where the chat template's arguments can't be.
    """
    defaults = generation_defaults(files) if config.server.sampling_defaults == "model" else {}
    served = config.model.served_model_name or (files.name,)
    made = _model_text(text, config.model.default_chat_template_kwargs)
    return Session(made, client, served, defaults=defaults, max_requests=config.server.max_queued_requests)


def _model_text(text: TextStack, template_kwargs: str) -> ModelText:
    flag = "--default-chat-template-kwargs"
    try:
        kwargs = msgspec.json.decode(template_kwargs, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise CannotStart(f"{flag} is not a JSON object: {error}", """Write it as '{"name": value}'""") from None
    try:
        return ModelText(text, kwargs)
    except ValueError as error:
        raise CannotStart(f"{flag}: {error}", "Leave them out") from None
