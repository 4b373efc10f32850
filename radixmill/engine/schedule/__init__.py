"""Who runs next. Door: `Scheduler`."""

from radixmill.engine.schedule.scheduler import Scheduler
from radixmill.engine.schedule.sequence import Sequence

__all__ = ["Scheduler", "Sequence"]
