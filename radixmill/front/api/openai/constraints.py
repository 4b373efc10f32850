"""The fields that bind the text of an answer, of three APIs → one constraint.

response_format                                  OpenAI, and SGLang's structural_tag
regex, ebnf, json_schema                         SGLang
guided_json, guided_regex, guided_choice,
guided_grammar, structured_outputs               vLLM
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint, ConstraintKind
from radixmill.front.api.openai.fields import CommonBody
from radixmill.front.api.openai.formats import ResponseFormat, Schema, StructuredOutputs

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ANY_JSON = "$$ANY$$"  # SGLang's word for the schema that all JSON matches


class Bound(NamedTuple):
    """A constraint and the field it came in."""

    field: str
    constraint: Constraint


def to_bound(body: CommonBody) -> Bound | None:
    """What binds the text, if anything does: null and "" are as good as absent. Raises BadRequest, for two constraints too."""
    first, second = [*_given(body), None, None][:2]
    if first is not None and second is not None:
        raise BadRequest(f"{first.field} and {second.field} both bind the text: give one of them.", param=second.field)
    return first


def _given(body: CommonBody) -> Iterator[Bound]:
    if (found := body.response_format) is not None and (made := _of_response_format(found)):
        yield Bound(_place(found, made), made)
    yield from _texts("", {"regex": body.regex, "ebnf": body.ebnf})
    yield from _schemas({"json_schema": body.json_schema, "guided_json": body.guided_json})
    yield from _texts("guided_", {"regex": body.guided_regex})
    yield from _choices("guided_choice", body.guided_choice)
    yield from _texts("guided_", {"grammar": body.guided_grammar})
    if body.structured_outputs is not None:
        yield from _of_structured_outputs(body.structured_outputs)


def _place(given: ResponseFormat, made: Constraint) -> str:
    """Where what can be wrong with it stands."""
    if made.kind != "json_schema":
        return "response_format"
    inner = given.json_schema
    return "response_format.schema" if inner is None or inner.schema is None else "response_format.json_schema.schema"


def _of_structured_outputs(given: StructuredOutputs) -> Iterator[Bound]:
    at = "structured_outputs."
    yield from _schemas({f"{at}json": given.json})
    yield from _texts(at, {"regex": given.regex, "grammar": given.grammar})
    yield from _choices(f"{at}choice", given.choice)
    if given.json_object:
        yield Bound(f"{at}json_object", Constraint(kind="json_object"))
    if given.structural_tag:
        yield Bound(f"{at}structural_tag", _tag(given.structural_tag, f"{at}structural_tag"))


def _of_response_format(given: ResponseFormat) -> Constraint | None:
    match given.type:
        case "text":
            return None
        case "json_object":
            return Constraint(kind="json_object")
        case "structural_tag":
            return _of_tag_format(given)
        case "json_schema":
            return _of_json_schema(given)


def _of_json_schema(given: ResponseFormat) -> Constraint:
    inner = given.json_schema
    if inner is None and given.schema is None:
        raise BadRequest(
            "response_format.json_schema is required: it must be an object.", param="response_format.json_schema"
        )
    if inner is not None and not NAME.fullmatch(inner.name):
        raise BadRequest(
            "response_format.json_schema.name must be 1 to 64 of the characters A-Z, a-z, 0-9, _ and -.",
            param="response_format.json_schema.name",
        )
    schema = given.schema if inner is None or inner.schema is None else inner.schema
    return Constraint(kind="json_object") if schema is None else Constraint(kind="json_schema", text=_dump(schema))


def _of_tag_format(given: ResponseFormat) -> Constraint:
    if given.format is not None:
        return Constraint(kind="structural_tag", text=_dump({"type": given.type, "format": given.format}))
    if given.structures is None or given.triggers is None:
        raise BadRequest(
            "response_format.format is required: a structural tag has a format, or structures and triggers.",
            param="response_format.format",
        )
    older = {"type": given.type, "structures": given.structures, "triggers": given.triggers}
    return Constraint(kind="structural_tag", text=_dump(older))


def _texts(prefix: str, fields: dict[str, str | None]) -> Iterator[Bound]:
    for name, text in fields.items():
        if text:
            kind: ConstraintKind = "regex" if name == "regex" else "ebnf"
            yield Bound(prefix + name, Constraint(kind=kind, text=text))


def _schemas(fields: dict[str, str | Schema | None]) -> Iterator[Bound]:
    for name, given in fields.items():
        if given is not None and given != "":
            text = given if isinstance(given, str) else _dump(given)
            yield Bound(name, Constraint(kind="json_schema", text=_checked(text, name)))


def _checked(text: str, field: str) -> str:
    """A schema as its author wrote it, which must be JSON."""
    if text.strip() == ANY_JSON:
        return "true"
    value = _parsed(text, field)
    if not isinstance(value, dict | bool):
        raise BadRequest(f"{field} must be a JSON Schema, which is an object.", param=field)
    return text


def _choices(field: str, choices: list[str] | None) -> Iterator[Bound]:
    if choices is not None:
        elements = [{"type": "const_string", "value": text} for text in dict.fromkeys(choices)]
        format = {"type": "or", "elements": elements} if len(elements) > 1 else elements[0]
        yield Bound(field, Constraint(kind="structural_tag", text=_dump({"type": "structural_tag", "format": format})))


def _tag(given: str | Schema, field: str) -> Constraint:
    value = _parsed(given, field) if isinstance(given, str) else given
    if not isinstance(value, dict) or not ("format" in value or {"structures", "triggers"} <= value.keys()):
        raise BadRequest(f"{field} must be an object with a format, or with structures and triggers.", param=field)
    return Constraint(kind="structural_tag", text=_dump({"type": "structural_tag", **value}))


def _parsed(text: str, field: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        raise BadRequest(f"{field} is not valid JSON.", param=field) from None


def _dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()
