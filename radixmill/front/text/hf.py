"""A tokenizer from a Hugging Face folder: tokenizer.json, with tokenizer_config.json beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from radixmill.core.errors import BadModel
from radixmill.front.text.literals import is_role_mark
from radixmill.front.text.spelling import Speller, byte_level, sentencepiece, wordpiece, words
from radixmill.front.text.tokenizer import Added, Vocabulary

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def hf_vocabulary(path: Path, config: Mapping[str, Any]) -> Vocabulary:
    """`path`: a tokenizer.json; `config`: what tokenizer_config.json says. Raises BadModel where it can't be read."""
    engine = _open(path)
    named = named_tokens(config)
    added = tuple(_added(engine, {*named.values(), *_more_special(config)}))
    bos, eos = (engine.token_to_id(named[name]) if name in named else None for name in ("bos_token", "eos_token"))
    before, after = _around(engine, config, bos, eos)
    spell, eats = _decoder(engine)
    unk = engine.token_to_id(named["unk_token"]) if "unk_token" in named else None
    return Vocabulary(
        engine=engine,
        size=max([engine.get_vocab_size(with_added_tokens=True), *(a.id + 1 for a in added)]),
        added=added,
        token=engine.id_to_token,
        spell=spell,
        eats_first_space=eats,
        before=before,
        after=after,
        bos_id=bos,
        eos_id=eos,
        unk_id=None if spell is byte_level else unk,
    )


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, … as text, those that are set."""
    found = {name: _text(config.get(name)) for name in NAMED}
    return {name: text for name, text in found.items() if text}


def _open(path: Path) -> tokenizers.Tokenizer:
    try:
        engine = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # the library raises its base class
        raise BadModel(
            f"{path} is no tokenizer that we can read ({str(error)[:200]})", "Copy or download it again"
        ) from None
    engine.no_truncation()
    engine.no_padding()
    return engine


def _added(engine: tokenizers.Tokenizer, special: set[str]) -> list[Added]:
    return [
        Added(
            literal=token.content,
            id=i,
            special=token.special or token.content in special,
            control=token.special or token.content in special or is_role_mark(token.content),
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            single_word=token.single_word,
            normalized=token.normalized,
        )
        for i, token in sorted(engine.get_added_tokens_decoder().items())
    ]


def _more_special(config: Mapping[str, Any]) -> list[str]:
    listed = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    values = listed.values() if isinstance(listed, dict) else listed
    return [text for text in map(_text, values) if text]


def _around(
    engine: tokenizers.Tokenizer, config: Mapping[str, Any], bos: int | None, eos: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the post-processor puts around a text; `add_bos_token` and `add_eos_token` have the last word."""
    bare, full = (engine.encode("a", add_special_tokens=add).ids for add in (False, True))
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    before, after = tuple(full[:at]), tuple(full[at + len(bare) :])
    return _asked(before, bos, config.get("add_bos_token")), _asked(after, eos, config.get("add_eos_token"))


def _asked(given: tuple[int, ...], token: int | None, asked: Any) -> tuple[int, ...]:
    if token is None or not isinstance(asked, bool) or asked == (token in given):
        return given
    return (token,) if asked else tuple(i for i in given if i != token)


def _decoder(engine: tokenizers.Tokenizer) -> tuple[Speller, bool]:
    """How tokens spell bytes, and whether decoding drops the first space."""
    if engine.decoder is None:
        return words, True
    stages = _flat(json.loads(engine.decoder.__getstate__()))
    kinds = {stage["type"] for stage in stages}
    if "ByteLevel" in kinds:
        return byte_level, False
    if "WordPiece" in kinds:
        return wordpiece, True
    strips = any(s["type"] == "Strip" and s.get("start") for s in stages)
    prepends = any(s["type"] == "Metaspace" and s.get("prepend_scheme", "always") != "never" for s in stages)
    return sentencepiece, strips or prepends


def _flat(stage: dict[str, Any]) -> list[dict[str, Any]]:
    return [inner for one in stage["decoders"] for inner in _flat(one)] if stage["type"] == "Sequence" else [stage]


def _text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
