"""The five workloads: how many requests, how many at a time, how long. Prompts are deterministic and sized in tokens.

A prompt is a string of common English words, nearly each of which is one token of any vocabulary. Its words follow from
(seed, workload, repeat, request), so no prompt begins as another does and nothing is found in the server's cache, except
where the workload is about a shared prefix.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from radixmill.bench.client import Server
from radixmill.core.errors import CannotStart

Count = Callable[[str], Awaitable[int]]  # tokens of a text


@dataclass(frozen=True)
class Workload:
    """Requests of one kind. Ranges are inclusive and uniform."""

    name: str
    about: str
    requests: int
    at_once: int
    prompt: tuple[int, int]  # tokens
    output: tuple[int, int]  # tokens
    prefix: int = 0  # tokens of one prefix before every prompt


WORKLOADS = {
    w.name: w
    for w in (
        Workload("decode1", "30-token prompts, 128 out, one at a time", 8, 1, (30, 30), (128, 128)),
        Workload("decode16", "30-token prompts, 64 out, 16 at a time", 32, 16, (30, 30), (64, 64)),
        Workload("prefill", "900-token prompts, 1 out, one at a time", 8, 1, (900, 900), (1, 1)),
        Workload("shared", "one 900-token prefix, 14-token tails, 16 out, 8 at a time", 48, 8, (14, 14), (16, 16), 900),
        Workload("mixed", "60 to 480 in, 32 to 96 out, 8 at a time", 24, 8, (60, 480), (32, 96)),
    )
}


@dataclass(frozen=True)
class Job:
    """One request to send."""

    prompt: str
    max_tokens: int


def select(names: str, *, quick: bool = False) -> list[Workload]:
    """The workloads of a comma-separated list; with `quick`, about a quarter of the requests."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in WORKLOADS]:
        raise CannotStart(f"no workload {', '.join(unknown)}", f"There are: {', '.join(WORKLOADS)}")
    if not wanted:
        raise CannotStart("no workload named", f"There are: {', '.join(WORKLOADS)}")
    return [_quick(WORKLOADS[name]) if quick else WORKLOADS[name] for name in dict.fromkeys(wanted)]


def _quick(workload: Workload) -> Workload:
    return replace(workload, requests=max(workload.at_once, workload.requests // 4, 2))


async def jobs(workload: Workload, count: Count, *, seed: int = 0, repeat: int = 0) -> list[Job]:
    """The requests of one repeat, in the order they are sent."""
    rng = random.Random(f"{seed}/{workload.name}/{repeat}")
    prefix = await sized_text(rng, workload.prefix, count) + " " if workload.prefix else ""
    made = []
    for _ in range(workload.requests):
        tokens, output = rng.randint(*workload.prompt), rng.randint(*workload.output)
        made.append(Job(prefix + await sized_text(rng, tokens, count), output))
    return made


async def sized_text(rng: random.Random, tokens: int, count: Count) -> str:
    """Words that come to `tokens` tokens, or as near as whole words get in a few tries."""
    words = list(_words(rng, tokens))
    for _ in range(4):
        excess = await count(" ".join(words)) - tokens
        if excess == 0:
            break
        words = words[: max(1, len(words) - excess)] if excess > 0 else words + list(_words(rng, -excess))
    return " ".join(words)


async def counter(server: Server, seed: int = 0) -> tuple[Count, str]:
    """How to count tokens on this server, and a word for it: its own /tokenize, else two requests whose usage is read."""
    if await server.count("a few words") is not None:
        return lambda text: _asked(server, text), "/tokenize"
    return await _calibrated(server, seed), "estimated from usage"


async def _asked(server: Server, text: str) -> int:
    counted = await server.count(text)
    if counted is None:
        raise CannotStart(f"{server.origin}/tokenize stopped answering")
    return counted


async def _calibrated(server: Server, seed: int) -> Count:
    """A straight line through the prompt tokens of a short and a long text."""
    rng = random.Random(f"{seed}/calibration")
    short, long = " ".join(_words(rng, 20)), " ".join(_words(rng, 220))
    tokens = []
    for text in (short, long):
        answer = await server.complete(text, 1)
        if answer.error or not answer.prompt_tokens:
            raise CannotStart(
                f"{server.origin} does not say how many tokens a prompt has",
                answer.error or "It has neither /tokenize nor usage",
            )
        tokens.append(answer.prompt_tokens)
    slope = (tokens[1] - tokens[0]) / 200

    async def count(text: str) -> int:
        return round(tokens[0] + slope * (text.count(" ") + 1 - 20))

    return count


def _words(rng: random.Random, count: int) -> Iterator[str]:
    return (rng.choice(_COMMON) for _ in range(count))


_ENGLISH = (
    "about above across after again air all also always and animal answer any are around ask away back bad be bear beat "
    "because bed before began begin behind best better between big bird black blue board boat body book both box boy bring "
    "brother build busy but buy call came can car care carry cat caught center change check child city class clean clear "
    "close cloud cold color come common corn cost could country course cover cross cry cut dark day deep did differ dinner "
    "do dog door down draw dream drive drop dry during each early earth east eat end energy enough even ever every eye "
    "face fact fall family far farm fast father feel feet few field fight figure fill final find fine fire first fish five "
    "floor fly follow food foot for force form four free friend from front full game garden gave get girl give glass go "
    "gold good got great green ground group grow had half hand happy hard has have he head hear heart heat heavy help here "
    "high hill him his hold home hope horse hot hour house how hundred idea if in island it job just keep kind king know "
    "land language large last late laugh law lay lead learn leave left less let letter life light like line list little "
    "live long look love low made main make man many map mark may mean men might mile mind minute money moon more morning "
    "most mother mountain move much music must my name near need never new next night no north not note now number ocean of "
    "off often old on once one only open or order other our out over own page paper part pass people person picture piece "
    "place plain plan plant play point poor power press problem pull put question quick rain ran reach read ready real red "
    "rest right river road rock room round rule run said sail same saw say school science sea season second see seem sell "
    "send set seven several shape she ship short should show side simple since sing sit six size sky sleep slow small snow "
    "so some song soon sound south space speak special spring stand star start state stay step still stone stop story "
    "street strong study such sun sure table take talk teach tell ten test than that the their them then there these thing "
    "think this those though thought three through time to together too took top town travel tree true try turn two under "
    "unit until up us use very voice wait walk wall want war warm was watch water way we week well went were west what "
    "wheel when where which while white who whole why wide wild will wind winter with woman wonder wood word work world "
    "would write year yes you young your"
)
_COMMON = _ENGLISH.split()
