"""POST /separate_reasoning and /parse_function_call: a model's raw text → its parts, as SGLang's routes do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec
from fastapi import FastAPI
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from radixmill.front.api.body import Reader
from radixmill.front.api.desk import Desk
from radixmill.front.api.docs import operation
from radixmill.front.api.openai.tools import Tools, to_rule
from radixmill.front.session import Front, Session, parse
from radixmill.front.session.limits import THREAD_CHARS

T = TypeVar("T")


class SeparateBody(Struct, kw_only=True):
    """The body of POST /separate_reasoning."""

    text: str
    reasoning_parser: str | None = None
    return_blocks: bool = False


class TextBlock(Struct):
    type: Literal["reasoning", "text"]
    text: str


class Separated(Struct, kw_only=True):
    """`blocks` and the other two lists: where they were asked for."""

    reasoning_text: str
    text: str
    reasoning_blocks: list[str] | UnsetType = UNSET
    text_blocks: list[str] | UnsetType = UNSET
    blocks: list[TextBlock] | UnsetType = UNSET


class ParseBody(Struct, kw_only=True):
    """The body of POST /parse_function_call."""

    text: str
    tools: Tools
    tool_call_parser: str | None = None


class ParsedCall(Struct):
    """`tool_index`: its place among the calls. `parameters`: JSON."""

    tool_index: int
    name: str
    parameters: str


class ParsedCalls(Struct):
    normal_text: str
    calls: list[ParsedCall]


KINDS = (SeparateBody, Separated, TextBlock, ParseBody, ParsedCalls, ParsedCall)


def add_parser_routes(app: FastAPI, front: Front, desk: Desk) -> None:
    server = front.config.server
    thoughts = Reader(SeparateBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)
    functions = Reader(ParseBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)

    async def separate_reasoning(request: Request) -> Response:
        parsed = await thoughts.read(request)
        session = front.ready_session()
        return _json(await desk.do(request, lambda: separated(session, parsed.body)), parsed.headers())

    async def parse_function_call(request: Request) -> Response:
        parsed = await functions.read(request)
        session = front.ready_session()
        return _json(await desk.do(request, lambda: function_calls(session, parsed.body)), parsed.headers())

    for path, endpoint, summary, body, answer in (
        ("/separate_reasoning", separate_reasoning, "Thoughts apart from the answer", SeparateBody, Separated),
        ("/parse_function_call", parse_function_call, "Tool calls out of a text", ParseBody, ParsedCalls),
    ):
        app.add_api_route(path, endpoint, methods=["POST"], **operation(summary, body, answer))


async def separated(session: Session, body: SeparateBody) -> Separated:
    """Raises BadRequest."""
    dialect = parse.dialects_named(session.text, body.reasoning_parser, "thoughts")[0]
    blocks = await _aside(body.text, lambda: parse.blocks(dialect, body.text))
    thoughts = [block.text for block in blocks if block.type == "reasoning"]
    said = [block.text for block in blocks if block.type == "text"]
    answer = Separated(reasoning_text="".join(thoughts), text="".join(said))
    if not body.return_blocks:
        return answer
    shown = [TextBlock(block.type, block.text) for block in blocks]
    return msgspec.structs.replace(answer, reasoning_blocks=thoughts, text_blocks=said, blocks=shown)


async def function_calls(session: Session, body: ParseBody) -> ParsedCalls:
    """Raises BadRequest."""
    dialects = parse.dialects_named(session.text, body.tool_call_parser, "calls")
    rule = to_rule(body.tools, None, None)
    tools = rule.tools if rule else ()
    found = await _aside(body.text, lambda: parse.calls(dialects, tools, body.text))
    custom = {tool.name for tool in tools if tool.custom}
    made = [
        ParsedCall(i, name, json.dumps({"input": given}) if name in custom else given)
        for i, (name, given) in enumerate(found.calls)
    ]
    return ParsedCalls(found.text, made)


async def _aside(text: str, work: Callable[[], T]) -> T:
    """Long texts off the event loop."""
    return work() if len(text) <= THREAD_CHARS else await asyncio.to_thread(work)


def _json(value: Struct, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(value), headers=headers, media_type="application/json")
