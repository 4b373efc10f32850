"""How the tokens of a vocabulary spell bytes. Each function takes a token as the vocabulary writes it."""

from __future__ import annotations

import re
from collections.abc import Callable

Speller = Callable[[str], bytes]

SPACE = "\u2581"  # how SentencePiece writes a space
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


def _byte_alphabet() -> dict[int, str]:
    """Byte → the printable character that stands for it in byte-level BPE (Radford et al. 2019, the GPT-2 encoder)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}


ALPHABET = _byte_alphabet()
_BYTE_OF = {char: byte for byte, char in ALPHABET.items()}


def byte_level(token: str) -> bytes:
    """`Ġhello` → ` hello`. A token outside the alphabet stands for itself."""
    try:
        return bytes([_BYTE_OF[char] for char in token])
    except KeyError:
        return plain(token)


def sentencepiece(token: str) -> bytes:
    """`▁hello` → ` hello`; `<0x0A>` → the byte 10."""
    if match := _BYTE_TOKEN.match(token):
        return bytes([int(match[1], 16)])
    return plain(token.replace(SPACE, " "))


def wordpiece(token: str) -> bytes:
    """`##ing` → `ing`, `sing` → ` sing`: words are put apart again, the original spacing is lost."""
    return plain(token[2:] if token.startswith("##") else f" {token}")


def words(token: str) -> bytes:
    """For vocabularies of whole words without a decoder of their own."""
    return plain(f" {token}")


def plain(token: str) -> bytes:
    return token.encode("utf-8", "surrogateescape")


def pieces(literal: str, id_of: Callable[[str], int | None]) -> list[int]:
    """`literal` spelled with the vocabulary's smallest tokens: characters where it has them, else bytes."""
    found: list[int] = []
    for char in literal:
        whole = id_of(SPACE if char == " " and id_of(SPACE) is not None else char)
        data = plain(char)
        if whole is not None and len(data) == 1:
            found.append(whole)
            continue
        parts = [_first(id_of, ALPHABET[b], f"<0x{b:02X}>") for b in data]
        found += [whole] if whole is not None and None in parts else [p for p in parts if p is not None]
    return found


def _first(id_of: Callable[[str], int | None], *tokens: str) -> int | None:
    return next((i for i in map(id_of, tokens) if i is not None), None)
