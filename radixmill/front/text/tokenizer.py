"""Strings ⇄ token ids. Knows no files and no templates; `hf.py` and `gguf.py` make its `Vocabulary`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import tokenizers

from radixmill.front.text.fill import Fill, find_fill
from radixmill.front.text.spelling import SPACE, Speller, pieces, plain, sentencepiece

# Above this many characters the encoder runs outside Python's lock; below, taking it back costs more than it gives.
_LONG = 2048
_STAND_IN = "☺"  # joins nothing that follows
_FILLER = "\U0010ffff"  # a noncharacter


@dataclass(frozen=True, slots=True)
class Added:
    """A token that is found in text as a whole, before anything else is split.

    `special`: left out of decoded text on demand. `control`: must never come from a user's text.
    """

    literal: str
    id: int
    special: bool = False
    control: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    def renamed(self, literal: str) -> tokenizers.AddedToken:
        """For the library, to be found under another spelling."""
        flags = {"lstrip": self.lstrip, "rstrip": self.rstrip, "single_word": self.single_word}
        return tokenizers.AddedToken(literal, special=self.special, normalized=self.normalized, **flags)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All that a Tokenizer is made of.

    `engine` parses every added token. `token` gives the vocabulary's own spelling of an id (None: no such token) and
    `spell` the bytes of that. `before`/`after` are what `add_special` puts around a text.
    """

    engine: tokenizers.Tokenizer
    size: int
    added: tuple[Added, ...]
    token: Callable[[int], str | None]
    spell: Speller
    eats_first_space: bool = False
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None  # what unknown text becomes, where there can be any
    notes: tuple[str, ...] = ()
    fill_ids: tuple[int | None, int | None, int | None] = (
        None,
        None,
        None,
    )  # marks before, after, in the middle of a gap


class Tokenizer:
    """One model's tokenizer. All methods may be called from any thread.

    `control` maps the literals of control tokens to their ids. It holds the special tokens and also those added tokens
    that are role marks by their looks although their vocabulary doesn't call them special.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.vocab_size = vocabulary.size
        self.bos_id, self.eos_id = vocabulary.bos_id, vocabulary.eos_id
        self.before, self.after = vocabulary.before, vocabulary.after
        self.notes = vocabulary.notes
        self.added = vocabulary.added
        self.control = {a.literal: a.id for a in vocabulary.added if a.control}
        self.special_ids = frozenset(a.id for a in vocabulary.added if a.special)
        self.fill: Fill | None = find_fill(vocabulary.engine.token_to_id, vocabulary.fill_ids)
        self._control_ids = frozenset(self.control.values())
        id_to_token = vocabulary.engine.model.id_to_token
        # Unknown text is <unk>, and may be. Ids beyond the model's own are reached by added tokens alone.
        self._forbidden = {i for i in self._control_ids if i != vocabulary.unk_id and id_to_token(i) is not None}
        self._literals = {a.id: _literal_bytes(a, vocabulary.spell) for a in vocabulary.added}
        self._bytes: dict[int, bytes] = {}
        self._marked = lru_cache(maxsize=8)(self._without_control)

    def is_control(self, token: int) -> bool:
        return token in self._control_ids

    def encode(self, text: str, *, parse_special: bool = True, add_special: bool = True) -> list[int]:
        """Token ids of `text`.

        `parse_special`: literals of control tokens in the text become those tokens; otherwise they are text like any
        other. `add_special`: begin and end tokens are put around it if the model's own configuration asks for them.
        Raises ValueError where the text holds half a surrogate pair.
        """
        check_unicode(text)
        ids = _run(self._vocabulary.engine, text) if parse_special else self._plain(text)
        return self._surround(ids) if add_special else ids

    def encode_fill(self, before: str, after: str, *, parse_special: bool = True) -> list[int]:
        """A prompt to fill the gap between two texts. The tokenizer has marks for that (`fill`). Raises as `encode`."""
        assert self.fill is not None, "this vocabulary has no marks of a gap"
        head = self.encode(before, parse_special=parse_special, add_special=False)
        tail = self._encode_inside(after, parse_special)
        return [*self.before, self.fill.before, *head, self.fill.after, *tail, self.fill.middle]

    def _encode_inside(self, text: str, parse_special: bool) -> list[int]:
        """Ids of a text that does not begin a line of text: without the space that some encoders put first."""
        ids = self.encode(text, parse_special=parse_special, add_special=False)
        if not self._vocabulary.eats_first_space:
            return ids
        first = self.encode(_STAND_IN, add_special=False)
        both = self.encode(_STAND_IN + text, parse_special=parse_special, add_special=False)
        return both[len(first) :] if both[: len(first)] == first else ids

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """Token ids of `text`, where a control token is what is spelled `mark` + literal, and a literal without the
        mark is text. `mark` is one character; nothing is put around."""
        check_unicode(text)
        return self._marked(mark).encode(text)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for, which may be part of a character. A control token's are those of its literal;
        an id without a token (vocabularies are padded) has none."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._spell(token)
        return known

    def longest(self) -> int | None:
        """Bytes of the longest token; None where any length of unknown text may be one token, or white space beside an added
        token go with it."""
        if self._vocabulary.unk_id is not None or any(a.lstrip or a.rstrip for a in self.added):
            return None
        return max((len(self._spell(token)) for token in range(self.vocab_size)), default=0)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True, continues: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD.

        As in Hugging Face's `decode`, the first space goes where the encoder had put one before the text (SentencePiece,
        WordPiece). `continues`: the ids continue a prompt, so their first space is their own and stays; that is
        what TextDecoder gives.
        """
        skip = self.special_ids if skip_special else frozenset()
        text = b"".join(self.token_bytes(i) for i in ids if i not in skip).decode("utf-8", "replace")
        return text[1:] if self._vocabulary.eats_first_space and not continues and text.startswith(" ") else text

    def _spell(self, token: int) -> bytes:
        if token in self._literals:
            return self._literals[token]
        text = self._vocabulary.token(token) if 0 <= token < self.vocab_size else None
        return b"" if text is None else self._vocabulary.spell(text)

    def _surround(self, ids: list[int]) -> list[int]:
        return [*self.before, *ids, *self.after]

    def _plain(self, text: str) -> list[int]:
        return self._marked("").encode(text)

    def _without_control(self, mark: str) -> _Variant:
        added = {(mark + a.literal if a.control else a.literal): a for a in self.added if mark or not a.control}
        return _Variant(self._vocabulary.engine, self._gap, added, self._spell_control)

    def _spell_control(self, ids: list[int]) -> list[int]:
        """Merges may lead to a control token letter by letter: take it apart again."""
        if self._forbidden.isdisjoint(ids):
            return ids
        return [piece for i in ids for piece in (self._spelled[i] if i in self._forbidden else (i,))]

    @cached_property
    def _spelled(self) -> dict[int, tuple[int, ...]]:
        id_of = self._vocabulary.engine.model.token_to_id
        return {i: tuple(pieces(literal, id_of)) for literal, i in self.control.items() if i in self._forbidden}

    @cached_property
    def _gap(self) -> int:
        """Ids below the model's highest that have no token."""
        vocab = self._vocabulary.engine.get_vocab(with_added_tokens=False)
        return max(vocab.values(), default=-1) + 1 - len(vocab)


