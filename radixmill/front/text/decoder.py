"""Token ids → text while they come. Knows nothing of stop strings or requests."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol


class Spells(Protocol):
    """What the decoder needs of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_bytes(self, token: int, /) -> bytes: ...


class TextDecoder:
    """The text of ids that continue a prompt, pushed in any portions.

    The total is `tokenizer.decode(all ids, continues=True)`: the bytes of the tokens, one after the other, read as
    UTF-8, each maximal wrong part as one U+FFFD (Unicode 16, section 3.9). `push` never gives half a character: it
    keeps at most three bytes back, which `finish` turns into U+FFFD. A first space is the token's own and stays.
    """

    def __init__(self, tokenizer: Spells, *, skip_special: bool = True) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._skip = tokenizer.special_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        skip, bytes_of = self._skip, self._bytes_of
        return self._utf8.decode(b"".join([bytes_of(i) for i in ids if i not in skip]))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)
