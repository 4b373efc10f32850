"""Filling in the middle: how model families mark the text before a gap, the text after it, and the gap itself.

A prompt is: before-mark, text before, after-mark, text after, middle-mark; the model then writes what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Spellings of the three marks, by family.
MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("<PRE>", "<SUF>", "<MID>"),
)
# What these models write when the gap is full, whatever else their makers call an end.
ENDS = (
    "<|endoftext|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<|file_separator|>",
    "<file_sep>",
    "<fim_pad>",
    "<｜end▁of▁sentence｜>",
    "▁<EOT>",
    "<EOT>",
)


@dataclass(frozen=True, slots=True)
class Fill:
    """Token ids of the marks, and of what ends the text in the gap."""

    before: int
    after: int
    middle: int
    ends: tuple[int, ...] = ()


def find_fill(
    id_of: Callable[[str], int | None], named: tuple[int | None, int | None, int | None] = (None, None, None)
) -> Fill | None:
    """The marks of a vocabulary: those that its file `named`, else the first family whose marks it has; None: it has none.

    `id_of`: a token's id by its spelling.
    """
    for marks in (named, *(tuple(map(id_of, family)) for family in MARKS)):
        before, after, middle = marks
        if before is not None and after is not None and middle is not None:
            ends = [id for id in map(id_of, ENDS) if id is not None]
            return Fill(before, after, middle, tuple(dict.fromkeys(ends)))
    return None
