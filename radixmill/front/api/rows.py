"""The fields of a body, with those of the objects in it, as its own type describes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct
from msgspec import inspect as t


class Row(NamedTuple):
    """A field. `path` from the body's top: `stream_options.include_usage`, `messages[].role`."""

    path: str
    owner: type[Struct]
    field: t.Field

    @property
    def top(self) -> str:
        """The field of the body that this one stands in."""
        return self.path.split(".", 1)[0].removesuffix("[]")

    @property
    def within(self) -> str:
        """The path of the object that this is a field of."""
        return self.path.rpartition(".")[0]


def rows(body: type[Struct]) -> list[Row]:
    """The fields in their order, those of an inner object behind the field that holds it."""
    info = t.type_info(body)
    assert isinstance(info, t.StructType)
    return list(_rows(info, "", ()))


def _rows(info: t.StructType, path: str, above: tuple[type, ...]) -> Iterator[Row]:
    for field in info.fields:
        here = f"{path}{field.encode_name}"
        yield Row(here, info.cls, field)
        found: dict[type, tuple[t.StructType, str]] = {}
        for inner, suffix in inner_structs(field.type):
            found.setdefault(inner.cls, (inner, suffix))  # one of them, or a list: told once
        for inner, suffix in found.values():
            if inner.cls not in above:
                yield from _rows(inner, f"{here}{suffix}.", (*above, info.cls))


def inner_structs(kind: t.Type) -> Iterator[tuple[t.StructType, str]]:
    """The objects that a field may hold, and "[]" for each list around them."""
    match kind:
        case t.UnionType(types=types):
            for member in types:
                yield from inner_structs(member)
        case t.StructType():
            yield kind, ""
        case t.ListType(item_type=item):
            yield from ((inner, "[]" + suffix) for inner, suffix in inner_structs(item))
