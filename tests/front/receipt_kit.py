"""A notary without files, and receipts of scripted answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from radixmill.core.config import Config
from radixmill.core.record import Record, to_record
from radixmill.core.spec import ModelSpec
from radixmill.front.session.receipt import Notary, Receipt, SigningKey, to_receipt
from radixmill.front.session.record import RecordFolder, Scribe, TextHashes
from radixmill.store import ModelFiles
from radixmill.store.digest import WeightDigest
from tests.fakes import SPEC, ByteText
from tests.front.kit import CHAT, HELLO, answer, make_app

WEIGHTS = "ab" * 32
HASHES = TextHashes(ByteText(), SPEC.vocab_size, {"default": "{{ messages }}"})


def make_notary(
    folder: Path, *, spec: ModelSpec = SPEC, weights: WeightDigest | None = None, records: Path | None = None
) -> Notary:
    """`folder` gets the key."""
    known = WeightDigest(ModelFiles("echo", folder / "echo.gguf", WEIGHTS))
    saver = RecordFolder(records) if records else None
    return Notary(Scribe(Config(), spec, HASHES), weights or known, SigningKey(folder / "key.pem"), saver)


def proven(folder: Path, body: dict[str, Any] | None = None, route: str = CHAT, **world: Any) -> dict[str, Any]:
    """An answer with its record and receipt."""
    app = make_app(notary=make_notary(folder), **world)
    return answer(app, route, {**HELLO, "seed": 5, "record": True, "receipt": True, **(body or {})})


def parts(whole: dict[str, Any]) -> tuple[Record, Receipt]:
    return to_record(whole["record"]), to_receipt(whole["receipt"])
