"""What a bench of a server on this machine leaves behind for `radixmill doctor`: the latest figures, one small file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from radixmill import __version__
from radixmill.bench.client import Server
from radixmill.bench.drive import Target
from radixmill.bench.http import HttpError, fetch
from radixmill.bench.report import Figures, Key
from radixmill.bench.workloads import Workload

_HERE = {"127.0.0.1", "localhost", "::1", "0.0.0.0"}


async def weight_bytes(server: Server) -> int | None:
    """Bytes of weights that one token of one sequence makes the server read, if it says so; None of other servers."""
    try:
        status, body = await fetch(server.origin, "GET", "/server_info", key=server.key)
        found = msgspec.json.decode(body)["internal_states"][0]["weight_bytes_per_token"] if status == 200 else None
    except (HttpError, msgspec.DecodeError, LookupError, TypeError):
        return None
    return found if isinstance(found, int) else None


def record(
    targets: Sequence[Target],
    weights: Mapping[str, int | None],
    workloads: Sequence[Workload],
    summary: Mapping[Key, Figures],
) -> dict[str, Any] | None:
    """The figures of one target, ready for JSON: of the first here that tells its weights, or else of the first here.

    None where all are on other machines.
    """
    here = [target for target in targets if target.server.origin.host in _HERE]
    if not here:
        return None
    target = next((one for one in here if weights.get(one.name)), here[0])
    read = weights.get(target.name)
    return {
        "tool": f"radixmill bench {__version__}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": str(target.server.origin),
        "model": target.server.model,
        "workloads": [
            _line(w, summary[target.name, w.name], read) for w in workloads if (target.name, w.name) in summary
        ],
    }


def _line(workload: Workload, one: Figures, read: int | None) -> dict[str, Any]:
    # With one request at a time, every output token reads all weights once; a short prompt hardly counts beside them.
    alone = workload.at_once == 1 and workload.output[0] > workload.prompt[1]
    return {
        "workload": workload.name,
        "requests": one.requests,
        "errors": one.errors,
        "output_per_second": one.output_per_second,
        "prompt_per_second": one.prompt_per_second,
        "weight_bytes_per_token": read if alone else None,
    }


def keep(path: Path, entry: Mapping[str, Any]) -> None:
    """Write it in one step. Raises OSError where the folder cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(entry), indent=1) + b"\n")
    os.replace(part, path)
