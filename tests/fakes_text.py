"""A tokenizer without files: byte b is token b, special tokens follow."""

from __future__ import annotations

from collections.abc import Iterable

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


class ByteTokenizer:
    """What TextDecoder and sessions need of a Tokenizer."""

    vocab_size = 256 + len(SPECIAL)
    control = {text: 256 + i for i, text in enumerate(SPECIAL)}
    special_ids = frozenset(control.values())
    bos_id = None
    eos_id = control["<|im_end|>"]

    def encode(self, text: str, *, parse_special: bool = True, add_special: bool = True) -> list[int]:
        for literal, token in self.control.items() if parse_special else ():
            text = text.replace(literal, chr(0xF0000 + token))
        return [
            ord(c) - 0xF0000 if ord(c) >= 0xF0100 else b
            for c in text
            for b in (c.encode() if ord(c) < 0xF0100 else b"?")
        ]

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else SPECIAL[token - 256].encode() if token < self.vocab_size else b""

    def is_control(self, token: int) -> bool:
        return token in self.special_ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, continues: bool = False) -> str:
        kept = (i for i in ids if not (skip_special and i in self.special_ids))
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")
