"""Servers whose engine dies, hangs or crawls over certain prompts: faults of a kernel, without a switch in the product.

A prompt of token ids has a fault if one of these is among them.
"""

from __future__ import annotations

import os
from pathlib import Path

DEADLY, ENDLESS, SLOW, LATE = 290, 291, 292, 293

_SITE = f"""
import os, signal, sys, time

if "engine" in sys.orig_argv:
    from radixmill.device.runner import Runner

    forward, prompts = Runner.forward, {{}}

    def faulty(self, plan):
        for admit in plan.admits:
            prompts[admit.slot] = set(admit.prompt), len(admit.prompt)
        for slot, start, count in zip(plan.slots.tolist(), plan.starts.tolist(), plan.counts.tolist()):
            tokens, length = prompts[slot]
            if {DEADLY} in tokens or ({LATE} in tokens and start + count > length + 5):
                os.kill(os.getpid(), signal.SIGSEGV)
                time.sleep(60)
            while {ENDLESS} in tokens:
                pass
            if {SLOW} in tokens and start < length:
                time.sleep(SECONDS)
        return forward(self, plan)

    Runner.forward = faulty
"""


def faulty(folder: Path, seconds: float = 0.5) -> dict[str, str]:
    """The environment of such a server; `seconds`: how long each step of a slow prompt takes."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE.replace("SECONDS", str(seconds)))
    return {**os.environ, "PYTHONPATH": str(folder)}
