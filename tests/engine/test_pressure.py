"""A pool far too small for what is asked of it: whatever fits alone is said to its end, and nothing ever fails.

Long sequences by the dozen, forks, scores, guesses, grammars, priorities and accounts, over pools that hold one or two of
them; no request is cancelled, so each must say all that it says alone.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from radixmill.core.messages import Submit
from radixmill.core.request import Constraint
from tests.engine import test_constrained as bound_kit
from tests.engine.drive import Drive
from tests.engine.fakes import Prophet, alone, lone_pages, next_token, prefix_kv, scores, spec, submit

EOS = bound_kit.EOS
ENDS = frozenset({EOS})


class Pressed:
    """Requests of up to the whole context, all of whom must be answered as if they were alone."""

    def __init__(self, dice: Random, drive: Drive) -> None:
        self.dice, self.drive = dice, drive
        self.context = drive.scheduler.spec.context
        self.expected: dict[int, list[int]] = {}
        self.scores: dict[int, Any] = {}
        self.next = 0

    def ask(self) -> Submit:
        dice, first = self.dice, self.next
        ids = range(first, first + dice.choice([1, 1, 2, 4]))
        self.next += len(ids)
        prompt = [dice.randrange(4) for _ in range(dice.randint(1, self.context - 1))]
        most = self.context - len(prompt) if dice.random() < 0.6 else dice.randint(1, self.context - len(prompt))
        seed, text, more = dice.randrange(1000), None, {}
        if dice.random() < 0.3:
            text = "|".join("1,2,3" if dice.random() < 0.8 else "4" for _ in range(dice.randint(1, self.context)))
            more["constraint"] = Constraint(kind="regex", text=text)
        if dice.random() < 0.3:
            more |= {"prompt_logprobs": 0, "prompt_logprobs_from": dice.randrange(len(prompt))}
            self.scores[first] = scores(prompt, more["prompt_logprobs_from"])
        for n, id in enumerate(ids):
            self.expected[id] = said = _alone(text, prompt, seed + n, most)
            if isinstance(prophet := self.drive.scheduler.guesser, Prophet):
                prophet.truths.append([*prompt, *said])
        more |= {"priority": dice.choice([0, 0, 0, 1, -1]), "account": dice.choice(["", "a", "b"])}
        return submit(prompt, *ids, seed=seed, max_tokens=most, **more)

    def verify(self) -> None:
        for id, expected in self.expected.items():
            end = self.drive.ends["front", id]
            assert end.reason in ("stop", "length"), (end.reason, end.detail)
            assert self.drive.tokens["front", id] == expected
            assert self.drive.scores.get(("front", id)) == self.scores.get(id)


def _alone(text: str | None, prompt: list[int], seed: int, most: int) -> list[int]:
    if text is None:
        return alone(prompt, seed, most, ENDS)
    match, tokens = bound_kit.ToyMatch(text, [], ENDS), list(prompt)
    row = np.zeros(2, np.uint32)
    while len(tokens) < len(prompt) + most and not match.ended:
        match.fill(row)
        tokens.append(next_token(prefix_kv(tokens), seed, row))
        match.push(tokens[-1])
    return tokens[len(prompt) :]


def press(seed: int, requests: int = 14) -> Drive:
    dice = Random(seed)
    size = dice.choice([1, 2, 4])
    pages = dice.choice([6, 8, 12, 20])
    windows, slots, step = dice.choice([(), (3,), (9,), (4, 30)]), dice.choice([2, 8]), dice.choice([16, 40, 512])
    least = min(max((lone_pages(window, size, step, slots) for window in windows), default=pages), pages)
    window_pages = dice.choice([least, pages])
    model = spec(pages, size, slots=slots, windows=windows, window_pages=window_pages, eos=(EOS,))
    drive = Drive(
        model,
        grammars=bound_kit.ToyGrammars(),
        overlap=dice.random() < 0.4,
        prefix_cache=dice.random() < 0.8,
        schedule_policy=dice.choice(["fcfs", "lpm"]),
        step_tokens=step,
        max_running_requests=8,
        speculation="ngram",
    )
    drive.scheduler.guesser = Prophet(dice, dice.choice([0.3, 0.9, 1.0]), dice.choice([1, 4, 12]))
    load = Pressed(dice, drive)
    for _ in range(requests):
        drive.submit(load.ask())
        for _ in range(dice.choice([0, 0, 1, 5])):
            drive.step()
    drive.run(most=20_000)
    load.verify()
    return drive


@pytest.mark.parametrize("seed", range(60))
def test_what_fits_alone_never_fails(seed: int) -> None:
    press(seed)


def test_the_pools_are_too_small() -> None:
    """Otherwise the above proves little."""
    totals = dict.fromkeys(("preemptions", "drafted", "accepted", "forced", "reused_tokens"), 0)
    for seed in range(100, 115):
        counters = vars(press(seed).scheduler.counters)
        totals = {name: totals[name] + counters[name] for name in totals}
    assert totals["preemptions"] > 50 and min(totals.values()) > 20, totals
