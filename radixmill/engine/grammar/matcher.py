"""One sequence's place in its grammar: which tokens may come next. Knows no request and no scheduler.

The state is a function of the grammar's text and the tokens pushed, so it is rebuilt by pushing them again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import llguidance
import numpy as np
from numpy.typing import NDArray

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.marked import MARK, Marked
from radixmill.engine.grammar.vocabulary import Vocabulary

RULES = "g"  # and a number and "_": how names of a caller's rules begin


# What the library may spend; its own speeds in comments. Beyond it a mask is an error, and its sequence ends.
def _limits(max_items_in_row: int) -> llguidance.LLParserLimits:
    return llguidance.LLParserLimits(
        max_items_in_row=max_items_in_row,
        initial_lexer_fuel=2_000_000,  # building; some 50,000 a millisecond
        step_lexer_fuel=300_000,  # one mask; some 14,000 a millisecond
        step_max_items=50_000,  # one mask; some 20,000 a millisecond, but the fewer the longer its rows are
        max_lexer_states=50_000,  # 1 to 2 kB each
        max_grammar_size=500_000,
        verbose_errors=False,
    )


# A row of a grammar that is ambiguous without end (`x ::= [a-z] | x x`) holds two items for each token before it, and
# each item costs a look at the whole row: 10 ms a mask at 250 items with 150,000 tokens, 94 ms at 600. A schema's rows
# are long only where many members may be left out: such masks take 2 ms at 600, and schemas in use need that many.
LIMITS = _limits(250)
SCHEMA_LIMITS = _limits(600)  # without rules of a caller's making
_RULES = re.compile(rf"^{RULES}\d+_", re.MULTILINE)

_COPYABLE = 200  # tokens; then a copy costs what a mask does
_FULL = "too many states"  # of the lexer, as the library says it


def compiled(tokenizer: llguidance.LLTokenizer, grammar: str) -> llguidance.LLMatcher:
    """A matcher of the library at the grammar's start. Raises GrammarError where the text is none, or too large."""
    limits = LIMITS if _RULES.search(grammar) else SCHEMA_LIMITS
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    _check(matcher)
    return matcher


class Start:
    """A grammar at its start, from which matchers are copied.

    Copies share what the library's lexer has learned of the grammar. It learns at most `max_lexer_states` of its limits; a full
    one is of no use to anybody and is replaced.
    """

    def __init__(self, tokenizer: llguidance.LLTokenizer, text: str) -> None:
        """`text`: what `to_grammar` gives. Raises GrammarError where it is none, or too large."""
        self.tokenizer, self._text = tokenizer, text
        self.matcher = compiled(tokenizer, text)
        self._straying: dict[bytes, dict[bytes, tuple[int, ...]]] = {}
        self.matcher.compute_bitmask()  # every copy will need the first mask: learn it once
        _check(self.matcher)

    def renewed(self, full: llguidance.LLMatcher) -> llguidance.LLMatcher:
        """A matcher at the start whose lexer is not the one of `full`."""
        if self.matcher is full:
            self.matcher = compiled(self.tokenizer, self._text)
        return self.matcher

    def straying(self, vocabulary: Vocabulary, after: bytes) -> dict[bytes, tuple[int, ...]]:
        """Tokens that complete `after` and go on with what the grammar doesn't begin with, by what stands before them.

        All tokens are looked through, once for each `after`. What ends with a control token is completed by that alone.
        """
        if after.endswith(MARK):
            return {}
        if after not in self._straying:
            known = vocabulary.tokens[: vocabulary.size]
            self._straying[after] = {
                before: tuple(token for token, rest in found if self.spelled(self.matcher, rest) is None)
                for before, found in _completing(known, after).items()
            }
        return self._straying[after]

    def spelled(self, grammar: llguidance.LLMatcher, text: bytes) -> list[int] | None:
        """Tokens that spell `text` if `grammar` takes it where it is; else None."""
        try:
            tokens: list[int] = self.tokenizer.greedy_tokenize(text.decode())
        except UnicodeDecodeError:
            return None
        return tokens if grammar.validate_tokens(tokens) == len(tokens) else None


