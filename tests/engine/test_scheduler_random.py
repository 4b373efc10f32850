"""The scheduler under random loads: whatever the pool, the policy, the budget, the overlap and the neighbours, every
sequence says what it says alone, ends once, and every page comes back. Guesses, right or wrong, change none of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.messages import Submit
from radixmill.engine.cache.tails import Tails
from tests.engine.drive import Drive
from tests.engine.fakes import Prophet, alone, lone_pages, scores, spec, submit

STOP = frozenset({3})
STORY = [(i * 7 + i // 3) % 11 for i in range(200)]


class Load:
    """Random requests, and what each must answer."""

    def __init__(self, dice: Random, drive: Drive) -> None:
        self.dice, self.drive = dice, drive
        self.context = drive.scheduler.spec.context
        self.expected: dict[int, list[int]] = {}
        self.prompts: dict[int, int] = {}
        self.clients: dict[int, str] = {}
        self.gone: set[int] = set()
        self.scores: dict[int, object] = {}
        self.next = 0
        self.lonely = dice.choice([0.0, 0.0, 0.1, 0.5])  # requests that must run alone

    def request(self) -> Submit:
        dice = self.dice
        room = dice.choice([self.context, min(self.context, 20)])
        length = dice.randint(1, dice.choice([room, room // 2 + 1]))
        prompt = STORY[: max(length - 3, 0)] + [dice.randrange(11) for _ in range(min(3, length))]
        most = min(dice.choice([0, 1, 5, 17, 40, room]), self.context - len(prompt))
        ids = [self.next + i for i in range(dice.choice([1, 1, 1, 2, 3]))]
        self.next += len(ids)
        seed, stops = dice.randrange(100), STOP if dice.random() < 0.5 else frozenset()
        output: tuple[int, ...] = ()
        if len(ids) == 1 and dice.random() < 0.3:
            said = alone(prompt, seed, most, stops)
            output = tuple(said[: dice.randint(0, len(said))])
        wish: dict[str, int] = {}
        if dice.random() < 0.3:
            wish = {
                "prompt_logprobs": 0,
                "prompt_logprobs_from": dice.choice([0, 0, 1, length // 2, length - 1, length]),
            }
            if not output:
                self.scores[ids[0]] = scores(prompt, wish["prompt_logprobs_from"])
        for n, i in enumerate(ids):
            self.expected[i] = alone(prompt, seed + n, most, stops)
            self.prompts[i] = len(prompt)
            if isinstance(prophet := self.drive.scheduler.guesser, Prophet):
                prophet.truths.append([*prompt, *self.expected[i]])
        return submit(
            prompt,
            *ids,
            seed=seed,
            output=output,
            max_tokens=most,
            tenant=dice.choice(["", "", "", "x"]),
            priority=dice.choice([0, 0, 0, 1, -1]),
            stop_token_ids=tuple(stops),
            alone=dice.random() < self.lonely,
            **wish,
        )

    def move(self) -> None:
        """Something comes in, or not."""
        what = self.dice.random()
        if what < 0.45:
            message = self.request()
            client = self.dice.choice(["p", "q"])
            self.clients |= {start.seq: client for start in message.seqs}
            self.drive.submit(message, client)
        elif what < 0.48 and self.next:
            seq = self.dice.randrange(self.next)
            self.drive.scheduler.cancel(self.clients[seq], seq)
        elif what < 0.49:
            client = self.dice.choice(["p", "q"])
            self.gone |= {
                seq for seq, owner in self.clients.items() if owner == client and (owner, seq) not in self.drive.ends
            }
            self.drive.scheduler.drop_client(client)
        elif what < 0.50:
            self.drive.scheduler.flush_cache()

    def verify(self) -> None:
        for seq, expected in self.expected.items():
            key = self.clients[seq], seq
            if seq in self.gone:
                assert key not in self.drive.ends
                continue
            end, said = self.drive.ends[key], self.drive.tokens[key]
            assert said == expected[: len(said)]
            assert end.usage.prompt == self.prompts[seq] and 0 <= end.usage.cached <= self.prompts[seq]
            assert end.reason != "failed", end.detail
            if said or end.reason != "cancelled":
                assert self.drive.scores.get(key) == self.scores.get(seq)
            if end.reason != "cancelled":
                assert said == expected
                assert end.reason == ("stop" if end.token in STOP else "length")
                assert end.token is None or said[-1] == end.token
                assert self.drive.cached.get(key, 0) == end.usage.cached


def play(dice: Random, turns: int) -> Drive:
    """One random server under a random load."""
    size, pages = dice.choice([1, 2, 4, 8]), dice.choice([4, 6, 10, 12, 24, 80])
    windows = dice.choice([(), (), (1,), (3,), (size,), (2 * size + 1,), (5, 17), (1000,)])
    slots, step = dice.choice([1, 4, 8, 8]), dice.choice([16, 24, 64, 512])
    least = min(max((lone_pages(window, size, step, slots) for window in windows), default=pages), pages)
    model = spec(
        pages,
        size,
        slots=slots,
        windows=windows,
        window_pages=dice.choice([least, least + 3, pages]),
        context=min((pages - 2) * size, 120),
    )
    guesser = Prophet(dice, dice.choice([0.0, 0.5, 0.9, 1.0]), dice.choice([1, 3, 8, 30]))
    drive = Drive(
        model,
        overlap=dice.random() < 0.5,
        prefix_cache=dice.random() < 0.85,
        schedule_policy=dice.choice(["fcfs", "lpm"]),
        step_tokens=step,
        max_running_requests=8,
        speculation=dice.choice(["off", "ngram"]),
    )
    if dice.random() < 0.6:
        drive.scheduler.guesser = guesser
    load = Load(dice, drive)
    for _ in range(turns):
        load.move()
        drive.step()
    drive.run()
    load.verify()
    return drive


@pytest.mark.parametrize("seed", range(40))
def test_results_never_depend_on_the_schedule(seed: int) -> None:
    play(Random(seed), 80)


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_small_loads(dice: Random, turns: int) -> None:
    play(dice, turns)


def test_the_walks_go_where_it_hurts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loads above preempt, evict, reuse, share and guess, and lose pages of windows; otherwise they would prove
    little."""
    seen: Counter[str] = Counter()
    for name in ("_hole", "strip", "exchange", "_unmark"):
        monkeypatch.setattr(Tails, name, _counted(getattr(Tails, name), name, seen))
    totals = {"preemptions": 0, "reused_tokens": 0, "computed_tokens": 0, "drafted": 0, "accepted": 0}
    lonely = 0
    for seed in range(40):
        drive = play(Random(seed), 40)
        lonely += drive.lonely
        counters = vars(drive.scheduler.counters)
        totals = {name: totals[name] + counters[name] for name in totals}
    assert len(seen) == 4 and min(seen.values()) > 30, seen
    assert totals["preemptions"] > 10
    assert lonely > 20
    assert totals["reused_tokens"] > totals["computed_tokens"] / 10
    assert totals["drafted"] > 1.5 * totals["accepted"] > 300


def _counted(method: Callable[..., Any], name: str, seen: Counter[str]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        seen[name] += 1
        return method(*args)

    return counted
