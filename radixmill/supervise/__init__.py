"""The supervisor: starts the processes, watches them, restarts those that die. No asyncio, no arrays, no model."""

from radixmill.supervise.boot import Boot
from radixmill.supervise.supervisor import Supervisor

__all__ = ["Boot", "Supervisor"]
