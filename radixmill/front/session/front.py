"""What the HTTP routes stand on. The launcher makes one before the app answers, and fills in what loads later."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from radixmill.core.config import Config
from radixmill.core.errors import NotReady
from radixmill.front.session.session import Session
from radixmill.link.client import EngineClient

Mode = Literal["beside", "drain"]  # of a reload: the new model loads while the old serves, or in its place


class Served(Struct, kw_only=True):
    """A model as it is served: its names, and the id of all that its answers' bits depend on."""

    names: list[str]
    numerics: str


class Reloaded(Struct, kw_only=True):
    """Another model serves, or the same one read again. `seconds` that it took."""

    model: str  # as it was named
    served: Served
    previous: Served
    seconds: float


@dataclass
class Front:
    """`session` is None until the tokenizer is loaded, `client` until there is an engine to talk to."""

    config: Config
    client: EngineClient | None = None
    session: Session | None = None
    started_at: float = field(default_factory=time.time)  # seconds since the epoch
    draining: bool = False  # the server ends
    holding: bool = False  # another model is to serve, once what runs has finished
    retiring: list[Session] = field(default_factory=list)  # earlier ones, whose requests finish
    reload: Callable[[str | None, Mode], Awaitable[Reloaded]] | None = None  # serve another model; raises ServeError

    def ready_session(self) -> Session:
        """The session, if a request sent now would be served. Raises NotReady."""
        if self.draining:
            raise NotReady("The server is shutting down.", code="shutting_down", retry_after=5.0)
        if self.holding:
            raise NotReady("The server is about to load another model. Try again later.", retry_after=5.0)
        if self.client is not None and (health := self.client.health()).state == "failed":
            raise NotReady(f"The server cannot serve: {health.detail}.")
        if self.session is None:
            raise NotReady("The server is loading the model. Try again later.", retry_after=1.0)
        self.session.spec()
        self.session.use()
        return self.session

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that may have live requests."""
        return (*self.retiring, *([self.session] if self.session else []))

    @property
    def live(self) -> int:
        """Requests taken and not yet over, whichever model answers them."""
        return sum(session.live for session in self.sessions)

    def abort(self, rid: str, *, everything: bool = False) -> int:
        """See Session.abort."""
        return sum(session.abort(rid, everything=everything) for session in self.sessions)
