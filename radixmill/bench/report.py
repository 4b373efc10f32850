"""Answers → figures → a table and JSON. Arithmetic and text only."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from radixmill import __version__
from radixmill.bench.drive import Run

Key = tuple[str, str]  # (server, workload)


@dataclass(frozen=True)
class Figures:
    """One run in numbers. None where there is nothing to measure. Times in milliseconds."""

    requests: int
    errors: int
    seconds: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    output_per_second: float
    prompt_per_second: float
    ttft_p50: float | None
    ttft_p99: float | None
    tpot_p50: float | None
    tpot_p99: float | None
    itl_p50: float | None
    itl_p99: float | None
    read_per_second: float | None = None  # bytes of weights, where the server tells
    operations_per_second: float | None = None


def figures(run: Run) -> Figures:
    """Only answers without an error count, except in `errors` and in the time that passed."""
    good = [answer for answer in run.answers if not answer.error]
    prompt, output = sum(a.prompt_tokens for a in good), sum(a.output_tokens for a in good)
    ttft = [a.first for a in good if a.first is not None]
    tpot = [a.per_token for a in good if a.per_token is not None]
    itl = [gap for a in good for gap in a.gaps]
    return Figures(
        requests=len(run.answers),
        errors=len(run.answers) - len(good),
        seconds=run.seconds,
        prompt_tokens=prompt,
        output_tokens=output,
        cached_tokens=sum(a.cached_tokens for a in good),
        output_per_second=output / run.seconds,
        prompt_per_second=prompt / run.seconds,
        ttft_p50=_ms(ttft, 50),
        ttft_p99=_ms(ttft, 99),
        tpot_p50=_ms(tpot, 50),
        tpot_p99=_ms(tpot, 99),
        itl_p50=_ms(itl, 50),
        itl_p99=_ms(itl, 99),
        read_per_second=run.work.bytes_read / run.seconds if run.work else None,
        operations_per_second=run.work.operations / run.seconds if run.work else None,
    )


def percentile(values: Iterable[float], q: float) -> float | None:
    """The q-th percentile, linear between neighbours; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    at = (len(ordered) - 1) * q / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def medians(runs: Iterable[Run]) -> dict[Key, Figures]:
    """For each server and workload, the median of every figure over its repeats."""
    groups: dict[Key, list[Figures]] = {}
    for run in runs:
        groups.setdefault((run.server, run.workload), []).append(figures(run))
    return {key: _median(group) for key, group in groups.items()}


def _median(group: Sequence[Figures]) -> Figures:
    columns = {f.name: [v for v in (getattr(one, f.name) for one in group) if v is not None] for f in fields(Figures)}
    middle = {name: statistics.median(values) if values else None for name, values in columns.items()}
    middle["errors"] = sum(columns["errors"])  # an error must not vanish in a median
    return Figures(**{name: _as_declared(name, value) for name, value in middle.items()})


def _as_declared(name: str, value: float | None) -> Any:
    whole = name in ("requests", "errors") or name.endswith("_tokens")
    return round(value) if whole and value is not None else value


# Figures of which the lower is the better one; of the others, the higher is.
_TIMES = ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", "itl_p50", "itl_p99")
_COMPARED = ("output_per_second", "prompt_per_second", "ttft_p50", "tpot_p50", "itl_p99")


def ratios(first: Figures, second: Figures) -> dict[str, float | None]:
    """How many times better the first server is than the second: above 1 is better, for rates and for times."""
    result: dict[str, float | None] = {}
    for name in _COMPARED:
        a, b = getattr(first, name), getattr(second, name)
        if name in _TIMES:
            a, b = b, a
        result[name] = a / b if a is not None and b else None
    return result


# --- text

_COLUMNS = {
    "requests": "requests",
    "errors": "errors",
    "out tok/s": "output_per_second",
    "prompt tok/s": "prompt_per_second",
    "TTFT p50 ms": "ttft_p50",
    "p99 ms": "ttft_p99",
    "TPOT p50 ms": "tpot_p50",
    "ITL p50 ms": "itl_p50",
    "ITL p99 ms": "itl_p99",
    "cached": "cached_tokens",
}


def tables(summary: Mapping[Key, Figures]) -> str:
    """A table per server; with two servers, one of ratios too."""
    servers = list(dict.fromkeys(server for server, _ in summary))
    parts = [f"{server}\n{_table(summary, server)}" for server in servers]
    if len(servers) == 2:
        parts.append(
            f"{servers[0]} over {servers[1]}: above 1 is better, in rates and in times\n{_ratio_table(summary, servers)}"
        )
    return "\n\n".join(parts)


def _table(summary: Mapping[Key, Figures], server: str) -> str:
    rows = [["workload", *_COLUMNS]]
    for (who, workload), one in summary.items():
        if who == server:
            rows.append([workload, *(_cell(getattr(one, name)) for name in _COLUMNS.values())])
    return grid(rows)


def _ratio_table(summary: Mapping[Key, Figures], servers: Sequence[str]) -> str:
    rows = [["workload", "out tok/s", "prompt tok/s", "TTFT p50", "TPOT p50", "ITL p99"]]
    for workload in dict.fromkeys(name for _, name in summary):
        pair = ratios(summary[servers[0], workload], summary[servers[1], workload])
        rows.append([workload, *("–" if value is None else f"{value:.2f}×" for value in pair.values())])
    return grid(rows)


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right; a rule below the head."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:]])


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def error_lines(runs: Iterable[Run], limit: int = 5) -> list[str]:
    """Distinct errors, how often each came, the first few."""
    counts: dict[str, int] = {}
    for run in runs:
        for answer in run.answers:
            if answer.error:
                line = f"{run.server} {run.workload}: {answer.error}"
                counts[line] = counts.get(line, 0) + 1
    lines = [f"{number}× {line}" for line, number in counts.items()]
    return lines[:limit] + ([f"… and {len(lines) - limit} more kinds of errors"] if len(lines) > limit else [])


# --- JSON


def document(runs: Sequence[Run], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured, ready for JSON."""
    summary = medians(runs)
    servers = list(dict.fromkeys(run.server for run in runs))
    both = [name for name in dict.fromkeys(w for _, w in summary) if len(servers) == 2]
    return {
        "tool": f"radixmill bench {__version__}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "client": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        **about,
        "summary": [
            {"server": server, "workload": workload, **asdict(one)} for (server, workload), one in summary.items()
        ],
        "ratios": [{"workload": name, **ratios(summary[servers[0], name], summary[servers[1], name])} for name in both],
        "runs": [_run_json(run) for run in runs],
    }


def _run_json(run: Run) -> dict[str, Any]:
    requests = [
        {
            "prompt_tokens": a.prompt_tokens,
            "output_tokens": a.output_tokens,
            "cached_tokens": a.cached_tokens,
            "ttft": a.first,
            "tpot": a.per_token,
            "seconds": a.seconds,
            "error": a.error or None,
        }
        for a in run.answers
    ]
    head = {"server": run.server, "workload": run.workload, "repeat": run.repeat}
    return {**head, **asdict(figures(run)), "each": requests}


def _ms(values: Sequence[float], q: float) -> float | None:
    value = percentile(values, q)
    return None if value is None else 1000 * value
