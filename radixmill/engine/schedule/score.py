"""Log-probabilities of a prompt's tokens, as they come. The logits at position p score the token at p + 1.

    # [first, at)   a plan computes them, or has: they are in `entries`, or on their way
    # [at, end)     still to be computed, whatever is cached

Plans land in the order they were made, and `at` never goes back: each position is scored once, whatever befalls its sequence.
"""

from __future__ import annotations

from radixmill.core.messages import TokenLogprob

AT_ONCE = 64  # positions that a step scores, and one more for each row beyond: each costs a row of logits


class Scoring:
    """Of one sequence; there until its entries have been told."""

    __slots__ = ("at", "end", "entries", "first")

    def __init__(self, prompt_len: int, start: int) -> None:
        """`start`: the first token wanted. Nothing is known of the one at 0."""
        self.end = prompt_len - 1
        self.first = self.at = min(max(start - 1, 0), self.end)
        self.entries: list[TokenLogprob] = []

    @property
    def due(self) -> int:
        """Positions that no plan has yet."""
        return self.end - self.at

    @property
    def done(self) -> bool:
        return len(self.entries) == self.end - self.first

    def fit(self, computed: int, count: int, left: int) -> int:
        """As many of `count` positions from `computed` on as score no more than `left`, or one."""
        most = max(left, 1)
        return count if self.scored(computed + count) <= most else self.at - computed + most

    def scored(self, end: int) -> int:
        """How many positions are scored if all below `end` are computed."""
        return max(min(end, self.end) - self.at, 0)

    def plan(self, end: int) -> int:
        """A plan computes all positions below `end`; how many it scores."""
        count = self.scored(end)
        self.at += count
        return count
