"""Which rows of a step check guesses, and how many: what `guess` offers, weighed against what the step has left."""

from __future__ import annotations

from radixmill.engine.schedule.draft import Draft
from radixmill.engine.schedule.guess import Guesser, Memory, Offer
from radixmill.engine.schedule.sequence import Sequence


def add_guesses(draft: Draft, guesser: Guesser) -> None:
    """Let rows check what probably comes next, with what real work has left of the budget and of free pages."""
    rows = [seq for seq in draft.rows if seq.guessable]
    if guesser.busy(len(rows)):
        return
    offers = [_offer(seq, guesser) for seq in rows]
    counts = guesser.choose([offer.chances for offer in offers], max(draft.left, 0))
    for seq, offer, count in zip(rows, offers, counts, strict=True):
        if count and seq.lease and seq.lease.spare(seq.length + count):
            draft.guess(seq, offer.tokens[:count])


def _offer(seq: Sequence, guesser: Guesser) -> Offer:
    """Guesses that could be of use: none at or after a stop token, none in the place of its last token."""
    if seq.memory is None:
        seq.memory = Memory()
    tokens, chances = guesser.offer(seq.memory, seq.tokens, seq.guess_room)
    useful = next((n for n, token in enumerate(tokens) if token in seq.stop_ids), len(tokens))
    return Offer(tokens[:useful], chances[:useful])
