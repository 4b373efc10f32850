"""The second half of docs/api.md, from the bodies that are really parsed: every field of every route.

python -m radixmill.front.api.reference docs/api.md      writes it below the marker; what stands above is kept
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec import inspect as t

from radixmill.front.api.admin import AbortBody
from radixmill.front.api.anthropic import body as messages
from radixmill.front.api.anthropic.body import CountBody, MessagesBody
from radixmill.front.api.meanings import meaning
from radixmill.front.api.openai import fields
from radixmill.front.api.openai.chat import ChatBody
from radixmill.front.api.openai.completions import CompletionBody
from radixmill.front.api.openai.responses import body as responses
from radixmill.front.api.openai.responses.body import PromptBody, ResponseBody
from radixmill.front.api.openai.stored import MetadataBody
from radixmill.front.api.parsers import ParseBody, SeparateBody
from radixmill.front.api.reload import ReloadBody, UpdateWeightsBody
from radixmill.front.api.rows import Row, inner_structs, rows
from radixmill.front.api.tokens import DetokenizeBody, TokenizeBody
from radixmill.front.session.limits import RANGES, SIZES, Range
from radixmill.front.session.native import GenerateBody
from radixmill.front.session.native import body as native

MARKER = "<!-- What follows is generated: python -m radixmill.front.api.reference docs/api.md -->\n"
HEAD = "| field | type | limit | default | meaning | from |\n|---|---|---|---|---|---|"
NOTHING: Mapping[str, Any] = {}


class Page(NamedTuple):
    """A route whose body is described. `own`: fields that are its own API's although elsewhere they are extensions."""

    path: str
    body: type[Struct]
    home: str = "OpenAI"
    hints: frozenset[str] = frozenset()
    refused: Mapping[str, Any] = NOTHING
    own: frozenset[str] = frozenset()


REFUSED = {**fields.NEVER, **fields.NOT_YET}
ANTHROPICS = frozenset(
    [
        "model",
        "messages",
        "max_tokens",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "tools",
        "tool_choice",
        "metadata",
        "service_tier",
    ]
)
PAGES = (
    Page("/v1/chat/completions", ChatBody, hints=fields.HINTS, refused=REFUSED),
    Page("/v1/chat/completions/{completion_id}", MetadataBody),
    Page("/v1/completions", CompletionBody, hints=fields.HINTS, refused=REFUSED),
    Page("/v1/responses", ResponseBody, hints=responses.HINTS, refused=dict.fromkeys(responses.REFUSED, ())),
    Page("/v1/responses/input_tokens", PromptBody, hints=responses.HINTS, refused=dict.fromkeys(responses.REFUSED, ())),
    Page("/v1/messages", MessagesBody, "Anthropic", messages.HINTS, messages.REFUSED, ANTHROPICS),
    Page("/v1/messages/count_tokens", CountBody, "Anthropic", messages.HINTS, messages.REFUSED, ANTHROPICS),
    Page("/generate", GenerateBody, "SGLang", refused=native.REFUSED, own=frozenset(GenerateBody.__struct_fields__)),
    Page("/tokenize", TokenizeBody, home="vLLM", own=frozenset(TokenizeBody.__struct_fields__) - {"parse_special"}),
    Page("/detokenize", DetokenizeBody, home="vLLM", own=frozenset(DetokenizeBody.__struct_fields__)),
    Page("/separate_reasoning", SeparateBody, home="SGLang", own=frozenset(SeparateBody.__struct_fields__)),
    Page("/parse_function_call", ParseBody, home="SGLang", own=frozenset(ParseBody.__struct_fields__)),
    Page("/abort_request", AbortBody, home="SGLang", own=frozenset(AbortBody.__struct_fields__)),
    Page("/admin/reload", ReloadBody, home="RadixMill", own=frozenset(ReloadBody.__struct_fields__)),
    Page(
        "/update_weights_from_disk",
        UpdateWeightsBody,
        home="SGLang",
        own=frozenset(UpdateWeightsBody.__struct_fields__),
    ),
)


def type_of(kind: t.Type) -> str:
    """A type in a word or two; null, which means "not given" everywhere, is not said."""
    match kind:
        case t.UnionType(types=types):
            return " or ".join(dict.fromkeys(type_of(m) for m in types if not isinstance(m, t.NoneType)))
        case t.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case t.ListType(item_type=item):
            return f"list of {type_of(item)}"
        case t.DictType(value_type=t.AnyType()):
            return "object"
        case t.DictType(value_type=value):
            return f"map to {type_of(value)}"
        case _:
            return _WORDS.get(type(kind), "any")


_WORDS: dict[type, str] = {
    t.IntType: "integer",
    t.FloatType: "number",
    t.StrType: "string",
    t.BoolType: "boolean",
    t.StructType: "object",
}


def limit_of(kind: t.Type) -> str:
    """The limits of a type and of what it holds."""
    return ", ".join(dict.fromkeys(_limits(kind)))


