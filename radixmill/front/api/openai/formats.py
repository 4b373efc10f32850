"""The values of the fields that bind the text of an answer, as three APIs write them; constraints.py reads them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Struct

from radixmill.front.session.limits import size

Schema = dict[str, Any]
Choices = Annotated[list[Annotated[str, size("choice")]], size("choices")]


class JsonSchemaFormat(Struct, kw_only=True):
    """`strict` changes nothing: a schema is always enforced."""

    name: str
    description: str | None = None
    schema: Schema | None = None
    strict: bool | None = None


class ResponseFormat(Struct, kw_only=True):
    """`schema` may stand beside the type instead of in `json_schema`; a structural tag has a `format`, or in its older
    form `structures` and `triggers`."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    schema: Schema | None = None
    format: Schema | None = None
    structures: list[Any] | None = None
    triggers: list[str] | None = None


class StructuredOutputs(Struct, kw_only=True):
    """One of these."""

    json: str | Schema | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | Schema | None = None
