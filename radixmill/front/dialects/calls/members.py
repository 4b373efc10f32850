"""Members of an object, written otherwise than JSON writes them, as a grammar: `a=1, b="x"`, `a:1,b:<|"|>x<|"|>`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from radixmill.front.dialects.calls.base import Format, Schema, constant, either, sequence
from radixmill.front.dialects.calls.plain import member, members_of

MOST = 30  # members; the grammar grows with their square


def members_format(
    schema: Schema, key: Callable[[str], str], value: Callable[[Schema], Format], separator: str
) -> Format | None:
    """The members that the schema names, in its order, those that are not required perhaps left out; None where that is
    not all that the schema asks for, or names no members. `key`: a name and what stands between it and its value."""
    members, required = members_of(schema), schema.get("required", [])
    if not members or len(members) > MOST or not all(map(str.isidentifier, members)):
        return None
    parts = [sequence(constant(key(name)), value(member(schema, name))) for name in members]
    return _in_order(parts, [name in required for name in members], separator)


def _in_order(parts: Sequence[Format], needed: Sequence[bool], separator: str) -> Format:
    """Whichever part is the first, and those behind it."""
    firsts = range(needed.index(True) + 1 if True in needed else len(parts))
    ways = [sequence(parts[i], *_behind(parts[i + 1 :], needed[i + 1 :], separator)) for i in firsts]
    if True not in needed:
        ways.append(constant(""))
    return ways[0] if len(ways) == 1 else either(*ways)


def _behind(parts: Sequence[Format], needed: Sequence[bool], separator: str) -> list[Format]:
    found = [sequence(constant(separator), part) for part in parts]
    return [part if must else {"type": "optional", "content": part} for part, must in zip(found, needed, strict=True)]
