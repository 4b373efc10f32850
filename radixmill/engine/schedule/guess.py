"""Which tokens probably come next in a sequence: what followed the same words earlier in it.

Knows tokens and seconds; knows nothing of pages, plans or slots. A guess is checked by computing it, and only a right one
is kept, so nothing here can change what a sequence says; it decides how much is computed in vain.

Every guess is scored when the true tokens come, also one that nobody computed. So acceptance is known before a single
token is risked on it, and a sequence that does not repeat itself costs no more than looking.
"""

from __future__ import annotations

import math
from array import array
from typing import NamedTuple

MATCH = 8  # tokens in common beyond which a longer match means no more
REACH = 16  # earlier places of the last two tokens that are looked at
CATCH_UP = 2048  # tokens learnt in one step
CROWD = 8  # rows that decode; from so many on the cores are busy without guesses

_PAIR = 16  # bytes of two tokens


class Match(NamedTuple):
    """An earlier place whose tokens are the last of the sequence."""

    at: int  # what came after it; the guess begins with that
    tokens: int  # in common, 2 … MATCH


class Recall:
    """Where each pair of tokens of a sequence stands: a chain of places per pair, latest first."""

    def __init__(self) -> None:
        self._latest: dict[bytes, int] = {}
        self._earlier = array("i")  # [places learnt] the place before with the same pair, −1 for none

    @property
    def learnt(self) -> int:
        return len(self._earlier)

    def learn(self, tokens: array[int], upto: int) -> None:
        """Take in the places of a sequence below `upto`; those before are taken in already."""
        done = len(self._earlier)
        if not done and upto:
            self._earlier.append(-1)
            done = 1
        raw = tokens[done - 1 : upto].tobytes()
        latest, earlier = self._latest, self._earlier
        for at in range(done, upto):
            start = (at - done) * (_PAIR // 2)
            pair = raw[start : start + _PAIR]
            earlier.append(latest.get(pair, -1))
            latest[pair] = at

    def find(self, tokens: array[int]) -> Match | None:
        """The longest match of what was learnt with its own end, the latest of equals, among the REACH latest."""
        last = len(self._earlier) - 1
        best: Match | None = None
        at = self._earlier[last] if last > 0 else -1
        for _ in range(REACH):
            if at < 0:
                break
            length = _common(tokens, at, last)
            if best is None or length > best.tokens:
                best = Match(at + 1, length)
                if length == MATCH:
                    break
            at = self._earlier[at]
        return best


def _common(tokens: array[int], at: int, last: int) -> int:
    """Tokens up to `at` that are those up to `last`; two are known to be."""
    length, most = 2, min(MATCH, at + 1)
    while length < most and tokens[at - length] == tokens[last - length]:
        length += 1
    return length


class Odds:
    """How often the next token is the one that followed a match of so many tokens. A moving estimate for each length.

    PRIOR stays a little below what was measured of two small chat models, greedy and at temperature 0.8: 0.45 after two
    tokens in common, 0.6 after four, 0.75 after six.
    """

    PRIOR = (0.0, 0.0, 0.35, 0.45, 0.5, 0.6, 0.7, 0.75, 0.8)  # by tokens in common
    DOUBT, MEMORY = 4, 16  # observations that the prior is worth, and that an estimate looks back on
    LEAST = 0.1  # of no use to anybody

    def __init__(self) -> None:
        self._rates = list(self.PRIOR)
        self._weights = [self.DOUBT] * (MATCH + 1)

    def __getitem__(self, length: int) -> float:
        return self._rates[min(length, MATCH)]

    def note(self, length: int, right: bool) -> None:
        at = min(length, MATCH)
        self._weights[at] = weight = min(self._weights[at] + 1, self.MEMORY)
        self._rates[at] += (right - self._rates[at]) / weight

    def chances(self, length: int, most: int) -> list[float]:
        """Of each of up to `most` guesses after a match: that it and all before it are right."""
        chances: list[float] = []
        chance = 1.0
        while len(chances) < most and (chance := chance * self[length + len(chances)]) >= self.LEAST:
            chances.append(chance)
        return chances


class Pace:
    """Seconds of a step that decodes few tokens: what was seen of as many lately, else a line fitted to what was seen.

    PRIOR is the slope of that line, as a part of a step of one token, while all steps seen are of one size. Measured on two
    AVX2 cores: 0.17 (the second token) to 0.30 (on the way to 16) for a 135M model in 4 bits, 0.18 to 0.44 for a 0.5B one in
    mixed formats, by jumps: kernels work in tiles. Hence not the line alone.
    """

    PRIOR, TRUST = 0.3, 4.0  # TRUST: squared tokens of spread that the prior is worth
    DOUBT = 2.0  # steps of one size that the line is worth
    FADE = 0.97
    SMALL = 64  # tokens; larger steps are prefill

    def __init__(self) -> None:
        self._steps = 0
        self._weight = self._tokens = self._seconds = self._spread = self._joint = 0.0  # means, and sums about them
        self._sizes: dict[int, tuple[int, float, float]] = {}  # tokens → step last seen, weight then, mean seconds

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long. One that something else held up counts as twice what was expected."""
        if tokens > self.SMALL or seconds <= 0:
            return
        if self._weight > 1:
            seconds = min(seconds, 2 * self.cost(tokens))
        self._steps += 1
        weight, mean = self._of_size(tokens)
        self._sizes[tokens] = self._steps, weight + 1, mean + (seconds - mean) / (weight + 1)
        faded = self._weight * self.FADE
        self._weight = faded + 1
        dt, ds = tokens - self._tokens, seconds - self._seconds
        self._tokens += dt / self._weight
        self._seconds += ds / self._weight
        share = faded / self._weight
        self._spread = self._spread * self.FADE + share * dt * dt
        self._joint = self._joint * self.FADE + share * dt * ds

    def _of_size(self, tokens: int) -> tuple[float, float]:
        """Steps of this size, faded, and their mean seconds."""
        step, weight, mean = self._sizes.get(tokens, (0, 0.0, 0.0))
        return weight * self.FADE ** (self._steps - step), mean

    @property
    def slope(self) -> float:
        """Seconds that one more token costs; never less than a twentieth of the prior."""
        usual = self._seconds * self.PRIOR / (1 + self.PRIOR * max(self._tokens - 1, 0))
        return max((self._joint + self.TRUST * usual) / (self._spread + self.TRUST), usual / 20)

    def cost(self, tokens: int) -> float:
        """Seconds of a step of so many tokens; 0 while nothing was seen."""
        slope = self.slope
        line = max(self._seconds + slope * (tokens - self._tokens), slope)
        weight, mean = self._of_size(tokens)
        return (weight * mean + self.DOUBT * line) / (weight + self.DOUBT)


class Memory:
    """What is remembered of one sequence: its places, how good its guesses were, and the guess that waits for its score."""

    __slots__ = ("at", "guess", "odds", "recall")

    def __init__(self) -> None:
        self.recall = Recall()
        self.odds = Odds()
        self.guess: Match | None = None
        self.at = 0  # where it was made: the place of its first token

    def renew(self, tokens: array[int], length: int) -> Match | None:
        """Take in the tokens below `length`, score the last guess, make the next; None where nothing matches."""
        if self.guess is not None:
            self._score(tokens, min(length, self.at + MATCH), self.guess)
        upto = min(length, self.recall.learnt + CATCH_UP)
        self.recall.learn(tokens, upto)
        self.guess = self.recall.find(tokens) if upto == length else None
        self.at = length
        return self.guess

    def _score(self, tokens: array[int], upto: int, guess: Match) -> None:
        for n in range(upto - self.at):
            right = tokens[guess.at + n] == tokens[self.at + n]
            self.odds.note(guess.tokens + n, right)
            if not right:
                break


class Offer(NamedTuple):
    """Guesses for one row."""

    tokens: array[int]
    chances: list[float]  # of each: that it and all before it are right


class Guesser:
    """The scheduler's door: which tokens may come next in a sequence, and how many of them a step should check."""

    DISCOUNT = 0.9  # on chances: a gain must be more than a hope
    STRETCH = 1.5  # how much longer a step may take for guesses, where a row that has no likely one waits for it
    LIKELY = 0.5

    def __init__(self, most: int, *, always: bool = False) -> None:
        """At most `most` guesses for a row; `always`: whatever they cost."""
        self.most, self.always = most, always
        self.pace = Pace()

    def busy(self, rows: int) -> bool:
        """Whether so many rows that decode leave nothing to gain, so that nobody need even look."""
        return rows >= CROWD and not self.always

    def offer(self, memory: Memory, tokens: array[int], most: int) -> Offer:
        """Up to `most` guesses for a sequence with these tokens, all certain."""
        match = memory.renew(tokens, len(tokens))
        most = max(min(most, self.most), 0)
        if match is None:
            return Offer(array("q"), [])
        chances = [1.0] * most if self.always else memory.odds.chances(match.tokens, most)
        span = tokens[match.at : match.at + self.most]
        repeated = span * -(-self.most // len(span))  # what reaches the end begins anew: it goes on repeating
        return Offer(repeated[: len(chances)], chances)

    def choose(self, rows: list[list[float]], left: int) -> list[int]:
        """How many guesses each row should check, at most `left` together, given their chances.

        As many as make most tokens per second, likely ones first: rows that decode give one each, and a guess its chance.
        """
        ranked = sorted(((chance, row) for row, chances in enumerate(rows) for chance in chances), reverse=True)[:left]
        if not self.always:
            idle = len(rows) > 1 and any(not chances or chances[0] < self.LIKELY for chances in rows)
            limit = self.STRETCH * self.pace.cost(len(rows)) if idle else math.inf
            ranked = ranked[: self._best(len(rows), [chance for chance, _ in ranked], limit)]
        counts = [0] * len(rows)
        for _, row in ranked:
            counts[row] += 1
        return counts

    def _best(self, rows: int, chances: list[float], limit: float) -> int:
        usual = self.pace.cost(rows)
        best, fastest, gain = 0, rows / usual if usual else math.inf, float(rows)
        for count, chance in enumerate(chances, 1):
            gain += chance * self.DISCOUNT
            cost = self.pace.cost(rows + count)
            if cost > limit:
                break
            if usual and gain / cost > fastest:
                best, fastest = count, gain / cost
        return best
