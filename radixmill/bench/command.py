"""The command `radixmill bench`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from radixmill.bench.client import Answer, Server, connect
from radixmill.bench.drive import Rounds, Run, Target
from radixmill.bench.keep import keep, record
from radixmill.bench.plot import figure_class, plot
from radixmill.bench.report import Figures, Key, document, error_lines, medians, tables
from radixmill.bench.workloads import WORKLOADS, Workload, counter, select
from radixmill.core.errors import CannotStart

_ABOUT = """\
Load an OpenAI-compatible server (ours, vLLM, SGLang, llama.cpp, …) and measure it: streaming /v1/completions,
temperature 0, ignore_eos, every output of fixed length.
"""

_WORDS = """\
workloads:
{workloads}

columns:
  out tok/s, prompt tok/s   tokens of all requests over the wall-clock time of the workload
  TTFT                      time to first token: from sending the request to the first text
  TPOT                      time per output token after the first, per request
  ITL                       time between two successive chunks, over all requests
  cached                    prompt tokens that the server says it found in its cache

Machines are noisy. To say that one server is faster than another, use --compare (both are measured in turn) and
--repeat 3 (medians are printed). Prompts depend on --seed alone: a second run on a server with a prefix cache
needs another --seed, or the prompts are found in the cache.
"""


def parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {w.name:<10}{w.requests:>3} requests: {w.about}" for w in WORKLOADS.values())
    p = argparse.ArgumentParser(
        "radixmill bench",
        description=_ABOUT,
        epilog=_WORDS.format(workloads=about),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "url", nargs="?", default="http://127.0.0.1:30000", metavar="URL", help="the server; default: %(default)s"
    )
    p.add_argument("--model", metavar="M", help="name of the model in the API; default: the server's first")
    p.add_argument("--compare", metavar="URL2", help="measure this server too, taking turns, and print ratios")
    p.add_argument("--compare-model", metavar="M", help="name of the model there; default: that server's first")
    p.add_argument("--workloads", default=",".join(WORKLOADS), metavar="A,B,…", help="which ones; default: %(default)s")
    p.add_argument(
        "--repeat",
        type=_positive,
        default=1,
        metavar="N",
        help="measure everything N times and print medians; default: 1",
    )
    p.add_argument(
        "--quick", action="store_true", help="about a quarter of the requests: a smoke test, not a measurement"
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other prompts; default: 0")
    p.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds one workload may take; what is unfinished then is an error; default: 600",
    )
    p.add_argument("--api-key", metavar="KEY", help="sent as a bearer token (to both servers)")
    p.add_argument("--out", type=Path, metavar="FILE", help="write all figures as JSON")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures: .png, .svg or .pdf (needs matplotlib)")
    return p


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main(argv: Sequence[str] | None = None, kept: Path | None = None) -> int:
    """Exit code: 0; 1 if any request failed; 2 if it can't be measured at all.

    `kept`: the file for the figures of a server on this machine, which `radixmill doctor` reads.
    """
    args = parser().parse_args(argv)
    try:
        return _bench(args, kept)
    except CannotStart as error:
        print(f"radixmill bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _bench(args: argparse.Namespace, kept: Path | None) -> int:
    workloads = select(args.workloads, quick=args.quick)
    drawable = _check_files(args)
    runs, targets = asyncio.run(_measure(args, workloads))
    about, summary = _about(args, targets), medians(runs)
    print(tables(summary))
    errors = error_lines(runs)
    for line in (*_remarks(summary, workloads), *errors):
        print(line, file=sys.stderr)
    if args.out:
        args.out.write_bytes(msgspec.json.format(msgspec.json.encode(document(runs, about)), indent=1) + b"\n")
    if kept and (entry := record(targets, workloads, summary)):
        _keep(kept, entry)
    if args.plot and drawable:
        plot(summary, args.plot)
    return 1 if errors or not drawable else 0


def _keep(path: Path, entry: Mapping[str, Any]) -> None:
    """A figure less for the doctor is no reason to fail."""
    try:
        keep(path, entry)
    except OSError as error:
        print(f"note: {path} cannot be written: {error.strerror or error}", file=sys.stderr)


def _check_files(args: argparse.Namespace) -> bool:
    """Before minutes of measuring: can the files be written? False where only the plot can't be drawn."""
    for path in filter(None, (args.out, args.plot)):
        if not path.absolute().parent.is_dir():
            raise CannotStart(f"no folder {path.absolute().parent} to write {path.name} to", "Make it first")
    if args.plot is None:
        return True
    if args.plot.suffix not in (".png", ".svg", ".pdf"):
        raise CannotStart(
            f"can't draw a {args.plot.suffix or 'file without a suffix'}", "Name the plot .png, .svg or .pdf"
        )
    try:
        figure_class()
    except CannotStart as error:
        print(f"radixmill bench: {error}. Measuring without it", file=sys.stderr)
        return False
    return True


async def _measure(args: argparse.Namespace, workloads: Sequence[Workload]) -> tuple[list[Run], list[Target]]:
    """All runs, and on which targets."""
    targets = await _targets(args)
    total = len(targets) * args.repeat * sum(w.requests for w in workloads)
    with tqdm(total=total, unit="req", mininterval=0.5, disable=None, dynamic_ncols=True) as bar:

        def done(answer: Answer) -> None:
            bar.update()

        def begins(target: Target, workload: Workload) -> None:
            bar.set_description(f"{workload.name} on {target.name}")

        rounds = Rounds(targets, workloads, args.repeat, args.seed, args.timeout)
        runs = [run async for run in rounds.measure(begins, done)]
    return runs, targets


async def _targets(args: argparse.Namespace) -> list[Target]:
    wanted = [(args.url, args.model)]
    if args.compare:
        wanted.append((args.compare, args.compare_model))
    servers = [await connect(url, model, args.api_key) for url, model in wanted]
    same_place = len({str(server.origin) for server in servers}) < len(servers)
    names = [f"{server.origin} {server.model}" if same_place else str(server.origin) for server in servers]
    if len(set(names)) < len(names):
        raise CannotStart(
            f"--compare {args.compare} is the server itself", "Give another URL, or another --compare-model"
        )
    return [await _warm(name, server, args.seed) for name, server in zip(names, servers, strict=True)]


async def _warm(name: str, server: Server, seed: int) -> Target:
    """The first request, which counts nowhere; and how texts are sized."""
    answer = await server.complete("Warm up, please.", 4)
    if answer.error:
        raise CannotStart(f"the warm-up request failed: {answer.error}")
    count, sizing = await counter(server, seed)
    return Target(name, server, count, sizing)


def _about(args: argparse.Namespace, targets: Sequence[Target]) -> dict[str, Any]:
    settings = {"repeat": args.repeat, "quick": args.quick, "seed": args.seed, "timeout": args.timeout}
    return {
        "settings": settings,
        "servers": [
            {
                "name": t.name,
                "model": t.server.model,
                "sizing": t.sizing,
            }
            for t in targets
        ],
    }


def _remarks(summary: Mapping[Key, Figures], workloads: Sequence[Workload]) -> list[str]:
    """What makes figures mean something else than they seem to."""
    distinct = {w.name for w in workloads if not w.prefix}
    return [
        f"note: {server} found {one.cached_tokens} of {one.prompt_tokens} prompt tokens of {name} in its cache; try another --seed"
        for (server, name), one in summary.items()
        if name in distinct and one.cached_tokens > 0.05 * one.prompt_tokens
    ]
