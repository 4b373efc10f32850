"""A load generator for OpenAI-compatible servers."""

from radixmill.bench.command import main

__all__ = ["main"]
