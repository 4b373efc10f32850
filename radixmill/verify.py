"""`radixmill verify RECEIPT`: whether a receipt's signature, hashes and bytes are right, each step told by name."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from radixmill import replay, store
from radixmill.core.config import Config
from radixmill.core.errors import CannotStart
from radixmill.core.record import Record, json_hash, to_record
from radixmill.front.session.open import text_hashes
from radixmill.front.session.receipt import (
    PromptReceipt,
    Receipt,
    embedded_key,
    is_signed,
    key_id,
    key_text,
    prompt_receipt,
    read_public,
    to_receipt,
)
from radixmill.front.text import load_text
from radixmill.llm import Offline
from radixmill.store.digest import Unhashed, WeightDigest


def main(args: argparse.Namespace) -> int:
    """The command; its exit code. Raises CannotStart where something can't be checked."""
    answer = replay.read_file(args.receipt)
    value = replay.part_of(answer, "receipt")
    receipt = to_receipt(value)
    written = replay.part_of(replay.read_file(args.record) if args.record else answer, "record")
    record = to_record(written)
    key = _key(args, receipt)
    if not is_signed(value, key):
        return _failed([f"signature: it is not that of key {key_id(key)} over this receipt"])
    print(f"signature: by key {key_id(key)}")
    if faults := [*against_key(receipt, key), *against_record(receipt, record, written)]:
        return _failed(faults)
    print("record: it is what the receipt says")
    return 0 if args.no_model else _against_model(args, receipt, record)


def _failed(faults: list[str]) -> int:
    for fault in faults:
        print(f"FAILED {fault}")
    return 1


def _key(args: argparse.Namespace, receipt: Receipt) -> Ed25519PublicKey:
    """Whose signature it should be."""
    if args.key:
        try:
            return read_public(Path(args.key).expanduser().read_bytes(), args.key)
        except OSError as error:
            raise CannotStart(f"{args.key} cannot be read: {error.strerror or error}") from None
    if args.url:
        return _fetched(args.url.rstrip("/"), args.api_key)
    print("note: no --key and no --url: the receipt's own key is taken, which proves nothing of who signed it")
    return embedded_key(receipt)


def _fetched(url: str, api_key: str) -> Ed25519PublicKey:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = httpx.get(f"{url}/receipt_key", headers=headers, timeout=30)
        answer.raise_for_status()
        pem = str(answer.json()["pem"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise CannotStart(f"{url} does not tell its key: {error}") from None
    return read_public(pem.encode(), url)


def against_key(receipt: Receipt, key: Ed25519PublicKey) -> Iterator[str]:
    """What a receipt says of its key, if it is not true."""
    if receipt.key != key_id(key):
        yield f"key: the receipt names {receipt.key}, but the key is {key_id(key)}"
    if receipt.public_key != key_text(key):
        yield "public_key: the receipt has another one"


def against_record(receipt: Receipt, record: Record, written: Any) -> Iterator[str]:
    """Where a receipt and a record are of different answers. `written`: the record's JSON."""
    if json_hash(written) != receipt.record:
        yield f"record: its hash is {json_hash(written)}, the receipt says {receipt.record}"
    for name in ("version", "created", "numerics", "tokenizer", "template"):
        if (one := getattr(record, name)) != (two := getattr(receipt, name)):
            yield f"{name}: the record says {one}, the receipt {two}"
    if record.settings.compute != receipt.compute:
        yield f"compute: the record says {record.settings.compute}, the receipt {receipt.compute}"
    if len(record.requests) != len(receipt.prompts):
        yield f"prompts: the record has {len(record.requests)}, the receipt {len(receipt.prompts)}"
    for at, (part, known) in enumerate(zip(record.requests, receipt.prompts, strict=False)):
        yield from _differing(prompt_receipt(part), known, f"prompts[{at}]")


def _differing(made: PromptReceipt, known: PromptReceipt, place: str) -> Iterator[str]:
    one, two = msgspec.to_builtins(made), msgspec.to_builtins(known)
    for name in one.keys() - {"choices"}:
        if one[name] != two[name]:
            yield f"{place}.{name}: the record gives {one[name]}, the receipt says {two[name]}"
    if len(made.choices) != len(known.choices):
        yield f"{place}.choices: the record has {len(made.choices)}, the receipt {len(known.choices)}"
    for i, pair in enumerate(zip(one["choices"], two["choices"], strict=False)):
        for name in pair[0]:
            if pair[0][name] != pair[1][name]:
                yield f"{place}.choices[{i}].{name}: the record gives {pair[0][name]}, the receipt says {pair[1][name]}"


def _against_model(args: argparse.Namespace, receipt: Receipt, record: Record) -> int:
    config = replay.config_of(record, args)
    if faults := list(against_files(receipt, config)):
        return _failed(faults)
    print("model: weights, tokenizer and template are those of the receipt")
    if args.no_run:
        return 0
    with Offline(config) as offline:
        outcome = replay.run(offline, record)
        said = replay.lines(outcome, offline)
    if outcome.differences:
        return _failed(said)
    print(*said, sep="\n")
    return 0


def against_files(receipt: Receipt, config: Config) -> Iterator[str]:
    """Where the model on this disk is not the receipt's."""
    files = store.find(config.model.model, revision=config.model.revision)
    stack = load_text(files, chat_template=config.model.chat_template, tokenizer=config.model.tokenizer)
    hashes = text_hashes(stack)
    try:
        weights = WeightDigest(files, dummy=config.model.load_format == "dummy").start().result()
    except Unhashed as error:
        raise CannotStart(f"the weights' hash can't be had: {error}") from None
    found = {"weights": weights, "tokenizer": hashes.tokenizer, "template": hashes.template}
    for name, value in found.items():
        if value != getattr(receipt, name):
            yield f"{name}: those of {files.root} have {value}, the receipt says {getattr(receipt, name)}"
