"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Literal

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.responses import Response

from radixmill.front.api.docs import operation
from radixmill.front.session import Front


class Card(Struct, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "radixmill"
    root: str
    parent: str | None = None
    max_model_len: int  # tokens, prompt and output together
    max_model_len_reason: str


class Cards(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Card]


def cards(front: Front) -> list[Card]:
    """One for each served name. Raises NotReady."""
    session = front.would_serve()
    spec = session.spec()
    return [
        Card(
            id=name,
            created=int(front.started_at),
            root=session.served[0],
            max_model_len=spec.context,
            max_model_len_reason=spec.context_reason,
        )
        for name in session.served
    ]


def add_model_routes(app: FastAPI, front: Front) -> None:
    async def list_models() -> Response:
        return _json(Cards(data=cards(front)))

    async def get_model(model: str) -> Response:
        name = front.would_serve().check_model(model)
        return _json(next(card for card in cards(front) if card.id == name))

    app.add_api_route("/v1/models", list_models, methods=["GET"], **operation("The served names", None, Cards))
    app.add_api_route("/v1/models/{model:path}", get_model, methods=["GET"], **operation("One served name", None, Card))


def _json(value: Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
