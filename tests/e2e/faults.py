"""Servers whose engine dies, hangs or crawls over certain prompts: faults of a kernel, without a switch in the product.

A prompt of token ids has a fault if one of these is among them, a grammar if its text has one of the words.
"""

from __future__ import annotations

import os
from pathlib import Path

DEADLY, ENDLESS, SLOW, LATE = 290, 291, 292, 293
UNBUILDABLE, UNBINDABLE = "unbuildable", "unbindable"  # the engine dies as it builds it, or gives it to a sequence

_SITE = f"""
import os, signal, sys, time

if "engine" in sys.orig_argv:
    from radixmill.device.runner import Runner
    from radixmill.engine.grammar import service
    from radixmill.engine.schedule import constrained

    forward, prompts = Runner.forward, {{}}

    def die():
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)

    def faulty(self, plan):
        for admit in plan.admits:
            prompts[admit.slot] = set(admit.prompt), len(admit.prompt)
        for slot, start, count in zip(plan.slots.tolist(), plan.starts.tolist(), plan.counts.tolist()):
            tokens, length = prompts[slot]
            if {DEADLY} in tokens or ({LATE} in tokens and start + count > length + 5):
                die()
            while {ENDLESS} in tokens:
                pass
            if {SLOW} in tokens and start < length:
                time.sleep(SECONDS)
        return forward(self, plan)

    def build(tokenizer, grammar, start=service.Start):
        if "{UNBUILDABLE}" in grammar:
            time.sleep(0.02)  # steps go on meanwhile
            die()
        return start(tokenizer, grammar)

    def bind(built, seq, match=constrained._match):
        if seq.request.constraint and "{UNBINDABLE}" in seq.request.constraint.text:
            die()
        return match(built, seq)

    Runner.forward, service.Start, constrained._match = faulty, build, bind
"""


def faulty(folder: Path, seconds: float = 0.5) -> dict[str, str]:
    """The environment of such a server; `seconds`: how long each step of a slow prompt takes."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE.replace("SECONDS", str(seconds)))
    return {**os.environ, "PYTHONPATH": str(folder)}
