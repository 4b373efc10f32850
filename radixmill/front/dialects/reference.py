"""The table of families in docs/reasoning-and-tools.md, from their classes.

python -m radixmill.front.dialects.reference docs/reasoning-and-tools.md      writes it below the marker; what stands above is kept
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from radixmill.front.dialects.dialect import Dialect
from radixmill.front.dialects.families import FAMILIES

MARKER = (
    "<!-- What follows is generated: python -m radixmill.front.dialects.reference docs/reasoning-and-tools.md -->\n"
)
HEAD = (
    "| family | `--reasoning-parser` | `--tool-call-parser` | thoughts | turned on and off by | a call of `f` with `a` = 1 |\n"
    "|---|---|---|---|---|---|"
)
LINE_END = "⏎"


def renewed(page: str) -> str:
    """The page with its table as the code has it now."""
    return page.partition(MARKER)[0] + MARKER + "\n" + table() + "\n"


def table() -> str:
    return "\n".join([HEAD, *(_row(family) for family in FAMILIES)])


def _row(family: type[Dialect]) -> str:
    cells = (
        family.__name__,
        _names(family.reasoning_parsers),
        _names(family.tool_call_parsers),
        _thoughts(family),
        _switch(family),
        _code(family.calls.all_written([("f", {"a": 1})])) if family.tool_call_parsers else "",
    )
    return f"| {' | '.join(cells)} |"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _thoughts(family: type[Dialect]) -> str:
    if family.think is None:
        return "none"
    return _code(f"{family.think.open}…{family.think.close}")


def _switch(family: type[Dialect]) -> str:
    if family.think is None:
        return ""
    if not family.think.switch:
        return "nothing"
    return f"`{family.think.switch}` ({'on' if family.think.default else 'off'})"


def _code(text: str) -> str:
    """Text as code in a cell of a table."""
    marks = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return marks + space + text.replace("\n", LINE_END).replace("|", "\\|") + space + marks


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
