"""Several generations told as one: their choices numbered through, in the order they were started."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import accumulate

from msgspec.structs import replace

from radixmill.front.session.events import Event
from radixmill.front.session.generation import Generation, merged


class Batch:
    """Iterate as a Generation, then close. Choice c of generation g is `starts[g] + c`."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self.generations = tuple(generations)
        self.starts = [0, *accumulate(len(generation.choices) for generation in generations)][:-1]

    @property
    def id(self) -> str:
        """The first one's."""
        return self.generations[0].id if self.generations else ""

    async def __aiter__(self) -> AsyncGenerator[tuple[Event, ...], None]:
        parts = [_numbered(*pair) for pair in zip(self.generations, self.starts, strict=True)]
        async with aclosing(merged(parts)) as events:
            async for some in events:
                yield some

    def close(self) -> None:
        for generation in self.generations:
            generation.close()


async def _numbered(generation: Generation, start: int) -> AsyncGenerator[tuple[Event, ...], None]:
    async with aclosing(aiter(generation)) as told:
        async for events in told:
            yield tuple(replace(event, choice=start + event.choice) for event in events) if start else events
