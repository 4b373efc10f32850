"""What the HTTP routes stand on. The launcher makes one before the app answers, and fills in what loads later."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from radixmill.core.config import Config
from radixmill.core.errors import NotReady
from radixmill.front.session.session import Session
from radixmill.link.client import EngineClient


@dataclass
class Front:
    """`session` is None until the tokenizer is loaded, `client` until there is an engine to talk to."""

    config: Config
    client: EngineClient | None = None
    session: Session | None = None
    started_at: float = field(default_factory=time.time)  # seconds since the epoch
    draining: bool = False

    def ready_session(self) -> Session:
        """The session, if a request sent now would be served. Raises NotReady."""
        if self.draining:
            raise NotReady("The server is shutting down.", retry_after=5.0)
        if self.client is not None and (health := self.client.health()).state == "failed":
            raise NotReady(f"The server cannot serve: {health.detail}.")
        if self.session is None:
            raise NotReady("The server is loading the model. Try again later.", retry_after=1.0)
        self.session.spec()
        return self.session
