"""Logging for all processes: one line each, to stderr, with the process's role."""

from __future__ import annotations

import logging
import sys


def setup(role: str, level: str = "info") -> None:
    """Log to stderr as `12:34:56 role    message`; libraries from warnings on."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format=f"%(asctime)s {role:<10} %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.getLogger("radixmill").setLevel(level.upper())
