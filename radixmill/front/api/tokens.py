"""POST /tokenize and /detokenize, also under /v1."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from radixmill.core.errors import BadRequest
from radixmill.front.api.body import Reader
from radixmill.front.api.desk import Desk
from radixmill.front.api.docs import operation
from radixmill.front.api.guard import owner_of
from radixmill.front.api.openai.fields import Template, TokenId, documents, own_template, template_kwargs
from radixmill.front.api.openai.messages import Messages, to_template
from radixmill.front.api.openai.reasoning import Effort, thinking_wish
from radixmill.front.api.openai.tools import ToolChoice, Tools, to_rule
from radixmill.front.session import ChatPrompt, Front, Prompt, Session, TextPrompt, template_tools
from radixmill.front.session.limits import size

THREAD_TOKENS = 5_000  # more than these are made text, or JSON, off the event loop
PIECE = 1 << 14  # of them are made JSON at a time: in the midst of that no other thread runs


class TokenizeBody(Struct, kw_only=True):
    """The body of POST /tokenize: prompt or messages."""

    model: str = "default"
    prompt: str | Annotated[list[str], size("prompts")] | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True
    parse_special: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: Template | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, str]] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    reasoning_effort: Effort | None = None


class Tokenized(Struct, kw_only=True):
    """Nested lists for a list of prompts."""

    tokens: Sequence[int | Sequence[int]]
    count: int | list[int]
    max_model_len: int


class DetokenizeBody(Struct, kw_only=True):
    """The body of POST /detokenize."""

    model: str = "default"
    tokens: list[TokenId | list[TokenId]]
    skip_special_tokens: bool = True


class Detokenized(Struct, kw_only=True):
    text: str | list[str]


KINDS = (TokenizeBody, Tokenized, DetokenizeBody, Detokenized)


def add_token_routes(app: FastAPI, front: Front, desk: Desk) -> None:
    server = front.config.server
    to_ids = Reader(TokenizeBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)
    to_text = Reader(DetokenizeBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)

    async def tokenize(request: Request) -> Response:
        parsed = await to_ids.read(request)
        session = front.ready_session()
        return _written(
            await desk.do(request, lambda: tokenized(session, parsed.body, owner_of(request.scope))), parsed.headers()
        )

    async def detokenize(request: Request) -> Response:
        parsed = await to_text.read(request)
        session = front.ready_session()
        found = await desk.do(request, lambda: _aside(session, parsed.body))
        return _written(msgspec.json.encode(found), parsed.headers())

    for path in ("/tokenize", "/v1/tokenize"):
        app.add_api_route(
            path,
            tokenize,
            methods=["POST"],
            operation_id=path[1:],
            **operation("Text to token ids", TokenizeBody, Tokenized),
        )
    for path in ("/detokenize", "/v1/detokenize"):
        app.add_api_route(
            path,
            detokenize,
            methods=["POST"],
            operation_id=path[1:],
            **operation("Token ids to text", DetokenizeBody, Detokenized),
        )


async def tokenized(session: Session, body: TokenizeBody, owner: str = "") -> bytes:
    """A Tokenized as JSON; there may be as many tokens as a body has bytes. Raises BadRequest."""
    session.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise BadRequest("Give prompt or messages, one of the two.", param="prompt")
    rows = await session.tokenise(_prompts(body), "messages" if body.messages else "prompt", owner)
    context = session.spec().context
    nested = isinstance(body.prompt, list)
    if sum(map(len, rows)) <= THREAD_TOKENS:
        return _spelled(rows, nested, context)
    return await asyncio.to_thread(_spelled, rows, nested, context)


def _spelled(rows: Sequence[Sequence[int]], nested: bool, context: int) -> bytes:
    counts, lists = [len(row) for row in rows], [msgspec.Raw(_listed(row)) for row in rows]
    answer = (
        {"tokens": lists, "count": counts, "max_model_len": context}
        if nested
        else {"tokens": lists[0], "count": counts[0], "max_model_len": context}
    )
    return msgspec.json.encode(answer)


def _listed(ids: Sequence[int]) -> bytes:
    pieces = (msgspec.json.encode(ids[at : at + PIECE])[1:-1] for at in range(0, len(ids), PIECE))
    return b"[" + b",".join(pieces) + b"]"


def _prompts(body: TokenizeBody) -> tuple[Prompt, ...]:
    if body.messages is None:
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt or []
        return tuple(TextPrompt(text, body.parse_special, body.add_special_tokens) for text in texts)
    going_on, wish = body.continue_final_message, thinking_wish(body.reasoning_effort)
    extra = body.chat_template_kwargs or {}
    template = own_template(body.chat_template, extra)
    return (
        ChatPrompt(
            messages=to_template(body.messages),
            tools=template_tools(to_rule(body.tools, body.tool_choice, None)),
            documents=documents(body.documents, extra),
            add_generation_prompt=body.add_generation_prompt and not going_on,
            continue_final_message=going_on,
            template_kwargs=template_kwargs(extra, brings=True, reasoning_effort=wish.effort),
            thinks=wish.thinks,
            template=template.source,
            template_field=template.field,
        ),
    )


async def _aside(session: Session, body: DetokenizeBody) -> Detokenized:
    """Many tokens off the event loop. Raises BadRequest."""
    if sum(len(row) if isinstance(row, list) else 1 for row in body.tokens) <= THREAD_TOKENS:
        return detokenized(session, body)
    return await asyncio.to_thread(detokenized, session, body)


def detokenized(session: Session, body: DetokenizeBody) -> Detokenized:
    """Raises BadRequest."""
    session.check_model(body.model)
    nested = [row for row in body.tokens if isinstance(row, list)]
    if nested and len(nested) < len(body.tokens):
        raise BadRequest("tokens must be a list of token ids or a list of such lists, not a mixture.", param="tokens")
    if nested:
        return Detokenized(
            text=[
                session.decode(row, skip_special=body.skip_special_tokens, field=f"tokens[{i}]")
                for i, row in enumerate(nested)
            ]
        )
    flat = [token for token in body.tokens if isinstance(token, int)]
    return Detokenized(text=session.decode(flat, skip_special=body.skip_special_tokens, field="tokens"))


def _written(content: bytes, headers: dict[str, str]) -> Response:
    return Response(content, headers=headers, media_type="application/json")
