"""Receipts: what was computed, from what, on what; signed with the server's Ed25519 key. docs/receipts.md is the promise.

signature = Ed25519 over the canonical JSON (core.record.canonical) of the receipt without its `signature`
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from radixmill import __version__
from radixmill.core.errors import BadRequest, CannotStart, EngineFailed
from radixmill.core.record import (
    BadRecord,
    Reason,
    Record,
    RequestRecord,
    Seed,
    SequenceRecord,
    canonical,
    ids_hash,
    json_hash,
    typed,
)
from radixmill.core.request import SamplingParams
from radixmill.front.session.choice import Choice
from radixmill.front.session.record import RecordFolder, Scores, Scribe, Told
from radixmill.store.digest import Unhashed, WeightDigest
from radixmill.store.files import cache_folder

log = logging.getLogger("radixmill.front")
RECEIPT_FORMAT = "radixmill.receipt.1"
BIG_KEY = 1 << 16  # bytes; a PEM file of one key has about a hundred


class ChoiceReceipt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sequence. `output`: hash of its token ids."""

    seed: Seed
    output: str
    output_tokens: int
    reason: Reason
    by: Literal["engine", "front"]
    token: int | None


class PromptReceipt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt. `prompt`: hash of its token ids; `constraint`, `thinking`: of their canonical JSON; null: none."""

    prompt: str
    prompt_tokens: int
    sampling: SamplingParams
    constraint: str | None
    thinking: str | None
    choices: tuple[ChoiceReceipt, ...]


class Receipt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All hashes are SHA-256 in hexadecimal. `key`: id of the key; `public_key`: its 32 bytes in base64, as is
    `signature`."""

    format: Literal["radixmill.receipt.1"]
    version: str
    id: str
    model: str
    created: int
    numerics: str
    compute: str
    weights: str
    tokenizer: str
    template: str | None
    record: str
    prompts: tuple[PromptReceipt, ...]
    key: str
    public_key: str
    signature: str = ""


# Keys.


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def key_text(key: Ed25519PublicKey) -> str:
    """As receipts have it."""
    return _base64(key.public_bytes_raw())


