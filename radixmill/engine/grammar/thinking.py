"""One sequence's place in its thinking budget: when the closing tag is forced. Knows no request and no scheduler.

        gap ──opening tag──▶ thoughts ──as many as may be──▶ closing
         │                      │                              │
         └─ anything visible ─▶ behind ◀─ the model ends them ─┘

Like a Matcher, whose place it takes in front of the one that a grammar has: the state is a function of the budget and the
tokens pushed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from radixmill.core.request import ThinkingBudget
from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.marked import Marked
from radixmill.engine.grammar.matcher import Matcher
from radixmill.engine.grammar.vocabulary import Vocabulary

_SPACE = b" \t\r\n"

Place = Literal["gap", "thoughts", "closing", "behind"]


class Thinking:
    """The next tokens that the budget allows, and the grammar of `inner`, where there is one.

    A grammar that begins behind the thoughts waits for their end itself, as one that takes them reads them itself: both
    are told every token. Where thoughts are cut within a character, which no grammar takes, they are told nothing of
    its tokens.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        budget: ThinkingBudget,
        inner: Matcher | None = None,
        output: Iterable[int] = (),
    ) -> None:
        """`output`: the tokens so far. Raises GrammarError where they can't be."""
        self._budget, self._inner = budget, inner
        self._marked = Marked(vocabulary, (budget.open, *budget.ends))
        self._open, *self._ends = self._marked.texts
        self._keep = max(map(len, self._marked.texts)) - 1
        self._seen = b""  # the last bytes in which a tag may have begun; in the gap all of it
        self._left = budget.tokens
        self._recent: list[int] = []  # the last tokens of the thoughts, one less than the closing tag has
        self._cut = _Cut()
        self._at = 0  # tokens of the closing tag that are here
        self._place: Place = "gap"
        if budget.opened:
            self._enter(b"")
        for token in output:
            self.push(token)

    @property
    def ended(self) -> bool:
        """Whether the grammar has ended."""
        return self._inner is not None and self._inner.ended

    @property
    def free(self) -> int:
        """Tokens that may be drawn without a mask, whatever they are."""
        if self._inner is not None:
            return self._inner.free if self._place != "closing" else 0
        match self._place:
            case "closing":
                return 0
            case "thoughts":
                return self._left
            case "behind" if not self._budget.again:
                return sys.maxsize
            case _:
                return 1 + self._left  # the next may open thoughts

    def push(self, token: int) -> None:
        """The output goes on with `token`. Raises GrammarError where it can't."""
        if self._inner is not None:
            self._inner.push(token)
        match self._place:
            case "gap":
                self._look(self._marked.bytes_of(token))
            case "thoughts":
                self._think(token, self._marked.bytes_of(token))
            case "closing":
                self._close(token)
            case "behind" if self._budget.again:
                self._look_again(self._marked.bytes_of(token))

    def fill(self, row: NDArray[np.uint32]) -> None:
        """Write the mask of the next token into `row`; see Matcher.fill."""
        if self._place == "closing":
            token = self._budget.close[self._at]
            row[:] = 0
            row[token // 32] = np.uint32(1 << token % 32)
        elif self._inner is not None:
            self._inner.fill(row)
        else:
            row[:] = 0xFFFFFFFF

    def forced(self) -> int | None:
        """The one token that the mask leaves; None where there are more."""
        if self._place == "closing":
            return self._budget.close[self._at]
        return self._inner.forced() if self._inner is not None else None

    def _look(self, text: bytes) -> None:
        """In the gap: an opening tag is what counts, white space what may stand before it."""
        self._seen = (self._seen + text).lstrip(_SPACE)
        if self._seen.startswith(self._open):
            self._enter(self._seen[len(self._open) :])
        elif not self._open.startswith(self._seen):
            self._place = "behind"
            if self._budget.again:
                self._look_again(b"")

    def _look_again(self, text: bytes) -> None:
        """Behind thoughts or content: an opening tag counts wherever it is."""
        self._seen += text
        if (at := self._seen.find(self._open)) >= 0:
            self._enter(self._seen[at + len(self._open) :])
        else:
            self._trim()

    def _enter(self, rest: bytes) -> None:
        """Thoughts begin; `rest` is what their opening tag's last token has behind it."""
        self._place, self._seen, self._recent, self._cut = "thoughts", rest, [], _Cut()
        self._go_on()

    def _think(self, token: int, text: bytes) -> None:
        self._left -= 1
        self._seen += text
        self._cut.push(text)
        if (keep := len(self._budget.close) - 1) > 0:
            self._recent = [*self._recent, token][-keep:]
        self._go_on()

    def _go_on(self) -> None:
        """Thoughts as they are: ended by the model, at their limit, or neither."""
        if any(end in self._seen for end in self._ends):
            self._left += 1  # their closing tag, one token nearly everywhere, is none of theirs
            self._leave()
        elif self._left <= 0:
            self._place, self._at = "closing", _begun(self._recent, self._budget.close)
            if self._inner is not None:
                self._inner.forget(self._cut.tokens)
        else:
            self._trim()

    def _close(self, token: int) -> None:
        if token != self._budget.close[self._at]:
            raise GrammarError("the output goes on where its thoughts must end")
        self._at += 1
        if self._at == len(self._budget.close):
            self._leave()

    def _leave(self) -> None:
        self._place, self._seen = "behind", b""

    def _trim(self) -> None:
        self._seen = self._seen[-self._keep :] if self._keep else b""


class _Cut:
    """Whether bytes end within a character. `tokens`: the last ones that the rest of it would belong to."""

    def __init__(self) -> None:
        self.tokens = 0
        self._rest = b""

    def push(self, text: bytes) -> None:
        whole = self._rest + text
        rest = whole[len(whole) - _unfinished(whole) :]
        self.tokens = 0 if not rest else 1 if len(rest) <= len(text) else self.tokens + 1
        self._rest = rest


def _unfinished(text: bytes) -> int:
    """How many bytes at the end begin a character of UTF-8 that is not complete."""
    for length in range(1, min(3, len(text)) + 1):
        if (lead := text[-length]) >= 0xC0:
            return length if length < (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) else 0
        if lead < 0x80:
            return 0
    return 0


def _begun(tokens: list[int], tag: tuple[int, ...]) -> int:
    """How many of the tag's first tokens are the last ones here, but not all."""
    return next(n for n in range(min(len(tokens), len(tag) - 1), -1, -1) if tuple(tokens[len(tokens) - n :]) == tag[:n])
