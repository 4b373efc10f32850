"""Request bodies: bytes → typed structs. All errors are ours, name the field, and say what was expected.

The fast path is one typed decode; only a body that does not fit is looked at twice.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import json
import re
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import inspect as t
from starlette.requests import Request

from radixmill.core.errors import BadRequest, TooLarge
from radixmill.front.api.explain import Fault, fault_of, unlooked, unsound

Body = TypeVar("Body", bound=msgspec.Struct)
Keys = dict[str, msgspec.Raw]

MAX_NAMED = 32  # ignored fields that are named; a body may have any number
MAX_LOOK = 1 << 16  # bytes; what is wrong with a larger body that is no JSON is told less precisely
MAX_VALUES = 1 << 21  # of a body, by its commas and brackets; text has them too, but no prompt that fits has so many
MAX_AGAIN = 1 << 17  # of a body that is decoded a second time, to tell better what is wrong with it
NAME_CHARS = re.compile(r"[^A-Za-z0-9_.\-\[\]]")


class Parsed(NamedTuple, Generic[Body]):
    body: Body
    ignored: tuple[str, ...]  # fields that no one here knows

    def headers(self) -> dict[str, str]:
        return {"X-RadixMill-Ignored": ", ".join(self.ignored)} if self.ignored else {}


class Reader(Generic[Body]):
    """Reads bodies of one type."""

    def __init__(self, kind: type[Body], *, max_bytes: int, strict: bool) -> None:
        """`strict`: unknown fields are errors."""
        self.kind, self.max_bytes, self.strict = kind, max_bytes, strict
        self._decode = msgspec.json.Decoder(kind).decode
        self._decode_keys = msgspec.json.Decoder(Keys).decode
        self._info = t.type_info(kind)
        self._shape = _shape(self._info)

    async def read(self, request: Request) -> Parsed[Body]:
        """The body of a request. Raises BadRequest or TooLarge."""
        check_content_type(request.headers.get("content-type", ""))
        return self.parse(await read_bytes(request, self.max_bytes))

    def parse(self, raw: bytes) -> Parsed[Body]:
        """Raises BadRequest."""
        if not raw.strip():
            raise BadRequest("The request body is empty; a JSON object was expected.")
        if _values(raw) > MAX_VALUES:
            raise BadRequest(f"The request body has more than {MAX_VALUES} values.")
        with _no_collection():
            body = self._typed(raw)
        ignored = tuple(dict.fromkeys(self._unknown(raw, self._shape, "")))
        if ignored and self.strict:
            raise BadRequest(f"Unknown field: {ignored[0]}.", param=ignored[0])
        return Parsed(body, ignored[:MAX_NAMED])

    def _typed(self, raw: bytes) -> Body:
        """Raises BadRequest."""
        try:
            if not raw.isascii():
                raw.decode()  # fields that no one knows are skipped unread
            return self._decode(raw)
        except msgspec.ValidationError as error:
            return self._second_look(raw, error)
        except (ValueError, RecursionError) as error:
            raise _malformed(raw, error) from None

    def _unknown(self, raw: bytes | msgspec.Raw, shape: Shape, path: str) -> Iterator[str]:
        for key, value in self._keys(raw).items():
            if key not in shape:
                yield NAME_CHARS.sub("?", (path + key)[:80])
            elif (inner := shape[key]) is not None:
                yield from self._unknown_within(value, inner, f"{path}{key}")

    def _keys(self, raw: bytes | msgspec.Raw) -> Keys:
        try:
            return self._decode_keys(raw)
        except RecursionError:  # called from deeper down than the decoder of the whole body was
            raise BadRequest("The request body is nested too deeply.") from None

    def _unknown_within(self, raw: msgspec.Raw, inner: Inner, path: str) -> Iterator[str]:
        opening = bytes(raw)[:1]
        if inner.many and opening == b"[":
            for item in _items(raw):
                yield from self._unknown(item, inner.shape, f"{path}[].")
        elif opening == b"{" and not inner.many:
            yield from self._unknown(raw, inner.shape, f"{path}.")

    def _second_look(self, raw: bytes, error: msgspec.ValidationError) -> Body:
        """A body that does not fit its type: raises what is wrong with it. A name may be given twice, and of the values
        only the last one fit: then the body is what the last ones say."""
        if _values(raw) > MAX_AGAIN:
            raise _at_fault(unlooked(error))
        try:
            value = msgspec.json.decode(raw)
        except (ValueError, RecursionError) as fault:  # also a number that no machine word holds
            raise _malformed(raw, fault) from None
        try:
            return msgspec.convert(value, self.kind)
        except msgspec.ValidationError as fault:
            raise _at_fault(fault_of(value, self._info, "", fault) or unlooked(fault)) from None
        except RecursionError as fault:
            raise _malformed(raw, fault) from None


def _values(raw: bytes) -> int:
    """No fewer than there are."""
    return min(len(raw), 1 + sum(map(raw.count, (b",", b"[", b"{"))))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """What is being decoded has no cycles, and looking for some again and again would take most of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Inner(NamedTuple):
    """A field that holds a known object, or a list of them."""

    shape: Shape
    many: bool


Shape = dict[str, Inner | None]
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def check_content_type(value: str) -> None:
    """JSON, or nothing said."""
    media = value.split(";", 1)[0].strip().lower()
    if media and media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise BadRequest(f"Content-Type must be application/json, not {media[:60]}.", code="invalid_content_type")


async def read_bytes(request: Request, limit: int) -> bytes:
    """The whole body, refused as soon as it is known to be more than `limit` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    have = 0
    async for part in request.stream():
        have += len(part)
        if have > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The request body is larger than this server takes ({limit} bytes).")


def _malformed(raw: bytes, error: Exception) -> BadRequest:
    if isinstance(error, RecursionError):
        return BadRequest("The request body is nested too deeply.")
    if isinstance(error, UnicodeError):
        return BadRequest("The request body is not valid UTF-8.", code="invalid_json")
    if fault := _unsound(raw):
        return _at_fault(fault)
    if raw.startswith(codecs.BOM_UTF8):
        return BadRequest("The request body begins with a byte order mark; JSON has none.", code="invalid_json")
    at = re.search(r"\(byte (\d+)\)", str(error))
    where = f" at byte {at[1]}" if at else ""
    return BadRequest(f"The request body is not valid JSON{where}.", code="invalid_json")


def _unsound(raw: bytes) -> Fault | None:
    """What a more lenient parser finds in a body that is no JSON, or that holds a number too large for it."""
    if len(raw) > MAX_LOOK:
        return None
    try:
        return unsound(json.loads(raw.decode(), parse_int=float))
    except (ValueError, RecursionError):
        return None


def _at_fault(fault: Fault) -> BadRequest:
    return BadRequest(f"{fault.path or 'The request body'} {fault.message}.", param=fault.path or None)


def _shape(info: t.Type) -> Shape:
    assert isinstance(info, t.StructType)
    return {field.encode_name: _inner(field.type) for field in info.fields}


def _inner(kind: t.Type) -> Inner | None:
    match kind:
        case t.UnionType(types=types):
            return next((found for member in types if (found := _inner(member))), None)
        case t.StructType():
            return Inner(_shape(kind), many=False)
        case t.ListType(item_type=t.StructType() as item):
            return Inner(_shape(item), many=True)
        case _:
            return None