def _limits(kind: t.Type) -> Iterator[str]:
    match kind:
        case t.UnionType(types=types):
            for member in types:
                yield from _limits(member)
        case t.IntType(ge=low, le=high) | t.FloatType(ge=low, le=high):
            yield from _between(low, high, "")
        case t.StrType(min_length=low, max_length=high):
            yield from _between(low, high, " characters")
        case t.ListType(min_length=low, max_length=high, item_type=item):
            yield from _between(low, high, " items")
            yield from _limits(item)
        case t.DictType(min_length=low, max_length=high, value_type=value):
            yield from _between(low, high, " entries")
            yield from _limits(value)


def _between(low: float | None, high: float | None, unit: str) -> Iterator[str]:
    if shown := between(low or None if unit else low, high):
        yield shown + unit


def between(low: float | None, high: float | None) -> str:
    match low, high:
        case None, None:
            return ""
        case _, None:
            return f"≥ {_plain(low)}"
        case None, _:
            return f"≤ {_plain(high)}"
        case _:
            return f"{_plain(low)}..{_plain(high)}"


def _plain(number: float | None) -> str:
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return _POWERS.get(number, shown.replace("-", "−"))


_POWERS: dict[float | None, str] = {-(2**63): "−2^63", 2**63 - 1: "2^63−1", -(2**31): "−2^31", 2**31 - 1: "2^31−1"}


def default_of(row: Row) -> str:
    """Of the table of meanings, else of the struct; a field that must be given says so."""
    known = meaning(row)
    if row.field.required:
        return "required"
    if known and known.default:
        return known.default
    default = row.field.default
    return "" if default is None or default is NODEFAULT else f"`{msgspec.json.encode(default).decode()}`"


def origin(page: Page, row: Row) -> str:
    """Whose field it is: of the route's own API, or by whom that, or the field around it, was extended."""
    if row.path in page.own or row.top in page.own:
        return page.home
    around = next(one for one in rows(page.body) if one.path == row.top)
    known = [found.origin for one in (around, row) if (found := meaning(one))]
    return next((name for name in known if name != "OpenAI"), "OpenAI")


def standing(page: Page, row: Row) -> str:
    """Whether a field is honoured, a hint or refused."""
    if row.path in page.refused or row.top in page.refused:
        return "refused"
    return "hint" if row.path in page.hints or row.top in page.hints else "honoured"


def table(page: Page, told: Mapping[type, str]) -> str:
    """The fields of a route. No object is told twice: neither one that was `told` at another route, nor in another
    place of this one."""
    first = {row.owner: row.within for row in reversed(rows(page.body))}
    wanted = (row for row in rows(page.body) if row.owner not in told and row.within == first[row.owner])
    cells = (_cells(page, row, told) for row in wanted)
    return "\n".join([HEAD, *("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)])


def _cells(page: Page, row: Row, told: Mapping[type, str]) -> Sequence[str]:
    known, kind = meaning(row), standing(page, row)
    text = known.text if known else ""
    elsewhere = dict.fromkeys(told[inner.cls] for inner, _ in inner_structs(row.field.type) if inner.cls in told)
    where = "".join(f"; as at `{path}`" for path in elsewhere)
    return (
        f"`{row.path}`",
        type_of(row.field.type),
        limit_of(row.field.type),
        default_of(row),
        (text if kind == "honoured" else f"*{kind}*: {text}") + where,
        origin(page, row),
    )


def lists(page: Page) -> str:
    """The three lists of a route."""
    found: dict[str, list[str]] = {"honoured": [], "hint": [], "refused": []}
    for row in rows(page.body):
        if row.path == row.top or row.path in page.hints or row.path in page.refused:
            found[standing(page, row)].append(f"`{row.path}`")
    titles = (("honoured", "Honoured"), ("hint", "Hints, which change no output"), ("refused", "Refused"))
    said = [f"{title}: {', '.join(sorted(found[kind]))}." for kind, title in titles if found[kind]]
    taken = [f"`{name}`: {_values(values)}" for name, values in sorted(page.refused.items()) if values]
    extra = [f"Let through, since they ask for nothing: {'; '.join(taken)}."] if taken and found["refused"] else []
    return "\n\n".join(said + extra)


def _values(values: tuple[Any, ...]) -> str:
    return ", ".join(f"`{msgspec.json.encode(value).decode()}`" for value in values)


def limits() -> str:
    """The numbers and sizes of all routes."""
    return "\n\n".join(
        f"{title}: {', '.join(_listed(found))}." for title, found in (("Numbers", RANGES), ("Sizes", SIZES))
    )


def _listed(found: Mapping[str, Range]) -> list[str]:
    return [f"`{name}` {between(*limits)}" for name, limits in found.items()]


def generated() -> str:
    parts, told = ["## Limits", limits(), "## Fields"], dict[type, str]()
    for page in PAGES:
        parts += [f"### `POST {page.path}`", *filter(None, [table(page, told), lists(page)])]
        told |= {row.owner: page.path for row in rows(page.body) if row.owner not in told}
    return "\n\n".join(parts) + "\n"


def renewed(text: str) -> str:
    """The page with its generated half made anew."""
    return text.split(MARKER)[0] + MARKER + "\n" + generated()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(renewed(target.read_text(encoding="utf-8")), encoding="utf-8")
