"""How many tokens a step may compute, so that it takes no longer than it should."""

from __future__ import annotations

from collections import deque
from statistics import median

from radixmill.core.config import SMALL_STEP

FLOOR = SMALL_STEP  # tokens that even the slowest machine computes in a step, besides one for each decoding row
MEMORY = 5  # steps; the median of their costs shrugs off two outliers


class Budget:
    """Follows the measured cost of a token. Only steps that say something about full steps are listened to."""

    def __init__(self, most: int, seconds: float) -> None:
        """`most` tokens and `seconds` a step may take."""
        self.most = max(most, FLOOR)
        self.seconds = seconds
        self.tokens = self.most
        self._costs: deque[float] = deque(maxlen=MEMORY)  # seconds per token

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long.

        A small quick step is mostly fixed cost and tells nothing; one that is too slow always counts.
        """
        if seconds <= 0 or (2 * tokens < self.tokens and seconds <= self.seconds):
            return
        self._costs.append(seconds / tokens)
        self.tokens = min(max(int(self.seconds / median(self._costs)), FLOOR), self.most)
