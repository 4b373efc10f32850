"""A prompt's own text, as an answer that echoes it shows it, and where each of its tokens begins in it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from radixmill.front.session.ask import Prompt, TextPrompt
from radixmill.front.session.text import Text
from radixmill.front.text import TextDecoder


class PromptText(Struct, frozen=True):
    """`offsets`: characters of `text` before each token. A token that shows nothing begins where the next does."""

    text: str
    offsets: tuple[int, ...]


def prompt_text(text: Text, prompt: Prompt, ids: Sequence[int], *, skip_special: bool) -> PromptText:
    """A text comes back as it was sent, token ids as their text."""
    sent = prompt.text if isinstance(prompt, TextPrompt) else None
    decoder = TextDecoder(text, skip_special=skip_special and sent is None)
    at, offsets = 0, []
    for token in ids:
        offsets.append(at)
        at += len(decoder.push((token,)))
    at += len(decoder.finish())
    shown = text.decode(ids, skip_special=skip_special) if sent is None else sent
    # What the tokenizer puts before a text (a begin token, a space) is not shown. One that rewrites texts (lower case,
    # NFC) may leave offsets a little off; they stay in order and inside.
    before = at - len(shown)
    return PromptText(shown, tuple(min(max(offset - before, 0), len(shown)) for offset in offsets))
