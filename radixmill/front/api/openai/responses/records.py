"""Kept responses: by owner and id, with the items before them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from radixmill.core.errors import BadRequest, NotFound
from radixmill.front.api.openai.responses.items import Item
from radixmill.front.api.openai.responses.output import Response
from radixmill.front.api.openai.responses.run import LIVE, Run
from radixmill.front.session.store import Store

_size = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Record:
    """`items`: the whole conversation before the response."""

    kept: Response
    items: tuple[Item, ...]
    run: Run | None = None  # of a background response

    @property
    def response(self) -> Response:
        """As far as it has been said."""
        return self.run.maker.response if self.run else self.kept

    @property
    def conversation(self) -> tuple[Item, ...]:
        """With what was answered."""
        return (*self.items, *self.response.output)

    def size(self) -> int:
        """Bytes of it all as JSON; the last event of a stream repeats the response."""
        logged = sum(map(len, self.run.events)) if self.run else 0
        return len(_size(self.response)) * (2 if logged else 1) + len(_size(self.items)) + logged


class Records:
    """The responses of one owner in the store."""

    def __init__(self, store: Store[Any], owner: str) -> None:
        self.store, self.owner = store, owner

    def keep(self, record: Record) -> None:
        live = record.run is not None and record.response.status in LIVE
        self.store.put(self.owner, record.response.id, record, record.size(), live=live)

    def get(self, id: str) -> Record:
        """Raises NotFound."""
        record = self.store.get(self.owner, id)
        if not isinstance(record, Record):
            raise NotFound(f"Response with id '{id[:80]}' not found.", param="response_id")
        return record

    def drop(self, id: str) -> Record:
        """Raises NotFound."""
        record = self.get(id)
        self.store.drop(self.owner, id)
        return record

    def earlier(self, id: str | None) -> tuple[Item, ...]:
        """The conversation that `previous_response_id` goes on with. Raises BadRequest."""
        if id is None:
            return ()
        record = self.store.get(self.owner, id)
        if not isinstance(record, Record):
            raise BadRequest(
                f"Previous response with id '{id[:80]}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if record.response.status in LIVE:
            raise BadRequest(
                f"Previous response with id '{id[:80]}' is still being made.", param="previous_response_id"
            )
        return record.conversation

    def item(self, id: str) -> Item | None:
        """The item that was kept last under this id."""
        return next((item for item in self._items() if item.id == id), None)

    def _items(self) -> Iterator[Item]:
        for record in reversed(self.store.of(self.owner)):
            if isinstance(record, Record):
                yield from record.conversation
