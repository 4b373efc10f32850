"""Errors as Anthropic's API says them: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

The shape has no place for the field at fault, so the message names it.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from radixmill.core.errors import ServeError

ROOT = "/v1/messages"

# https://docs.anthropic.com/en/api/errors; a status that is not here is the request's fault below 500, ours above.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


# Of our codes those that Anthropic's clients act on: told to go on without a thread, they send the whole history.
NO_THREADS = "thread_unsupported_request"


class FaultDetails(Struct):
    error_code: str


class MessageFault(Struct, kw_only=True):
    type: str
    message: str
    details: FaultDetails | UnsetType = UNSET


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
    details = FaultDetails(NO_THREADS) if error.code == NO_THREADS else UNSET
    return MessageError(error=MessageFault(type=kind, message=message, details=details), request_id=request_id)
