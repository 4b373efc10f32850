"""Errors as Anthropic's API says them: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

The shape has no place for the field at fault, so the message names it.
"""

from __future__ import annotations

from msgspec import Struct

from radixmill.core.errors import ServeError

ROOT = "/v1/messages"

# https://docs.anthropic.com/en/api/errors; a status that is not here is the request's fault below 500, ours above.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


class MessageFault(Struct, kw_only=True):
    type: str
    message: str


class MessageError(Struct, kw_only=True, tag_field="type", tag="error"):
    """Anthropic's shape of an error, as an answer and as an event of a stream."""

    error: MessageFault
    request_id: str


def speaks_anthropic(path: str) -> bool:
    """Whether errors on this path have Anthropic's shape."""
    return path == ROOT or path.startswith(ROOT + "/")


def message_error(error: ServeError, request_id: str) -> MessageError:
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    named = error.param is None or error.message.startswith(error.param)
    message = error.message if named else f"{error.param}: {error.message}"
    return MessageError(error=MessageFault(type=kind, message=message), request_id=request_id)
