"""Figures → a picture (PNG, SVG, PDF: by the file's suffix). Needs matplotlib, the extra `bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radixmill.bench.report import Figures, Key
from radixmill.core.errors import CannotStart

_INSTALL = "Install it: pip install 'radixmill[bench]' (or pip install matplotlib)"
_COLOURS = ("#2f6f9f", "#d98b2b")


def figure_class() -> Any:
    """matplotlib's Figure. Raises CannotStart, saying how to install it, where it is missing."""
    try:
        from matplotlib.figure import Figure  # an optional extra, and slow to import
    except ImportError as error:
        raise CannotStart("the plot needs matplotlib", _INSTALL) from error
    return Figure


def plot(summary: Mapping[Key, Figures], path: Path) -> None:
    """Four panels of bars by workload: throughput out and in, time to first token, time per output token."""
    panels = (
        ("output tokens per second", "output_per_second"),
        ("prompt tokens per second", "prompt_per_second"),
        ("time to first token, median, ms", "ttft_p50"),
        ("time per output token, median, ms", "tpot_p50"),
    )
    figure = figure_class()(figsize=(11, 7), layout="constrained")
    for axes, (title, name) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        _bars(axes, summary, name)
        axes.set_title(title, fontsize=10, loc="left")
    servers = list(dict.fromkeys(server for server, _ in summary))
    figure.legend(servers, loc="outside upper center", ncols=len(servers), frameon=False)
    figure.savefig(path, dpi=130)


def _bars(axes: Any, summary: Mapping[Key, Figures], name: str) -> None:
    servers = list(dict.fromkeys(server for server, _ in summary))
    workloads = list(dict.fromkeys(workload for _, workload in summary))
    width = 0.8 / len(servers)
    for number, server in enumerate(servers):
        values = [getattr(summary[server, workload], name) or 0.0 for workload in workloads]
        places = [at + (number - (len(servers) - 1) / 2) * width for at in range(len(workloads))]
        bars = axes.bar(places, values, width * 0.92, color=_COLOURS[number % len(_COLOURS)])
        axes.bar_label(bars, labels=[_label(v) for v in values], fontsize=8, padding=2)
    axes.set_xticks(range(len(workloads)), workloads)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _label(value: float) -> str:
    return "–" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
