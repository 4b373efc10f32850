"""Fields of the formats of structural tags, as JSON says them. All raise GrammarError, with a pointer to the place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radixmill.engine.grammar.errors import GrammarError

Format = Mapping[str, Any]


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def field_of(form: Format, name: str, place: str) -> Any:
    if name not in form:
        raise GrammarError(f'needs "{name}"', place)
    return form[name]


def string_of(form: Format, name: str, place: str) -> str:
    value = field_of(form, name, place)
    if not isinstance(value, str):
        raise GrammarError("must be a string", f"{place}/{name}")
    return value


def list_of(form: Format, name: str, place: str) -> list[Any]:
    value = field_of(form, name, place)
    if not isinstance(value, list):
        raise GrammarError("must be an array", f"{place}/{name}")
    return value


def strings_of(form: Format, name: str, place: str) -> list[str]:
    values = list_of(form, name, place)
    if not all(isinstance(value, str) for value in values):
        raise GrammarError("must be an array of strings", f"{place}/{name}")
    return values


def tags_of(form: Format, place: str) -> list[Format]:
    """The tags of a list. There they need no type: XGrammar's own examples leave it out."""
    tags = list_of(form, "tags", place)
    if not tags:
        raise GrammarError("needs at least one tag", f"{place}/tags")
    return [{"type": "tag", **tag} if isinstance(tag, dict) else {} for tag in tags]


def head_of(form: Any) -> str:
    """The text that a format surely begins with, as far as it is seen at once."""
    head = (
        form.get({"const_string": "value", "tag": "begin"}.get(form.get("type", ""), ""))
        if isinstance(form, dict)
        else ""
    )
    return head if isinstance(head, str) else ""


def ends_of(form: Format, place: str) -> list[Any]:
    end = field_of(form, "end", place)
    ends = end if isinstance(end, list) else [end]
    if not ends:
        raise GrammarError("needs at least one end", f"{place}/end")
    return ends
