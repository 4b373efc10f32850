"""Break a server in every way we know, and print figures of what came of it.

    python -m tests.chaos [--quick] [--seed N] [--only NAME …] [--json FILE] [--model MODEL]

One scene after another, each on a server of its own; exit status 1 where zeros are not zeros, where engines take too long
to come back, and where a scene could not be played here (but see --allow-skips).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import scenes
from tests.chaos.figures import RESPAWN, Figures
from tests.chaos.kit import EMBEDDED, SCENES, Scene, perform
from tests.e2e.kit import tiny_model

__all__ = ["scenes"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer faults in each scene")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="scenes whose name has this in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--model", default=EMBEDDED, help="tiny: a small one of random weights")
    parser.add_argument(
        "--allow-skips", action="store_true", help="scenes that this machine does not allow are no fault"
    )
    parser.add_argument("--list", action="store_true", help="name the scenes")
    args = parser.parse_args(argv)
    chosen = [each for each in SCENES.values() if not args.only or any(word in each.name for word in args.only)]
    if args.list or not chosen:
        print("\n".join(each.name for each in SCENES.values()))
        return 0 if args.list else 2
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(Path(folder) / "tiny") if args.model == "tiny" else args.model
        by_scene = {each.name: run(each, model, Path(folder), args.seed, args.quick) for each in chosen}
    total = Figures()
    killed = any(figures.respawns for figures in by_scene.values())
    for figures in by_scene.values():
        total += figures
    if killed and not args.quick:  # a few deaths on a busy machine are no median
        total.respawn = RESPAWN
    print("\n" + total.table())
    if total.late:
        print(total.complaints()[-1])
    if args.json:
        plain = {name: figures.plain() for name, figures in by_scene.items()}
        args.json.write_text(json.dumps({"total": total.plain(), "scenes": plain}, indent=1))
    good = total.good and all(figures.good for figures in by_scene.values())
    return 0 if good and (args.allow_skips or not total.skipped) else 1


def run(scene: Scene, model: str | Path, folder: Path, seed: int, quick: bool) -> Figures:
    """One scene, and its line."""
    print(f"{scene.name:<52}", end=" ", flush=True)
    try:
        figures = asyncio.run(perform(scene, model, folder / scene.name.replace(" ", "-"), seed=seed, quick=quick))
    except Exception as error:
        figures = Figures(wrong=[f"the scene broke off: {type(error).__name__}: {error}"])
    print(figures.line(), flush=True)
    for complaint in figures.complaints()[:20]:
        print(f"    {complaint[:600]}", flush=True)
    for note in [*figures.skipped, *figures.notes]:
        print(f"    {note}", flush=True)
    return figures


if __name__ == "__main__":
    sys.exit(main())
