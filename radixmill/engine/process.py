"""The engine's process: one incarnation, from its socket to its end."""

from __future__ import annotations

import gc
import logging
import socket

from radixmill.core.config import Config
from radixmill.core.plan import Executor
from radixmill.engine.grammar import Grammars, OpenBuilder
from radixmill.engine.loop import Engine, Progress
from radixmill.engine.schedule import Scheduler
from radixmill.link.socket import EngineSocket
from radixmill.observe.pulse import EnginePulse

log = logging.getLogger("radixmill.engine")


def serve(
    executor: Executor,
    config: Config,
    listener: socket.socket,
    *,
    watch: socket.socket | None,
    incarnation: int,
    pulse: EnginePulse | None = None,
    on_progress: Progress | None = None,
    open_builder: OpenBuilder | None = None,
) -> None:
    """`config`: resolved. Run the loop until the supervisor (the other end of `watch`) is gone. `pulse`: see observe.pulse.

    `open_builder` starts a process that tries grammars; None: there are none.
    """
    spec, cache = executor.spec, config.cache
    keep = None  # of the first group as large a part as of all bytes
    if cache.prefix_cache_bytes is not None and spec.kv_bytes:
        keep = cache.prefix_cache_bytes * spec.kv_groups[0].pages // spec.kv_bytes
    pulse = pulse or EnginePulse.private()
    grammars = Grammars(open_builder, building=pulse.building) if open_builder else None
    scheduler = Scheduler(spec, config.schedule, cache.prefix_cache, keep, grammars)
    engine = Engine(
        scheduler,
        executor,
        EngineSocket(listener, watch, grammars.wake if grammars else None),
        incarnation=incarnation,
        overlap=config.schedule.overlap,
        grammars=grammars,
        pulse=pulse,
        on_progress=on_progress,
    )
    # What start-up made lives as long as the process: keep the collector from walking it again and again.
    gc.collect()
    gc.freeze()
    try:
        engine.run()
    except EOFError:
        log.info("the supervisor is gone; stopping")
    finally:
        if grammars:
            grammars.close()
        executor.close()
