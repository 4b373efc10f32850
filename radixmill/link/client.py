"""The client half of the waist: what the front knows of an engine. Four verbs; argue before adding a fifth."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from radixmill.core.messages import TokenDelta
from radixmill.core.request import GenerateRequest
from radixmill.core.spec import ModelSpec

State = Literal["loading", "ready", "restarting", "draining", "failed"]


@dataclass(frozen=True)
class Health:
    """How the engine is, truthfully. Requests are taken when `state` is ready or restarting (they wait, none is lost)."""

    state: State
    detail: str = ""
    incarnation: int = 0
    live: int = 0  # sequences submitted and not yet ended


class Stream(Protocol):
    """The deltas of one request's sequences, in order, each token once: respawns are invisible but for a pause.

    Iteration ends when every sequence has ended. Leaving early must be followed by `cancel`.
    """

    seqs: tuple[int, ...]  # sequence ids, one per seed given to submit

    def __aiter__(self) -> AsyncIterator[TokenDelta]: ...

    async def __anext__(self) -> TokenDelta: ...

    def cancel(self, seq: int | None = None) -> None:
        """Cancel one sequence, or all that still run. Idempotent. Ends still arrive (reason "cancelled")."""


class EngineClient(Protocol):
    """An engine as the front sees it."""

    @property
    def spec(self) -> ModelSpec | None:
        """None until the engine has said Ready for the first time."""

    def submit(self, request: GenerateRequest, seeds: Sequence[int]) -> Stream:
        """Start len(seeds) sequences of one prompt."""

    def cancel(self, seq: int) -> None: ...

    async def control(self, verb: str, **args: Any) -> dict[str, Any]:
        """Raises ServeError where the engine says no."""

    def health(self) -> Health: ...
