"""In-flight sharing: a waiting sequence whose next tokens a running one is just computing waits for them."""

from __future__ import annotations

from collections.abc import Iterable

from radixmill.engine.cache import Cache, common
from radixmill.engine.schedule.sequence import Sequence

WORTH = 16  # tokens saved that are worth waiting for; fewer, if they are half of what is left


def should_wait(seq: Sequence, running: Iterable[Sequence], cache: Cache) -> bool:
    """Whether to leave `seq` in the queue because a running sequence computes what it needs next. Cheap while the one
    waited for is at work."""
    if seq.ahead and _at_work(*seq.ahead):
        return True
    seq.ahead = None
    seq.ahead = find_leader(seq, running, cache)
    return seq.ahead is not None


def find_leader(seq: Sequence, running: Iterable[Sequence], cache: Cache) -> tuple[Sequence, int] | None:
    """Who computes what `seq` needs next, and up to where; where there are windows, it is told to have that kept."""
    leaders = [other for other in running if prefilling(other) and _comparable(seq, other)]
    if not leaders:
        return None
    have = matched(cache, seq)
    found = next((found for other in leaders if (found := _worth(seq, other, have))), None)
    if found and cache.pools.windows:
        leader, upto = found
        leader.awaited.add(upto)
    return found


def matched(cache: Cache, seq: Sequence) -> int:
    """How many of its tokens are cached now."""
    return cache.peek(seq.namespace, seq.matchable)


def prefilling(seq: Sequence) -> bool:
    """Whether the tree is still to get part of what the sequence was admitted with."""
    return seq.lease is not None and seq.lease.shared < seq.goal


def _at_work(other: Sequence, upto: int) -> bool:
    return other.lease is not None and other.lease.shared < min(upto, other.goal)


def _comparable(seq: Sequence, other: Sequence) -> bool:
    """Nobody waits for one of lower priority."""
    return other.namespace == seq.namespace and other.tokens[0] == seq.tokens[0] and not seq.outranks(other)


def _worth(seq: Sequence, other: Sequence, have: int) -> tuple[Sequence, int] | None:
    upto = min(common(seq.tokens.tobytes(), other.tokens[: other.goal].tobytes()), len(seq.matchable) - 1)
    gain = upto - have
    return (other, upto) if _at_work(other, upto) and gain >= min(WORTH, (seq.length - have) / 2) else None
