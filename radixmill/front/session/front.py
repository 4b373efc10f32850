"""What the HTTP routes stand on. The launcher makes one before the app answers, and fills in what loads later."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from radixmill.core.config import Config
from radixmill.core.errors import NotReady
from radixmill.front.session.caller import Caller
from radixmill.front.session.session import Session
from radixmill.front.session.view import EngineView, Load
from radixmill.link.client import EngineClient, Health, State

WAITS = {"loading": 1.0, "restarting": 1.0, "stalled": 2.0, "draining": 5.0}  # seconds until it is worth asking again

HOLDING = "The server is about to load another model. Try again later."


class Condition(Struct, frozen=True, kw_only=True):
    """How a server is, as its health routes tell."""

    ready: bool  # a request sent now would be served at once
    reason: str  # why not; "" where it would
    state: State | Literal["stalled"]
    last_step_age: float | None  # seconds since the engine's last step; grows while there is nothing to do
    running: int | None  # sequences in the engine; null where it can't be seen
    waiting: int | None
    waiting_tokens: int | None  # tokens that the waiting ones have to compute
    live: int  # requests that this front has taken and not answered
    incarnation: int  # of the engine: how many there have been


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
    view: EngineView | None = None  # None: the engine can't be seen, only heard

    def ready_session(self) -> Session:
        """The session, if it takes work: what is sent while an engine is restarted waits for the next. Raises NotReady."""
        if self.draining:
            raise NotReady("The server is shutting down.", code="shutting_down", retry_after=5.0)
        if self.holding:
            raise NotReady(HOLDING, retry_after=WAITS["draining"])
        if self.client is not None and (health := self.client.health()).state == "failed":
            raise NotReady(f"The server cannot serve: {health.detail}.")
        if self.session is None:
            raise NotReady("The server is loading the model. Try again later.", retry_after=1.0)
        self.session.spec()
        self.session.use()
        return self.session

    def check_room(self, caller: Caller) -> None:
        """Raise Overloaded if no request more is taken: ask before its body is read."""
        if self.session is not None:
            self.session.door.check(caller.owner)

    def would_serve(self) -> Session:
        """The session, if a request sent now would be served at once, as far as we know. Raises NotReady."""
        condition = self.condition()
        if not condition.ready or self.session is None:
            raise not_ready(condition)
        return self.session

    def condition(self) -> Condition:
        """How the server is. Never asks the engine, which may be wedged."""
        health = self.client.health() if self.client else Health("loading")
        state, reason = self._state(health)
        load = self.view.load() if self.view else Load()
        age = load.last_step_age
        return Condition(
            ready=not reason,
            reason=reason,
            state=state,
            last_step_age=None if age is None else round(age, 3),
            running=load.running,
            waiting=load.waiting,
            waiting_tokens=load.waiting_tokens,
            live=self.live,
            incarnation=health.incarnation,
        )

    def _state(self, health: Health) -> tuple[State | Literal["stalled"], str]:
        """The state, and why it is no good."""
        if self.draining or health.state == "draining":
            return "draining", "The server is shutting down."
        if self.holding:
            return "draining", HOLDING
        if health.state == "failed":
            return "failed", f"The server cannot serve: {health.detail}."
        if self.session is None or health.state == "loading" or self.session.client.spec is None:
            return "loading", "The server is loading the model. Try again later."
        if health.state == "restarting":
            return "restarting", "The engine died and is being restarted; requests wait for it."
        if self.view and self.view.stalled:
            return "stalled", "The engine makes no progress; it will be restarted, and requests wait for it."
        return "ready", ""

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that may have live requests."""
        return (*self.retiring, *([self.session] if self.session else []))

    @property
    def live(self) -> int:
        """Requests taken and not yet over, whichever model answers them."""
        return sum(session.live for session in self.sessions)

    def abort(self, rid: str, caller: Caller, *, everything: bool = False) -> int:
        """See Session.abort."""
        return sum(session.abort(rid, caller, everything=everything) for session in self.sessions)


def not_ready(condition: Condition) -> NotReady:
    """The error that says of a condition why it is no good."""
    return NotReady(condition.reason, retry_after=WAITS.get(condition.state))