class Matcher:
    """The next tokens that the constraint allows. Not for several threads at once.

    Until the output holds the text `after`, everything is allowed but an end, and a token that completes it and goes on
    with what the grammar doesn't take; nothing is forced. The grammar's match begins behind it. Control tokens in
    `after` are found by their ids: letters that spell them are text. `ends` are the tokens that end the sequence, besides the model's own end tokens.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        start: Start,
        *,
        after: str = "",
        ends: frozenset[int] = frozenset(),
        output: Iterable[int] = (),
    ) -> None:
        """`output`: the tokens so far. Raises GrammarError where the grammar refuses one of them."""
        self._vocabulary, self._start = vocabulary, start
        self._origin = start.matcher
        self._grammar = self._origin.deep_copy()
        self._fed: list[int] = []  # what the grammar has taken
        self._row = np.zeros(-(-start.tokenizer.vocab_size // 32), np.uint32)
        self._fresh = False  # whether _row is the mask of this place
        self._ended = False
        self._marked = Marked(vocabulary, (after,))
        self._after = self._marked.texts[0]
        self._seen = b""  # the last bytes of the output, one less than `after` has
        self._waiting = bool(after)
        self._eos = frozenset(vocabulary.eos_ids)
        self._ends = frozenset(i for i in ends | self._eos if 0 <= i < vocabulary.size)
        self._stops = tuple(sorted(self._ends - self._eos))
        for token in output:
            self.push(token)

    @property
    def ended(self) -> bool:
        """Whether an end token has been pushed where the grammar may end."""
        return self._ended

    @property
    def finished(self) -> bool:
        """Whether nothing but an end can follow."""
        return self._ended or (not self._waiting and bool(self._grammar.is_stopped()))

    @property
    def free(self) -> int:
        """Tokens that may be drawn without a mask: each has one of its own."""
        return 0

    def push(self, token: int) -> None:
        """The output goes on with `token`. Raises GrammarError where the grammar does not take it."""
        self._fresh = False
        if self._waiting:
            self._wait(token)
        elif self._ended or (token in self._ends and self._grammar.is_accepting()):
            self._ended = True
        else:
            self._feed(token)

    def forget(self, count: int) -> None:
        """As if so many tokens of the output, its last, had not been pushed. They end nothing and complete nothing."""
        if count and not self._waiting:
            self._fresh = False
            del self._fed[-count:]
            self._again()

    def fill(self, row: NDArray[np.uint32]) -> None:
        """Write the mask of the next token into `row` [⌈V/32⌉]: bit i of word w is token 32·w + i, 1 = allowed.

        End tokens are allowed exactly where the grammar may end; where nothing else is, only the model's first. Raises
        GrammarError where that takes more than its limits.
        """
        row[:] = self._mask()[: len(row)]

    def check(self) -> None:
        """Raises GrammarError where the first mask can't be had, or leaves nothing."""
        if not self._mask().any():
            raise GrammarError("no token of the model begins a text that matches")

    def forced(self) -> int | None:
        """The one token that the mask leaves; None where there are more."""
        if self._waiting or not (self._fresh or self._ended or self._grammar.is_stopped() or self._certain()):
            return None
        try:
            return only_bit(self._mask())
        except GrammarError:  # `fill` will say so
            return None

    def _certain(self) -> bool:
        """Whether the next byte may be certain: so it is wherever one token is, and to ask is cheaper than a mask.

        A copy is asked: where a control token is certain, the library's own state is of no use afterwards. The copy
        grows with the output, some 50 ns a token; behind _COPYABLE tokens the mask is asked for at once, and kept for `fill`.
        """
        if len(self._fed) > _COPYABLE:
            return True
        return bool(self._grammar.deep_copy().compute_ff_bytes())

    def _wait(self, token: int) -> None:
        """Look for `after` in the output; what the completing token has behind it is the grammar's, if it takes it."""
        if token in self._ends:
            self._ended, self._waiting = True, False
            return
        text = self._seen + self._marked.bytes_of(token)
        at = text.find(self._after)
        if at < 0:
            keep = len(self._after) - 1
            self._seen = text[-keep:] if keep else b""
            return
        self._waiting, self._seen = False, b""
        self._take(text[at + len(self._after) :])

    def _take(self, rest: bytes) -> None:
        """Feed bytes, as whatever tokens spell them."""
        for token in self._start.spelled(self._grammar, rest) or ():
            self._feed(token)

    def _feed(self, token: int) -> None:
        """The grammar takes `token`. Raises GrammarError where it doesn't."""
        if not self._grammar.consume_token(token) and not (self._renew() and self._grammar.consume_token(token)):
            raise GrammarError(*told(self._grammar.get_error()))
        self._fed.append(token)

    def _renew(self) -> bool:
        """If it is the shared lexer that is full: the same place with another; whether it was."""
        if _FULL not in self._grammar.get_error():
            return False
        self._origin = self._start.renewed(self._origin)
        return self._again()

    def _again(self) -> bool:
        """From the start to behind what was fed; whether the grammar takes that."""
        self._grammar = self._origin.deep_copy()
        return bool(self._grammar.consume_tokens(self._fed))

    def _mask(self) -> NDArray[np.uint32]:
        if not self._fresh:
            self._compute()
            self._fresh = True
        return self._row

    def _compute(self) -> None:
        row = self._row
        if self._waiting:
            row[:] = 0xFFFFFFFF
            _clear(row, self._ends)
            for before, tokens in self._start.straying(self._vocabulary, self._after).items():
                if self._seen.endswith(before):
                    _clear(row, tokens)
        elif self._ended:
            row[:] = 0
            _set(row, self._ends)
        else:
            self._ask()
            if self._renew():
                self._ask()
            _check(self._grammar)
            self._allow_ends(row)
            if self._eos and self._grammar.is_stopped():  # all that is left is to end: one way is enough, and certain
                row[:] = 0
                _set(row, (min(self._eos),))
        self._clip(row)

    def _ask(self) -> None:
        """The library's mask. Python's lock is free while it works."""
        self._grammar.unsafe_compute_mask_ptr(self._row.ctypes.data, self._row.nbytes)

    def _allow_ends(self, row: NDArray[np.uint32]) -> None:
        """The library knows the model's end tokens; a request's own are like them, unless the grammar names them."""
        if not self._stops:
            return
        if self._grammar.is_accepting():
            _set(row, self._stops)
            return
        _clear(row, [token for token in self._stops if token not in self._vocabulary.control])
        if not row.any():
            raise GrammarError("the grammar goes on with nothing but a stop token of the request")

    def _clip(self, row: NDArray[np.uint32]) -> None:
        """No bits beyond the vocabulary."""
        words, rest = self._vocabulary.words, self._vocabulary.size % 32
        row[words:] = 0
        if rest:
            row[words - 1] &= np.uint32((1 << rest) - 1)


