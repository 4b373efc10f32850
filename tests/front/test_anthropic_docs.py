"""docs/messages.md lists what the code does: no more, no less."""

from __future__ import annotations

import re

from radixmill.front.api.anthropic.body import HINTS, REFUSED, MessagesBody
from tests.data import ROOT

PAGE = ROOT / "docs" / "messages.md"


def listed(start: str) -> set[str]:
    """The `names` of the paragraph that begins with `start`."""
    (paragraph,) = [p for p in PAGE.read_text(encoding="utf-8").split("\n\n") if p.startswith(start)]
    return set(re.findall(r"`([^`]+)`", paragraph))


def test_every_field_is_in_one_list():
    fields = set(MessagesBody.__struct_fields__)
    assert listed("Messages: ") == fields - HINTS - REFUSED.keys()
    assert listed("`cache_control`, ") == HINTS
    assert listed("Not supported: ") == set(REFUSED) <= fields
