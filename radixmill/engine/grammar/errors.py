"""Why a constraint cannot be had."""

from __future__ import annotations


class GrammarError(ValueError):
    """`reason`: what is wrong, a sentence part for the client, naming the keyword or construct at fault. `place`: where
    it stands: a JSON pointer into a schema, `line 3, column 7` of a grammar, or ""."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(f"{reason} (at {place})" if place else reason)
        self.reason, self.place = reason, place