class _Variant:
    """The same model with other spellings of its added tokens."""

    def __init__(
        self,
        engine: tokenizers.Tokenizer,
        gap: int,
        added: dict[str, Added],
        clean: Callable[[list[int]], list[int]],
    ) -> None:
        self._engine, self._clean = _sharing(engine), clean
        # The library numbers new tokens from the count of the old ones: fill up to the model's highest id.
        self._engine.add_tokens([tokenizers.AddedToken(f"{_FILLER}{n}{_FILLER}", normalized=False) for n in range(gap)])
        self._engine.add_tokens([token.renamed(literal) for literal, token in added.items()])
        given = {literal: self._engine.token_to_id(literal) for literal in added}
        self._ids = {given[literal]: token.id for literal, token in added.items() if given[literal] != token.id}

    def encode(self, text: str) -> list[int]:
        ids = self._clean(_run(self._engine, text))
        return [self._ids.get(i, i) for i in ids] if self._ids else ids


def check_unicode(text: str) -> None:
    """Raises ValueError where `text` can't be written as UTF-8."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise ValueError(
            f"the text is not valid Unicode: half a surrogate pair ({half}) at character {error.start}"
        ) from None


def _run(engine: tokenizers.Tokenizer, text: str) -> list[int]:
    # Only the library's batch calls release Python's lock.
    if len(text) < _LONG:
        ids: list[int] = engine.encode(text, add_special_tokens=False).ids
    else:
        ids = engine.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids


def _sharing(engine: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer with the very same model (shared, not copied), normalizer and pre-tokenizer, and no added tokens."""
    other = tokenizers.Tokenizer(engine.model)
    stages: dict[str, Any] = {"normalizer": engine.normalizer, "pre_tokenizer": engine.pre_tokenizer}
    for name, stage in stages.items():
        if stage is not None:
            setattr(other, name, stage)
    return other


def _literal_bytes(token: Added, spell: Speller) -> bytes:
    shown = token.literal if token.control or spell is not sentencepiece else token.literal.replace(SPACE, " ")
    return plain(shown)
