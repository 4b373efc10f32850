"""Small vocabularies, made as a GGUF file would hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radixmill.front.text import ChatTemplate, TextStack, Tokenizer
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.front.text.spelling import ALPHABET
from radixmill.front.text.template import CHATML

CONTROL = ("<|im_start|>", "<|im_end|>", "<s>", "</s>")
NORMAL, UNKNOWN, CONTROL_TYPE, USER_DEFINED, _, BYTE = range(1, 7)


def byte_level(
    merges: Sequence[str] = ("h e", "l l", "he ll", "Ġ he"), control: Sequence[str] = CONTROL, **more: Any
) -> dict[str, Any]:
    """All bytes, a few merges, the control tokens, and one token its makers defined by hand."""
    tokens = [*ALPHABET.values(), *(m.replace(" ", "") for m in merges), "<think>", *control]
    kinds = [NORMAL] * (256 + len(merges)) + [USER_DEFINED] + [CONTROL_TYPE] * len(control)
    return _metadata("gpt2", tokens, kinds, {"pre": "gpt-2", "merges": list(merges), **more})


def sentencepiece(pieces: Sequence[str] = ("▁", "h", "e", "he", "▁he"), **more: Any) -> dict[str, Any]:
    """Bytes, some pieces in order of merit, the control tokens."""
    tokens = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *pieces, *CONTROL]
    kinds = [UNKNOWN] + [BYTE] * 256 + [NORMAL] * len(pieces) + [CONTROL_TYPE] * len(CONTROL)
    scores = [0.0] * 257 + [-float(i) for i in range(len(pieces))] + [0.0] * len(CONTROL)
    return _metadata("llama", tokens, kinds, {"scores": scores, "unknown_token_id": 0, **more})


def _metadata(model: str, tokens: list[str], kinds: list[int], more: dict[str, Any]) -> dict[str, Any]:
    own = {"model": model, "tokens": tokens, "token_type": kinds, "eos_token_id": tokens.index("<|im_end|>")}
    return {f"tokenizer.ggml.{key}": value for key, value in {**own, **more}.items()}


def stack(metadata: dict[str, Any], template: str = CHATML, **variables: str) -> TextStack:
    return TextStack(Tokenizer(gguf_vocabulary(metadata)), ChatTemplate(template, variables=variables))