def _completing(tokens: Iterable[bytes], after: bytes) -> dict[bytes, list[tuple[int, bytes]]]:
    """The tokens that complete `after` and go on, each with what it goes on with, by the part of `after` before them."""
    found: defaultdict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
    last = after[-1:]
    for token, text in enumerate(tokens):
        end = text.find(last) + 1
        while 0 < end < len(text):
            if text[:end].endswith(after[-end:]):
                found[after[:-end]].append((token, text[end:]))
            end = text.find(last, end) + 1
    return found


def only_bit(row: NDArray[np.uint32]) -> int | None:
    """The index of the one bit that is set; None where there are more, or none."""
    words = np.flatnonzero(row)
    if len(words) != 1:
        return None
    word = int(row[words[0]])
    return None if word & (word - 1) else 32 * int(words[0]) + word.bit_length() - 1


def _set(row: NDArray[np.uint32], tokens: Iterable[int]) -> None:
    for token in tokens:
        row[token // 32] |= np.uint32(1 << token % 32)


def _clear(row: NDArray[np.uint32], tokens: Iterable[int]) -> None:
    for token in tokens:
        row[token // 32] &= np.uint32(0xFFFFFFFF ^ (1 << token % 32))


def _check(matcher: llguidance.LLMatcher) -> None:
    """Raises GrammarError if the library has given up."""
    if matcher.is_error():
        raise GrammarError(*told(matcher.get_error()))


def told(error: str) -> tuple[str, str]:
    """The library's message as reason and place. It may hold a dump of its state, and places in text of our making."""
    lines = error.split("\n<state>")[0].strip().splitlines() or [""]
    if said := next((line for line in lines if line.startswith("error: ")), None):  # the reader of regular expressions
        return f"invalid regular expression: {said[len('error: ') :]}"[:_LONGEST], _underlined(lines)
    reason = _OURS.sub("", lines[0])
    for start, better in _BETTER.items():
        if start in reason:
            return better, ""
    return reason[:_LONGEST] or "the grammar cannot be built", ""


def _underlined(lines: list[str]) -> str:
    """What a line of carets points to; the columns themselves are those of our own text."""
    for shown, marks in pairwise(lines):
        if marks.strip() and not marks.strip(" ^"):
            start = marks.index("^")
            return f"`{shown[start : min(len(marks), start + 40)]}`"
    return ""


_OURS = re.compile(r"^(at \d+\(\d+\): |failed to compile JSON schema: )+")
_LONGEST = 200  # characters of a reason
_BETTER = {
    "Unable to determine if regex is empty": "the patterns together are too complex",
    "doesn't satisfy the grammar": "the output does not match the grammar",
    "NoExtension": "no text matches",
    "lookarounds not supported": r"invalid regular expression: `\b`, and `^` and `$` within it, are not supported",
    "initial lexer configuration": "the grammar is too large",
    "schema too large": "the schema is too large",
    "Current row has": "too many ways of reading the output so far; a rule that begins with itself, not ends, may have fewer",
}
