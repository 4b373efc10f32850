"""The record of a request as a file: all that it takes to compute an answer again, and the answer's token ids to compare.

    Record ── settings: what the numerics id depends on, to start the same model again
       └── RequestRecord, one for each prompt ── the GenerateRequest as the engine got it
              └── SequenceRecord, one for each choice ── seed, output ids, how it ended

JSON. `canonical` is what hashes and signatures of it are made over: RFC 8785, the JSON Canonicalization Scheme.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from radixmill.core.errors import CannotStart
from radixmill.core.messages import EndReason, TokenLogprob
from radixmill.core.request import GenerateRequest

RECORD_FORMAT = "radixmill.record.1"
MAX_BYTES = 256 << 20  # of a file
MAX_SEQUENCES = 2048  # of a record
UNLIKELY = -9999.0  # JSON has no infinity

# As core.messages.EndReason; unfinished: nothing is known of its end.
Reason = EndReason | Literal["unfinished"]
Seed = Annotated[str, Meta(pattern="^[0-9]{1,20}$")]
T = TypeVar("T")


class BadRecord(CannotStart):
    """A file is not the record, or the receipt, that it should be."""


class Settings(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the numerics id depends on, under the names of the flags; all but the model's names as they were resolved."""

    model: str
    tokenizer: str | None = None
    revision: str | None = None
    chat_template: str | None = None
    load_format: str = "auto"
    allow_unknown_config: bool = False
    context_length: int
    compute: str
    quantization: str = "auto"
    logprobs_mode: str = "raw"
    backend: str
    isa: str
    page_size: int
    kv_cache_dtype: str


class SequenceRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One sequence. `seed`: in decimal, as text, since JavaScript's numbers do not hold it.

    `by` front: a stop string, or the end of a tool call, was found in the text of `output`; the engine had not ended.
    """

    seed: Seed
    output: tuple[int, ...]
    reason: Reason
    by: Literal["engine", "front"] = "engine"
    token: int | None = None  # the stop token that ended it
    detail: str = ""  # of a failure
    logprobs: tuple[TokenLogprob, ...] | None = None  # of each output token; −∞ is −9999


class RequestRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One prompt. Of the request, what changes no token (tenant, account, priority, times) is left out."""

    request: GenerateRequest
    sequences: tuple[SequenceRecord, ...]
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None  # from request.sampling.prompt_logprobs_from on


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One API call: its prompts, with all their choices. Hashes: see docs/receipts.md."""

    format: Literal["radixmill.record.1"]
    version: str  # of RadixMill
    created: int  # seconds since the epoch
    numerics: str
    settings: Settings
    tokenizer: str  # hash
    template: str | None = None  # hash; None: the model has no chat template
    requests: tuple[RequestRecord, ...]


def load_json(raw: bytes, what: str) -> Any:
    """The one value that a text of JSON stands for. Raises BadRecord where there is none, or more than one reading."""
    if len(raw) > MAX_BYTES:
        raise BadRecord(f"{what} is larger than {MAX_BYTES >> 20} MiB")
    try:
        return json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise BadRecord(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise BadRecord(f"{what} is not JSON: {str(error)[:120]}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def typed(value: Any, kind: type[T], what: str) -> T:
    """A value of JSON as a struct. Raises BadRecord, naming the place."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise BadRecord(f"{what} cannot be read: {str(error)[:200]}") from None


def to_record(value: Any, what: str = "the record") -> Record:
    """A record out of JSON, as far as it can be judged without its model. Raises BadRecord."""
    if isinstance(value, dict) and value.get("format") != RECORD_FORMAT:
        raise BadRecord(f"{what} is not of the format {RECORD_FORMAT}", "It may come from another version of RadixMill")
    record = typed(value, Record, what)
    if not 1 <= sum(len(part.sequences) for part in record.requests) <= MAX_SEQUENCES:
        raise BadRecord(f"{what} must have 1 to {MAX_SEQUENCES} sequences")
    for at, part in enumerate(record.requests):
        if fault := _fault(part):
            raise BadRecord(f"{what}: requests[{at}]{fault}")
    return record


def _fault(part: RequestRecord) -> str:
    most = part.request.sampling.max_tokens
    if not part.request.prompt:
        return ".request.prompt is empty"
    if not _are_ids(part.request.prompt):
        return ".request.prompt has a token that is none"
    for i, sequence in enumerate(part.sequences):
        if int(sequence.seed) >= 1 << 64:
            return f".sequences[{i}].seed has more than 64 bits"
        if not _are_ids(sequence.output):
            return f".sequences[{i}].output has a token that is none"
        if len(sequence.output) > most:
            return f".sequences[{i}].output is longer than max_tokens ({most})"
        if sequence.logprobs is not None and len(sequence.logprobs) != len(sequence.output):
            return f".sequences[{i}].logprobs are not as many as its output"
    return ""


def _are_ids(tokens: Sequence[int]) -> bool:
    return not tokens or (min(tokens) >= 0 and max(tokens) < 1 << 31)


def finite(logprob: TokenLogprob) -> TokenLogprob:
    """As records have it: −∞ and −0 are no numbers that survive every reader of JSON."""
    return TokenLogprob(_finite(logprob.logprob), *(_all_finite(pairs) for pairs in (logprob.top, logprob.named)))


def _all_finite(pairs: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    return tuple((id, _finite(value)) for id, value in pairs)


def _finite(value: float) -> float:
    return max(value, UNLIKELY) + 0.0


def ids_hash(ids: Sequence[int]) -> str:
    """SHA-256, in hexadecimal, over the ids as little-endian 64-bit integers, one after the other."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}q", *ids)).hexdigest()


def json_hash(value: Any) -> str:
    """SHA-256, in hexadecimal, over the canonical JSON of a value or struct."""
    return hashlib.sha256(canonical(value)).hexdigest()


def canonical(value: Any) -> bytes:
    """RFC 8785: no spaces, names in order, numbers as JavaScript writes them, UTF-8."""
    return _text(msgspec.to_builtins(value)).encode()


def _text(value: Any) -> str:
    match value:
        case dict():
            names = sorted(value, key=lambda name: name.encode("utf-16-be"))
            return "{" + ",".join(f"{_string(name)}:{_text(value[name])}" for name in names) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_text, value)) + "]"
        case str():
            return _string(value)
        case float():
            return _number(value)
        case _:
            return json.dumps(value)


def _string(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """As ECMAScript's Number::toString: the shortest digits, an exponent below 1e-6 and from 1e21 on."""
    if value == 0:
        return "0"
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa.removesuffix(".0")
    if -6 <= int(exponent) < 21:
        return format(Decimal(repr(value)), "f")
    return f"{mantissa.removesuffix('.0')}e{int(exponent):+d}"
