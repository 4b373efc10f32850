"""A session for a model's files: names, defaults and text stack put together."""

from __future__ import annotations

from radixmill.core.config import Config
from radixmill.front.session.session import Session
from radixmill.front.session.text import ModelText
from radixmill.front.text import TextStack
from radixmill.link.client import EngineClient
from radixmill.store import ModelFiles, generation_defaults


def open_session(config: Config, files: ModelFiles, text: TextStack, client: EngineClient) -> Session:
    """The front's side of the model in `files`. Sampling defaults come from its makers unless told otherwise."""
    defaults = generation_defaults(files) if config.server.sampling_defaults == "model" else {}
    served = config.model.served_model_name or (files.name,)
    return Session(ModelText(text), client, served, defaults=defaults, max_requests=config.server.max_queued_requests)
