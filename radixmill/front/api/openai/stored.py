"""Chat completions that were asked to be stored: kept, read, listed, named anew, forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from radixmill.core.config import ServerOptions
from radixmill.core.errors import NotFound
from radixmill.front.api.body import Reader
from radixmill.front.api.docs import operation
from radixmill.front.api.guard import owner_of
from radixmill.front.api.openai.chat import ChatResponse, ChatView, answer
from radixmill.front.api.openai.messages import Message
from radixmill.front.api.openai.paging import Listing, listing, read_paging
from radixmill.front.api.sse import Chunks
from radixmill.front.session import Event, Gatherer
from radixmill.front.session.limits import size
from radixmill.front.session.store import Store

ONE = "/v1/chat/completions/{completion_id}"


class MetadataBody(Struct, kw_only=True):
    """The body of POST /v1/chat/completions/{completion_id}."""

    metadata: Annotated[dict[str, str], size("metadata")] | None


class DeletedChat(Struct, kw_only=True):
    object: str = "chat.completion.deleted"
    id: str
    deleted: bool = True


KINDS = (MetadataBody, DeletedChat)


class StoredChat(Struct, frozen=True):
    answer: ChatResponse
    messages: tuple[dict[str, Any], ...]  # of the request, as a list of them shows them

    def size(self) -> int:
        """Bytes of it as JSON."""
        return len(msgspec.json.encode(self))


class StoredChats:
    """The chat completions in the store."""

    def __init__(self, store: Store[Any]) -> None:
        self.store = store

    def wants(self, view: ChatView) -> bool:
        return bool(view.body.store)

    def keep(self, owner: str, view: ChatView, answer: ChatResponse) -> None:
        messages = tuple(_shown(message, f"{answer.id}-{i}") for i, message in enumerate(view.body.messages))
        self.put(owner, StoredChat(answer, messages))

    def put(self, owner: str, chat: StoredChat) -> None:
        self.store.put(owner, chat.answer.id, chat, chat.size())

    def listening(self, owner: str, view: ChatView, chunks: Chunks) -> Chunks:
        """Chunks whose fold is kept when the stream has ended."""
        return Listening(self, owner, view, chunks)

    def get(self, owner: str, id: str) -> StoredChat:
        """Raises NotFound."""
        chat = self.store.get(owner, id)
        if not isinstance(chat, StoredChat):
            raise NotFound(f"Chat completion with id '{id[:80]}' not found.", param="completion_id")
        return chat

    def of(self, owner: str, query: Mapping[str, str]) -> Iterator[StoredChat]:
        """Those of a model, and with the metadata, that a query names; oldest first."""
        wanted = dict(_metadata(query))
        for chat in self.store.of(owner):
            if not isinstance(chat, StoredChat) or query.get("model", chat.answer.model) != chat.answer.model:
                continue
            if wanted.items() <= _of(chat.answer).items():
                yield chat


class Listening:
    """Chunks of a stream, with its fold on the side."""

    def __init__(self, chats: StoredChats, owner: str, view: ChatView, chunks: Chunks) -> None:
        self.chats, self.owner, self.view, self.chunks = chats, owner, view, chunks
        self.gatherer = Gatherer(view.generation)

    def push(self, events: tuple[Event, ...]) -> bytes:
        self.gatherer.push(events)
        return self.chunks.push(events)

    def finish(self) -> bytes:
        self.chats.keep(self.owner, self.view, answer(self.view, self.gatherer.wholes()))
        return self.chunks.finish()


def add_stored_routes(app: FastAPI, server: ServerOptions, chats: StoredChats) -> None:
    reader = Reader(MetadataBody, max_bytes=server.max_body_bytes, strict=server.strict_fields)

    async def list_chats(request: Request) -> Response:
        paging = read_paging(request.query_params, newest_first=False)
        found = list(chats.of(owner_of(request.scope), request.query_params))
        return _json(listing([chat.answer for chat in found], [chat.answer.id for chat in found], paging))

    async def get_chat(request: Request, completion_id: str) -> Response:
        return _json(chats.get(owner_of(request.scope), completion_id).answer)

    async def update_chat(request: Request, completion_id: str) -> Response:
        parsed = await reader.read(request)
        owner = owner_of(request.scope)
        old = chats.get(owner, completion_id)
        new = msgspec.structs.replace(old.answer, metadata=parsed.body.metadata or {})
        chats.put(owner, StoredChat(new, old.messages))
        return _json(new, parsed.headers())

    async def delete_chat(request: Request, completion_id: str) -> Response:
        owner = owner_of(request.scope)
        chats.get(owner, completion_id)
        chats.store.drop(owner, completion_id)
        return _json(DeletedChat(id=completion_id))

    async def list_messages(request: Request, completion_id: str) -> Response:
        messages = chats.get(owner_of(request.scope), completion_id).messages
        paging = read_paging(request.query_params, newest_first=False)
        return _json(listing(messages, [message["id"] for message in messages], paging))

    for method, path, endpoint, about in (
        ("GET", "/v1/chat/completions", list_chats, operation("The stored ones", None, Listing)),
        ("GET", ONE, get_chat, operation("A stored one", None, ChatResponse)),
        ("POST", ONE, update_chat, operation("Give a stored one other metadata", MetadataBody, ChatResponse)),
        ("DELETE", ONE, delete_chat, operation("Forget a stored one", None, DeletedChat)),
        ("GET", ONE + "/messages", list_messages, operation("What a stored one answers", None, Listing)),
    ):
        app.add_api_route(path, endpoint, methods=[method], **about)


def _metadata(query: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in query.items():
        if match := re.fullmatch(r"metadata\[(.+)\]", name):
            yield match[1], value


def _of(answer: ChatResponse) -> dict[str, str]:
    return answer.metadata if isinstance(answer.metadata, dict) else {}


def _shown(message: Message, id: str) -> dict[str, Any]:
    """A message as a list of them has it: parts stand beside the content, not in it."""
    given = {name: value for name, value in msgspec.to_builtins(message).items() if value is not None}
    content = given.pop("content", None)
    parts = None
    if isinstance(content, list):
        parts = [{name: value for name, value in part.items() if value is not None} for part in content]
        content = None
    return {"id": id, "content": content, "refusal": None, "content_parts": parts, **given}


def _json(value: Struct, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), headers=headers, media_type="application/json")
