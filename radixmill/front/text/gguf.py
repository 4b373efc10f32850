"""A tokenizer from the vocabulary in a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from radixmill.core.errors import BadModel
from radixmill.front.text.literals import is_filler, is_role_mark
from radixmill.front.text.pretokenize import DEFAULT, RULES
from radixmill.front.text.spelling import SPACE, Speller, byte_level, sentencepiece, wordpiece
from radixmill.front.text.tokenizer import Added, Vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type

# Ends of turns that old converters wrote down as ordinary tokens.
_ALWAYS_CONTROL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<start_of_turn>",
    "<end_of_turn>",
)


@dataclass(frozen=True, slots=True)
class _Source:
    """The metadata of one vocabulary."""

    metadata: Mapping[str, Any]
    tokens: list[str]
    types: Sequence[int]

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def id(self, *keys: str) -> int | None:
        """The token id under the first of `keys` that names one."""
        for key in keys:
            value = self.get(f"{key}_token_id")
            if value is not None and 0 <= int(value) < len(self.tokens):
                return int(value)
        return None

    def strings(self, key: str) -> list[str]:
        value = self.get(key)
        if not isinstance(value, list):
            raise BadModel(f"the GGUF file has no list of strings `tokenizer.ggml.{key}`", "Convert the model again")
        return value


def gguf_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """`metadata`: key → value as in the file. Raises BadModel where it holds no vocabulary that we can build."""
    source = _source(metadata)
    kind = source.get("model")
    builders = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe, "bert": _wordpiece}
    if kind not in builders:
        known = ", ".join(builders)
        raise BadModel(f"the GGUF file's tokenizer model is {kind!r}; RadixMill builds: {known}", "Use --tokenizer DIR")
    return builders[kind](source)


def _source(metadata: Mapping[str, Any]) -> _Source:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise BadModel("the GGUF file holds no vocabulary", "Use --tokenizer DIR")
    types = metadata.get("tokenizer.ggml.token_type")
    if types is None or len(types) != len(tokens):
        return _Source(metadata, tokens, [NORMAL] * len(tokens))
    return _Source(metadata, tokens, types if isinstance(types, list) else types.tolist())


def _byte_level_bpe(source: _Source) -> Vocabulary:
    name = source.get("pre") or "default"
    rule = RULES.get(name, DEFAULT)
    notes = (
        () if name in RULES else (f"the pre-tokenizer {name!r} is not known; the default one may cut text differently",)
    )
    model = _bpe(_ids(source.tokens), _merges(source), ignore_merges=rule.whole_words)
    engine = tokenizers.Tokenizer(model)
    engine.pre_tokenizer = rule.pre_tokenizer()
    if rule.nfc:
        engine.normalizer = normalizers.NFC()
    return _vocabulary(source, engine, byte_level, adds_bos=rule.adds_bos, notes=notes)


def _sentencepiece_bpe(source: _Source) -> Vocabulary:
    ids = _ids(source.tokens)
    unk = source.id("unknown")
    model = _bpe(
        ids,
        _merges_by_score(source, ids),
        unk_token=source.tokens[unk] if unk is not None else None,
        fuse_unk=True,
        byte_fallback=BYTE in source.types,
    )
    engine = tokenizers.Tokenizer(model)
    prefix = bool(source.get("add_space_prefix", True))
    spaces = normalizers.Replace(" ", SPACE)
    engine.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    return _vocabulary(source, engine, sentencepiece, adds_bos=True, eats_first_space=prefix)


def _wordpiece(source: _Source) -> Vocabulary:
    """GGUF marks the beginning of a word with ▁; WordPiece marks its continuation with ##."""
    tokens = [
        text if kind != NORMAL else text[1:] if text.startswith(SPACE) else f"##{text}"
        for text, kind in zip(source.tokens, source.types, strict=True)
    ]
    tokens = [old if _is_unused(old) else new for old, new in zip(source.tokens, tokens, strict=True)]
    unk = source.id("unknown")
    unk_token = tokens[unk] if unk is not None else "[UNK]"
    engine = tokenizers.Tokenizer(models.WordPiece(_ids(tokens), unk_token=unk_token, max_input_chars_per_word=100))
    engine.normalizer = normalizers.BertNormalizer(lowercase=True)
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    changed = _Source(source.metadata, tokens, source.types)
    return _vocabulary(changed, engine, wordpiece, adds_bos=True, eats_first_space=True)


def _is_unused(token: str) -> bool:
    return token.startswith("[unused") and token.endswith("]")


