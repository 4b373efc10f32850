"""Lists that come page by page, as OpenAI's do: `limit`, `order`, `after`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from radixmill.core.errors import BadRequest

T = TypeVar("T")
DEFAULT, MOST = 20, 100  # entries of a page


class Listing(Struct, kw_only=True):
    """A page. Ids of an empty one are empty."""

    object: Literal["list"] = "list"
    data: list[Any]
    first_id: str
    last_id: str
    has_more: bool


class Paging(NamedTuple):
    limit: int
    newest_first: bool
    after: str | None  # the id of the last entry that the client has


def read_paging(query: Mapping[str, str], *, newest_first: bool) -> Paging:
    """`newest_first`: the order where the client names none. Raises BadRequest."""
    limit = integer(query, "limit", low=1, high=MOST)
    order = query.get("order", "desc" if newest_first else "asc")
    if order not in ("asc", "desc"):
        raise BadRequest(f'order must be one of "asc", "desc", not {order[:40]!r}.', param="order")
    return Paging(DEFAULT if limit is None else limit, order == "desc", query.get("after"))


def integer(query: Mapping[str, str], name: str, *, low: int, high: int) -> int | None:
    """A number from the query string, None if it is not there. Raises BadRequest."""
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 18 and low <= int(text) <= high):
        raise BadRequest(f"{name} must be an integer from {low} to {high}, not {text[:40]!r}.", param=name)
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool:
    """A switch from the query string. Raises BadRequest."""
    text = query.get(name, "false").lower()
    if text not in ("true", "false"):
        raise BadRequest(f"{name} must be true or false, not {text[:40]!r}.", param=name)
    return text == "true"


def listing(entries: Sequence[T], ids: Sequence[str], paging: Paging) -> Listing:
    """The page of `entries`, oldest first, that was asked for. Raises BadRequest for an unknown `after`."""
    pairs = list(zip(ids, entries, strict=True))
    if paging.newest_first:
        pairs.reverse()
    if paging.after is not None:
        places = [i for i, (id, _) in enumerate(pairs) if id == paging.after]
        if not places:
            raise BadRequest(f"after: there is no entry {paging.after[:80]!r} in this list.", param="after")
        pairs = pairs[places[0] + 1 :]
    page = pairs[: paging.limit]
    return Listing(
        data=[msgspec.to_builtins(entry) for _, entry in page],
        first_id=page[0][0] if page else "",
        last_id=page[-1][0] if page else "",
        has_more=len(pairs) > len(page),
    )
