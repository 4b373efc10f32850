"""What the grammars know of a model's tokens. Knows no tokenizer: bytes are all that a grammar needs."""

from __future__ import annotations

from collections.abc import Sequence

import llguidance
from msgspec import Struct


class Vocabulary(Struct, frozen=True, kw_only=True):
    """Token i stands for tokens[i]; ids up to `size`, the width of the model's logits, may have none (padding).

    Control tokens (role marks, end tokens, marks of tool calls) are no text: a grammar takes one only where it names it.
    """

    tokens: tuple[bytes, ...]  # a control token's are those of its literal
    control: frozenset[int]
    eos_ids: tuple[int, ...]
    size: int

    @property
    def literals(self) -> dict[str, int]:
        """Control tokens by their text."""
        known = {i: self.tokens[i] for i in sorted(self.control) if i < len(self.tokens)}
        return {text.decode("utf-8", "replace"): i for i, text in known.items() if text}

    @property
    def words(self) -> int:
        """Words of 32 bits in a mask: ⌈V/32⌉."""
        return -(-self.size // 32)

    def tokenizer(self) -> llguidance.LLTokenizer:
        """The library's form of it, made in two steps because each holds Python's lock: 0.2 s for 150,000 tokens."""
        tokens = list(self.tokens[: self.size]) + [b""] * (self.size - len(self.tokens))
        ends = [i for i in self.eos_ids if i < self.size]
        if not ends:  # the library wants one: an id that no mask has room for
            ends = [len(tokens)]
            tokens.append(b"")
        special = sorted({i for i in self.control if i < self.size}.union(ends))
        plain = llguidance.LLTokenizer(_Wrapper(tokens, special, ends[0]), eos_token=ends, slices=[])
        return plain.with_slices(llguidance.LLTokenizer.general_slices())


class _Wrapper(llguidance.TokenizerWrapper):
    """What the library asks of a tokenizer. Encoding it needs only to force canonical spellings, which we don't."""

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int], eos: int) -> None:
        self.tokens, self.special_token_ids = tokens, special
        self.eos_token_id, self.bos_token_id = eos, None
        self.is_tokenizer_wrapper = True

    def __call__(self, text: bytes | str) -> list[int]:
        raise NotImplementedError("grammars don't encode text")