def public_pem(key: Ed25519PublicKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def read_public(pem: bytes, what: str) -> Ed25519PublicKey:
    """Raises CannotStart where it is none."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise CannotStart(f"{what} is no public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise CannotStart(f"{what} is no Ed25519 key")
    return key


class SigningKey:
    """The server's private key: PEM, PKCS8. Made when first needed; several servers and fronts may come at once."""

    def __init__(self, path: Path | None = None) -> None:
        """None: the one of the cache folder."""
        self.path = path or cache_folder() / "receipt-key.pem"
        self._key: Ed25519PrivateKey | None = None
        self._lock = threading.Lock()

    def key(self) -> Ed25519PrivateKey:
        """Raises CannotStart where it can't be read or made."""
        with self._lock:
            if self._key is None:
                self._key = self._open()
            return self._key

    def _open(self) -> Ed25519PrivateKey:
        try:
            if not self.path.exists():
                _make(self.path)
            with self.path.open("rb") as file:
                self._check_mode(os.fstat(file.fileno()).st_mode)
                pem = file.read(BIG_KEY)
        except OSError as error:
            raise CannotStart(
                f"the receipts' key {self.path} cannot be used: {error.strerror or error}",
                "Name another: --receipt-key",
            ) from None
        return self._parse(pem)

    def _check_mode(self, mode: int) -> None:
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CannotStart(f"the receipts' key {self.path} can be overwritten by others", f"chmod 600 {self.path}")
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            log.warning("the receipts' key %s can be read by others: chmod 600 it", self.path)

    def _parse(self, pem: bytes) -> Ed25519PrivateKey:
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # its words might quote the file
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise CannotStart(
                f"{self.path} is no Ed25519 key in PEM (PKCS8, without a password)",
                "openssl genpkey -algorithm ed25519",
            )
        return key


def _make(path: Path) -> None:
    """Put a new key there, whole and 0600 from its first byte; if somebody else is faster, theirs stays."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # its mode is 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # fails if there is one
    finally:
        os.unlink(part)


# Making and reading.


class Origin(NamedTuple):
    """What a receipt says of an answer besides its record."""

    id: str
    model: str
    compute: str
    weights: str  # hash


def make_receipt(record: Record, origin: Origin, key: Ed25519PrivateKey) -> dict[str, Any]:
    """The signed receipt as JSON: its numbers are written as the canonical form has them."""
    public = key.public_key()
    receipt = Receipt(
        format="radixmill.receipt.1",
        version=__version__,
        id=origin.id,
        model=origin.model,
        created=record.created,
        numerics=record.numerics,
        compute=origin.compute,
        weights=origin.weights,
        tokenizer=record.tokenizer,
        template=record.template,
        record=json_hash(record),
        prompts=tuple(map(prompt_receipt, record.requests)),
        key=key_id(public),
        public_key=key_text(public),
    )
    value = msgspec.to_builtins(receipt)
    del value["signature"]
    whole: dict[str, Any] = msgspec.json.decode(signed := canonical(value))
    return whole | {"signature": _base64(key.sign(signed))}


def prompt_receipt(part: RequestRecord) -> PromptReceipt:
    request = part.request
    return PromptReceipt(
        prompt=ids_hash(request.prompt),
        prompt_tokens=len(request.prompt),
        sampling=request.sampling,
        constraint=None if request.constraint is None else json_hash(request.constraint),
        thinking=None if request.thinking is None else json_hash(request.thinking),
        choices=tuple(map(_choice_receipt, part.sequences)),
    )


def _choice_receipt(sequence: SequenceRecord) -> ChoiceReceipt:
    return ChoiceReceipt(
        seed=sequence.seed,
        output=ids_hash(sequence.output),
        output_tokens=len(sequence.output),
        reason=sequence.reason,
        by=sequence.by,
        token=sequence.token,
    )


def to_receipt(value: Any, what: str = "the receipt") -> Receipt:
    """A receipt out of JSON; its signature is not looked at. Raises BadRecord."""
    if isinstance(value, dict) and value.get("format") != RECEIPT_FORMAT:
        raise BadRecord(
            f"{what} is not of the format {RECEIPT_FORMAT}", "It may come from another version of RadixMill"
        )
    return typed(value, Receipt, what)


def embedded_key(receipt: Receipt) -> Ed25519PublicKey:
    """The key that the receipt itself names. Raises BadRecord."""
    try:
        return Ed25519PublicKey.from_public_bytes(_bytes(receipt.public_key))
    except ValueError:
        raise BadRecord("the receipt's public_key is none") from None


def is_signed(value: Mapping[str, Any], key: Ed25519PublicKey) -> bool:
    """Whether the receipt, as JSON, bears the signature of this key over all that it says."""
    said = {name: part for name, part in value.items() if name != "signature"}
    try:
        key.verify(_bytes(str(value.get("signature", ""))), canonical(said))
    except (ValueError, InvalidSignature):
        return False
    return True


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    """Raises ValueError for a text that is not the one way to write them."""
    raw = base64.b64decode(text, validate=True)
    if _base64(raw) != text:
        raise ValueError("bits that nobody reads are not zero")
    return raw


# In a session.


class Proof(Struct, frozen=True, kw_only=True):
    """What goes with an answer; None: was not asked for."""

    record: Record | None = None
    receipt: dict[str, Any] | None = None


class Notary:
    """Who tells of one model's answers."""

    def __init__(
        self, scribe: Scribe, weights: WeightDigest, key: SigningKey, folder: RecordFolder | None = None
    ) -> None:
        """`folder`: where records of failed requests go."""
        self.scribe, self.weights, self.key, self.folder = scribe, weights, key, folder

    def prepare(self) -> None:
        """A receipt has been asked for: begin what it must wait for. Raises ServeError where there can be none."""
        if not self.scribe.spec.invariant:
            raise BadRequest(
                "receipt is not available: this server's compute gives no two times the same bytes.", param="receipt"
            )
        self.private_key()
        self.weights.start()

    def private_key(self) -> Ed25519PrivateKey:
        """Raises EngineFailed; what is wrong stands in the log."""
        try:
            return self.key.key()
        except CannotStart as error:
            log.error("%s", error)
            raise EngineFailed("The server's key for receipts can't be used; its log says why.") from None


class Witness:
    """Who tells of one answer, as soon as it is over."""

    def __init__(self, notary: Notary, facts: Told, model: str, wants: Wants) -> None:
        self.notary, self.facts, self.model, self.wants = notary, facts, model, wants

    async def tell(self, choices: Sequence[Choice], scores: Scores) -> Proof:
        """Of these choices, which have ended. Raises EngineFailed where the weights can't be hashed."""
        weights = await self._weights() if self.wants.receipt else ""
        return await asyncio.to_thread(self._tell, choices, scores, weights)

    def failed(self, choices: Sequence[Choice], scores: Scores) -> None:
        """The engine has: leave a record of it where that is wanted."""
        notary = self.notary
        if notary.folder is not None:
            notary.folder.save(self.facts.id, lambda: notary.scribe.record(self.facts, choices, scores))

    def _tell(self, choices: Sequence[Choice], scores: Scores, weights: str) -> Proof:
        record, spec = self.notary.scribe.record(self.facts, choices, scores), self.notary.scribe.spec
        receipt = None
        if self.wants.receipt:
            origin = Origin(self.facts.id, self.model, spec.compute, weights)
            receipt = make_receipt(record, origin, self.notary.private_key())
        return Proof(record=record if self.wants.record else None, receipt=receipt)

    async def _weights(self) -> str:
        try:
            return await asyncio.shield(asyncio.wrap_future(self.notary.weights.start()))
        except Unhashed as error:
            raise EngineFailed(f"There is no receipt for this answer: {error}.", code="no_receipt") from None


class Wants(NamedTuple):
    """`apart`: each choice is told of by itself."""

    record: bool = False
    receipt: bool = False
    apart: bool = False

    @property
    def any(self) -> bool:
        return self.record or self.receipt
