"""Finding stop strings in text while it comes."""

from __future__ import annotations

from collections import deque


class StopScanner:
    """Cuts a text at its first stop string, pushed in any portions, in time linear in the text.

    The stop that is complete first wins, because generation ends there. Of several that are complete at the same
    character the one that begins earliest wins (it holds the others), so nothing of it is shown. Text is held back only
    while it may still be the beginning of a stop. `keep`: the stop itself stays in the text.

    The machine is that of Aho and Corasick (CACM 18, 1975) over characters.
    """

    def __init__(self, stops: tuple[str, ...], *, keep: bool = False) -> None:
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self._keep = keep
        self._next, self._fail, self._depth, self._hit = _machine(stops)
        self._state = 0
        self._held = ""  # as long as the state is deep
        self._ended: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that can be shown, the stop that ended it). After a stop all further text is dropped."""
        if self._ended is not None:
            return "", self._ended
        text, seen = self._held + text, len(self._held)
        state, follow, fail, hit = self._state, self._next, self._fail, self._hit
        for at in range(seen, len(text)):
            char = text[at]
            while (after := follow[state].get(char)) is None and state:
                state = fail[state]
            state = after or 0
            if (stop := hit[state]) is not None:
                return self._end(text[: at + 1], stop)
        self._state = state
        cut = len(text) - self._depth[state]
        self._held = text[cut:]
        return text[:cut], None

    def finish(self) -> str:
        """The text that was held back, when no more comes."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _end(self, text: str, stop: str) -> tuple[str, str]:
        self._ended, self._held = stop, ""
        return (text if self._keep else text[: len(text) - len(stop)]), stop


def _machine(
    stops: tuple[str, ...],
) -> tuple[list[dict[str, int]], list[int], list[int], list[str | None]]:
    """Per state: where each character leads, the state of the longest proper suffix, the state's length, and the
    longest stop that ends there. State 0 is the empty string."""
    follow: list[dict[str, int]] = [{}]
    depth, hit = [0], [None]  # type: tuple[list[int], list[str | None]]
    for stop in stops:
        state = 0
        for char in stop:
            if char not in follow[state]:
                follow[state][char] = len(follow)
                follow.append({})
                depth.append(depth[state] + 1)
                hit.append(None)
            state = follow[state][char]
        hit[state] = stop
    return follow, _fail_links(follow, hit), depth, hit


def _fail_links(follow: list[dict[str, int]], hit: list[str | None]) -> list[int]:
    """Breadth first, so that shorter states are done; fills in the stops that end inside a longer beginning."""
    fail = [0] * len(follow)
    queue = deque(follow[0].values())
    while queue:
        state = queue.popleft()
        hit[state] = hit[state] or hit[fail[state]]
        for char, child in follow[state].items():
            back = fail[state]
            while char not in follow[back] and back:
                back = fail[back]
            fail[child] = follow[back].get(char, 0)
            queue.append(child)
    return fail
