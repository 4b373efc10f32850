"""What has been done so far."""

from __future__ import annotations


class Counters:
    """Totals since the start."""

    def __init__(self) -> None:
        self.steps = self.computed_tokens = self.reused_tokens = self.admissions = self.preemptions = self.ended = 0
        self.drafted = self.accepted = 0  # guessed tokens that were checked, and that were right and used
        self.forced = 0  # tokens that a grammar left no choice about: no forward pass of their own
        self.expired = 0  # sequences that waited longer than they may
