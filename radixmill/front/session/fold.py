"""The non-streaming answer is, by definition, the fold of the stream."""

from __future__ import annotations

from msgspec import Struct

from radixmill.front.session.events import Content, End, Token
from radixmill.front.session.generation import Generation


class Whole(Struct, frozen=True):
    """All that one choice said."""

    text: str
    tokens: tuple[Token, ...]
    end: End


async def gather(generation: Generation) -> list[Whole]:
    """Every choice, in order; waits for the last end."""
    texts: list[list[str]] = [[] for _ in generation.choices]
    tokens: list[list[Token]] = [[] for _ in generation.choices]
    ends: dict[int, End] = {}
    async for events in generation:
        for event in events:
            match event:
                case Content(choice, text, new):
                    texts[choice].append(text)
                    tokens[choice].extend(new)
                case End(choice):
                    ends[choice] = event
    return [Whole("".join(texts[i]), tuple(tokens[i]), ends[i]) for i in range(len(generation.choices))]


def winners(generation: Generation, n: int) -> list[int]:
    """The n best choices of each prompt, by mean log probability per token, ties to the earlier; all in order if n is all."""
    width = generation.facts.width
    everyone = range(len(generation.choices))
    if n == width:
        return list(everyone)
    groups = [everyone[start : start + width] for start in everyone[::width]]
    return [i for group in groups for i in sorted(group, key=lambda i: -generation.choices[i].mean_logprob)[:n]]
