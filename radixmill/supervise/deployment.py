"""One model that is served, through all incarnations of its engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from radixmill.core.config import Config
from radixmill.core.spec import Identity
from radixmill.observe.watch import Watch
from radixmill.store import ModelFiles
from radixmill.supervise.child import Child

STARTING = 24  # times as long as an engine that serves may an engine that starts show no progress,
STARTING_LOW = 60.0  # but no fewer seconds than this: a slow disk knows nothing of our settings
CRASH_LIMIT = 5  # engines that die one after the other without a single token


@dataclass(eq=False)
class Deployment:
    """Several live side by side only while one takes over from another."""

    number: int
    config: Config
    files: ModelFiles
    watch: Watch  # of an engine that serves
    start_watch: Watch = field(init=False)  # of one that starts: a matrix may take long to read
    engine: Child | None = None
    incarnations: int = 0
    identity: Identity | None = None  # what its engine loaded: later ones serve that or nothing
    up: bool = False  # an engine of it has come up
    crashes: int = 0  # deaths in a row without a committed token between them
    beside: bool = False  # its engine was started while another served, which must leave room for it
    restart_at: float | None = None  # monotonic clock: when to start another engine
    spared: frozenset[int] = frozenset()  # what its last engine computed, if that was killed from outside
    event: dict[str, Any] = field(default_factory=dict)  # what fronts were told last
    retiring: bool = False  # another has taken over
    holders: set[Child] = field(default_factory=set)  # fronts that have yet to let go of it
    wanted: Config = field(init=False)  # the settings before sizes were pinned

    def __post_init__(self) -> None:
        self.wanted = self.config
        self.start_watch = Watch(max(STARTING * self.watch.patience, STARTING_LOW))

    def begin(self, *, beside: bool) -> None:
        """Another engine of it is started."""
        self.incarnations += 1
        self.restart_at, self.beside = None, beside
        self.watch.begin()
        self.start_watch.begin()

    def pin(self, tokens: int, context: int, identity: Identity | None) -> None:
        """Later incarnations get the sizes of the first, whatever memory is free by then: records must fit again. And they
        load what has been loaded before, or nothing."""
        self.identity = identity or self.identity  # the newest: files that were only touched have another time
        cache = replace(self.config.cache, max_total_tokens=tokens)
        model = replace(self.config.model, context_length=context)
        self.config = replace(self.config, cache=cache, model=model)

    def bereave(self) -> float | None:
        """Its engine has died. Seconds to wait before the next is started; None: never, it dies too often."""
        assert self.engine is not None
        self.crashes = 1 if self.engine.progressed else self.crashes + 1
        self.engine = None
        if self.crashes >= CRASH_LIMIT:
            return None
        return 0.0 if self.crashes == 1 else 0.1 * 2**self.crashes

    def struck(self, flying: frozenset[int], *, innocent: bool, progressed: bool) -> frozenset[int]:
        """Those of the sequences in flight that a death counts against. One from outside counts against nobody while
        engines say tokens between their deaths: who waits for a long prompt may be in flight at any number of them. Where
        they don't, whoever is there twice in a row may be why somebody kills, such as a guard of the machine's memory."""
        if not flying:
            return flying
        struck = frozenset() if innocent and progressed else flying & self.spared if innocent else flying
        self.spared = flying if innocent else frozenset()
        return struck