def _vocabulary(
    source: _Source,
    engine: tokenizers.Tokenizer,
    spell: Speller,
    *,
    adds_bos: bool,
    eats_first_space: bool = False,
    notes: tuple[str, ...] = (),
) -> Vocabulary:
    added = tuple(_added(source))
    engine.add_tokens([a.renamed(a.literal) for a in added])
    before, after = _around(source, adds_bos)
    return Vocabulary(
        engine=engine,
        size=len(source.tokens),
        added=added,
        token=source.tokens.__getitem__,
        spell=spell,
        eats_first_space=eats_first_space,
        fill_ids=(source.id("fim_pre", "prefix"), source.id("fim_suf", "suffix"), source.id("fim_mid", "middle")),
        before=before,
        after=after,
        bos_id=source.id("bos"),
        eos_id=source.id("eos"),
        unk_id=None if spell is byte_level else source.id("unknown"),
        notes=notes,
    )


def _added(source: _Source) -> Iterable[Added]:
    """The tokens that are found in text as a whole: control tokens, and those the model's makers defined by hand."""
    ids = _ids(source.tokens)
    marks = {ids[text] for text in _ALWAYS_CONTROL if text in ids}
    ends = {i for i in (source.id("bos"), source.id("eos"), source.id("eot"), source.id("eom")) if i is not None}
    found = {i for i, kind in enumerate(source.types) if kind in (UNKNOWN, CONTROL, USER_DEFINED)} | marks | ends
    phi3 = source.metadata.get("general.architecture") == "phi3" and source.get("model") == "llama"
    for i in sorted(found):
        literal = source.tokens[i]
        if not literal or is_filler(literal, i) or ids[literal] != i:
            continue
        special = source.types[i] in (UNKNOWN, CONTROL) or i in marks or i in ends
        control = special or is_role_mark(literal)
        # Phi-3's own tokenizer drops white space after its role marks; GGUF has no field for that.
        rstrip = phi3 and control and literal not in ("<unk>", "<s>", "<|endoftext|>")
        yield Added(literal, i, special=special, control=control, rstrip=rstrip)


def _around(source: _Source, adds_bos: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What `add_special` puts before and after a text."""
    bert = source.get("model") == "bert"
    first = source.id("cls", "bos") if bert else source.id("bos")
    last = source.id("seperator", "separator", "eos") if bert else source.id("eos")
    before = first is not None and bool(source.get("add_bos_token", adds_bos))
    after = last is not None and bool(source.get("add_sep_token" if bert else "add_eos_token", bert))
    return (first,) if before and first is not None else (), (last,) if after and last is not None else ()


def _ids(tokens: list[str]) -> dict[str, int]:
    """Token → id; of equal tokens the last, and the others get names that no text can reach."""
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) < len(tokens):
        ids |= {f"\U0010ffff{i}\U0010ffff": i for i, token in enumerate(tokens) if ids[token] != i}
    return ids


def _bpe(ids: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(vocab=ids, merges=merges, **options)
    except Exception:  # the library raises its base class: a merge names, or makes, what is no token
        whole = [(a, b) for a, b in merges if a in ids and b in ids and a + b in ids]
        return models.BPE(vocab=ids, merges=whole, **options)


def _merges(source: _Source) -> list[tuple[str, str]]:
    pairs = [tuple(merge.split(" ", 1)) for merge in source.strings("merges")]
    if set(map(len, pairs)) - {2}:
        raise BadModel("the GGUF file's `tokenizer.ggml.merges` has a line that is no pair", "Convert the model again")
    return cast("list[tuple[str, str]]", pairs)


def _merges_by_score(source: _Source, ids: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair whose token has the highest score: every way to make a token, in order of scores."""
    scores = source.get("scores")
    scores = [0.0] * len(ids) if scores is None else scores if isinstance(scores, list) else scores.tolist()
    usable = [
        (-scores[i], text)
        for i, (text, kind) in enumerate(zip(source.tokens, source.types, strict=True))
        if kind in (NORMAL, USER_DEFINED, UNUSED) and len(text) > 1
    ]
    usable.sort(key=lambda item: item[0])
    known = {
        text for text, kind in zip(source.tokens, source.types, strict=True) if kind in (NORMAL, USER_DEFINED, UNUSED)
    }
    return [
        (left, right)
        for _, text in usable
        for cut in range(1, len(text))
        if (left := text[:cut]) in known and (right := text[cut:]) in known
    ]


__all__ = ["gguf_vocabulary"]
