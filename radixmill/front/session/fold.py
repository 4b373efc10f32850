"""The non-streaming answer is, by definition, the fold of the stream."""

from __future__ import annotations

from msgspec import Struct

from radixmill.front.session.events import Arguments, Call, Content, End, Event, Reasoning, Token
from radixmill.front.session.generation import Generation


class WholeCall(Struct, frozen=True):
    """A call of a tool. `arguments`: JSON, or a custom tool's input."""

    id: str
    name: str
    arguments: str
    custom: bool = False


class Whole(Struct, frozen=True):
    """All that one choice said. `tokens`: of everything, in order; `reasoning` is None where there were no thoughts."""

    text: str
    tokens: tuple[Token, ...]
    end: End
    reasoning: str | None = None
    calls: tuple[WholeCall, ...] = ()


class _Parts:
    """One choice while it is gathered."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[tuple[Call, list[str]]] = []
        self.tokens: list[Token] = []
        self.end: End | None = None

    def add(self, event: Event) -> None:
        match event:
            case Content(_, text):
                self.text.append(text)
            case Reasoning(_, text):
                self.reasoning.append(text)
            case Call():
                self.calls.append((event, []))
            case Arguments(_, index, text):
                self.calls[index][1].append(text)
            case End():
                self.end = event
                return
        self.tokens.extend(event.tokens)

    def whole(self) -> Whole:
        assert self.end is not None, "every choice ends"
        return Whole(
            "".join(self.text),
            tuple(self.tokens),
            self.end,
            "".join(self.reasoning) if self.reasoning else None,
            tuple(WholeCall(call.id, call.name, "".join(parts), call.custom) for call, parts in self.calls),
        )


class Gatherer:
    """Every choice of a generation, put together from events as they come."""

    def __init__(self, generation: Generation) -> None:
        self._parts = [_Parts() for _ in generation.choices]

    def push(self, events: tuple[Event, ...]) -> None:
        for event in events:
            self._parts[event.choice].add(event)

    def wholes(self) -> list[Whole]:
        """In order, once every choice has ended."""
        return [part.whole() for part in self._parts]


async def gather(generation: Generation) -> list[Whole]:
    """Every choice, in order; waits for the last end."""
    gatherer = Gatherer(generation)
    async for events in generation:
        gatherer.push(events)
    return gatherer.wholes()


def winners(generation: Generation, n: int) -> list[int]:
    """The n best choices of each prompt, by mean log probability per token, ties to the earlier; all in order if n is all."""
    width = generation.facts.width
    everyone = range(len(generation.choices))
    if n == width:
        return list(everyone)
    groups = [everyone[start : start + width] for start in everyone[::width]]
    return [i for group in groups for i in sorted(group, key=lambda i: -generation.choices[i].mean_logprob)[:n]]
