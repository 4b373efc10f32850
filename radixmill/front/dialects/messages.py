"""Messages of a conversation as chat templates take them: plain dicts. What all who change them share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Message = dict[str, Any]
SYSTEM = ("system", "developer")
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # the names that messages have for them


def text_of(content: Any) -> str:
    """A message's content, its parts joined."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content)
    return content or ""


def results_by_call(calls: Sequence[Message], results: Iterable[Message]) -> list[list[Message]]:
    """The results of each call: by ids, or else by their places; those of no call are of the last."""
    ids = [call.get("id") for call in calls]
    whose: list[list[Message]] = [[] for _ in calls]
    for place, result in enumerate(results):
        id = result.get("tool_call_id")
        whose[ids.index(id) if id and id in ids else min(place, len(calls) - 1)].append(result)
    return whose
