"""OpenAPI for routes whose bodies are msgspec structs: /openapi.json and /docs show the types that are really parsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct

from radixmill.front.api.meanings import meaning
from radixmill.front.api.rows import rows

REF = "#/components/schemas/{name}"


class ErrorDetail(Struct, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, kw_only=True):
    """OpenAI's shape of an error."""

    error: ErrorDetail


def operation(
    summary: str,
    body: type[Struct] | None,
    answer: type[Struct] | tuple[type[Struct], ...] | None,
    *,
    stream: type[Struct] | tuple[type[Struct], ...] = (),
    error: type[Struct] = ErrorBody,
) -> dict[str, Any]:
    """Keyword arguments of add_api_route that describe a route. `answer`: what it may be. `stream`: the kinds of its events."""
    content: dict[str, Any] = {"application/json": {"schema": _any_of(answer)}} if answer else {}
    if stream:
        content["text/event-stream"] = {"schema": _any_of(stream)}
    extra: dict[str, Any] = {
        "responses": {
            "200": {"description": "OK", **({"content": content} if content else {})},
            "4XX": {
                "description": "What is wrong with the request",
                "content": {"application/json": {"schema": _ref(error)}},
            },
            "5XX": {
                "description": "What is wrong with the server",
                "content": {"application/json": {"schema": _ref(error)}},
            },
        },
    }
    if body:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return {"summary": summary, "openapi_extra": extra}


def describe(app: FastAPI, kinds: Sequence[type[Struct]]) -> None:
    """Make the app's OpenAPI document from its operations and the structs they name; built when first asked for."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = openapi_of(app, kinds)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the documented way


def openapi_of(app: FastAPI, kinds: Sequence[type[Struct]]) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path in document["paths"].values():
        for entry in path.values():
            entry["responses"].pop("422", None)
    _, schemas = msgspec.json.schema_components([*kinds, ErrorBody], ref_template=REF)
    explain(schemas, [kind for kind in kinds if kind.__name__.endswith("Body")])
    document["components"] = {"schemas": schemas}
    return document


def explain(schemas: dict[str, Any], bodies: Sequence[type[Struct]]) -> None:
    """Say of each field of the bodies what it means."""
    for row in (row for body in bodies for row in rows(body)):
        owner = schemas.get(row.owner.__name__) or schemas[f"{row.owner.__module__}.{row.owner.__name__}"]
        if known := meaning(row):
            owner["properties"][row.field.encode_name].setdefault("description", known.text)


def _any_of(kinds: type[Struct] | tuple[type[Struct], ...]) -> dict[str, Any]:
    if not isinstance(kinds, tuple):
        return _ref(kinds)
    return _ref(kinds[0]) if len(kinds) == 1 else {"anyOf": [_ref(kind) for kind in kinds]}


def _ref(kind: type[Struct] | None) -> dict[str, str]:
    return {"$ref": REF.format(name=kind.__name__)} if kind else {}
