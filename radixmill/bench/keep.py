"""What a bench of a server on this machine leaves behind for `radixmill doctor`: the latest figures, one small file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from radixmill import __version__
from radixmill.bench.drive import Target
from radixmill.bench.report import Figures, Key
from radixmill.bench.workloads import Workload

_HERE = {"127.0.0.1", "localhost", "::1", "0.0.0.0"}


def record(
    targets: Sequence[Target],
    workloads: Sequence[Workload],
    summary: Mapping[Key, Figures],
) -> dict[str, Any] | None:
    """The figures of one target, ready for JSON: of the first here that tells its device's work, or else of the first here.

    None where all are on other machines.
    """
    here = [target for target in targets if target.server.origin.host in _HERE]
    if not here:
        return None
    telling = {name for (name, _), one in summary.items() if one.read_per_second is not None}
    target = next((one for one in here if one.name in telling), here[0])
    return {
        "tool": f"radixmill bench {__version__}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": str(target.server.origin),
        "model": target.server.model,
        "workloads": [_line(w, summary[target.name, w.name]) for w in workloads if (target.name, w.name) in summary],
    }


def _line(workload: Workload, one: Figures) -> dict[str, Any]:
    return {
        "workload": workload.name,
        "requests": one.requests,
        "errors": one.errors,
        "output_per_second": one.output_per_second,
        "prompt_per_second": one.prompt_per_second,
        "read_per_second": one.read_per_second,
        "operations_per_second": one.operations_per_second,
    }


def keep(path: Path, entry: Mapping[str, Any]) -> None:
    """Write it in one step. Raises OSError where the folder cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(entry), indent=1) + b"\n")
    os.replace(part, path)
