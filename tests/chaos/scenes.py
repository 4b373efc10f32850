"""All scenes, in the order in which they are played."""

from tests.chaos import kills

__all__ = ["kills"]
