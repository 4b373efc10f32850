"""Servers under attack, and figures of what came of it: `python -m tests.chaos`."""
