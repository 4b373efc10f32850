"""All scenes, in the order in which they are played."""

from tests.chaos import kills, clients, hostile, world, fronts  # isort: skip

__all__ = ["clients", "fronts", "hostile", "kills", "world"]
