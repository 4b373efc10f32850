"""Sequences under a grammar: what they say, what it costs, and that nothing of a grammar is lost or leaks."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from radixmill.core.request import Constraint
from radixmill.engine.grammar import Built, GrammarError, Refused
from tests.engine.drive import Drive
from tests.engine.fakes import VOCAB, next_token, prefix_kv, spec, submit

EOS = 49


class ToyMatch:
    """One set of tokens after the other; then only the end. The text is `1,2|3|…`, or `sick` where the mask fails."""

    def __init__(self, text: str, output: Iterable[int], ends: frozenset[int]) -> None:
        self.sets = [{int(token) for token in part.split(",")} for part in text.split("|") if part != "sick"]
        self.sick = text.endswith("sick")
        self.ends = ends | {EOS}
        self.at = 0
        self.ended = False
        self.asked: list[int] = []
        self.free = 0
        for token in output:
            self.push(token)

    @property
    def allowed(self) -> set[int]:
        return self.sets[self.at] if self.at < len(self.sets) else set(self.ends)

    def push(self, token: int) -> None:
        assert not self.ended and token in self.allowed
        self.ended = self.at == len(self.sets)
        self.at += 1

    def fill(self, row: NDArray[np.uint32]) -> None:
        if self.sick and self.at == len(self.sets):
            raise GrammarError("the mask takes too long")
        bits = np.zeros(len(row) * 32, np.uint8)
        bits[list(self.allowed)] = 1
        row[:] = np.packbits(bits, bitorder="little").view("<u4")

    def forced(self) -> int | None:
        return (
            next(iter(self.allowed))
            if len(self.allowed) == 1 and not (self.sick and self.at == len(self.sets))
            else None
        )


@dataclass(frozen=True, eq=False)
class ToyBuilt(Built):
    """Stands for a built grammar."""

    text: str = ""

    def matcher(self, output: Iterable[int] = (), ends: frozenset[int] = frozenset(), after: str = "") -> Any:
        return ToyMatch(self.text, output, ends)


@dataclass
class ToyGrammars:
    """Grammars that are there at once, or as soon as `finish` is called."""

    slow: bool = False
    done: set[str] = field(default_factory=set)
    wake: socket.socket | None = None

    def want(self, constraint: Constraint, asker: int | None = None) -> Built | Refused | None:
        if constraint.text == "bad":
            return Refused("bad is no grammar", "line 1")
        if self.slow and constraint.text not in self.done:
            return None
        return ToyBuilt(None, None, None, 0, constraint.text)  # type: ignore[arg-type]


def bound(text: str) -> dict[str, Any]:
    return {"constraint": Constraint(kind="regex", text=text)}


def drive(*, slow: bool = False, **more: Any) -> Drive:
    return Drive(spec(page_size=2, eos=(EOS,)), grammars=ToyGrammars(slow), **more)


def alone(text: str, prompt: list[int], seed: int, most: int, ends: frozenset[int] = frozenset({EOS})) -> list[int]:
    """What a sequence says under a grammar: each token drawn under its mask, forced ones like all others."""
    match, tokens = ToyMatch(text, [], ends), list(prompt)
    row = np.zeros(-(-VOCAB // 32), np.uint32)
    while len(tokens) < len(prompt) + most:
        match.fill(row)
        token = next_token(prefix_kv(tokens), seed, row)
        match.push(token)
        tokens.append(token)
        if token in ends or match.ended:
            break
    return tokens[len(prompt) :]


TEXTS = ["1,2|3|4,5,6", "7", "7|8|9", "1,2,3,4|1|2|3|10,11|4", "5,6|7,8|9,10|11,12"]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_a_sequence_says_what_its_masks_allow(text: str, overlap: bool) -> None:
    run = drive(overlap=overlap)
    run.submit(submit([1, 2, 3], 0, max_tokens=20, **bound(text)))
    run.run()
    assert run.tokens["front", 0] == alone(text, [1, 2, 3], 7, 20)
    assert run.ends["front", 0].reason == "stop" and run.ends["front", 0].token == EOS


def test_forced_tokens_have_no_step_of_their_own() -> None:
    run = drive()
    run.submit(submit([1, 2, 3], 0, max_tokens=20, **bound("1,2|3|4|5|6|7,8|9")))
    steps = run.run()
    assert len(run.tokens["front", 0]) == 8 and steps == 2  # two tokens were drawn; the end is forced as well
    assert run.scheduler.counters.forced == 6
    assert run.computed == 3 + 5  # nobody needs the KV of what follows the last drawn token


def test_a_grammar_without_a_choice_needs_no_step_at_all() -> None:
    run = drive()
    run.submit(submit([1, 2, 3], 0, max_tokens=20, **bound("5|6|7")))
    assert run.run() == 0
    assert run.tokens["front", 0] == [5, 6, 7, EOS]
    assert run.ends["front", 0].usage.prompt == 3 and run.ends["front", 0].usage.cached == 0


def test_forced_tokens_count_against_the_limit() -> None:
    run = drive()
    run.submit(submit([1, 2, 3], 0, max_tokens=2, **bound("5|6|7")))
    run.run()
    assert run.tokens["front", 0] == [5, 6] and run.ends["front", 0].reason == "length"


def test_logprobs_want_every_forward_pass() -> None:
    """Log-probabilities need the logits of each token; the tokens are the same."""
    run = drive()
    run.submit(submit([1, 2, 3], 0, max_tokens=20, logprobs=0, **bound("1,2|3|4|5")))
    run.run()
    assert run.tokens["front", 0] == alone("1,2|3|4|5", [1, 2, 3], 7, 20)
    assert run.scheduler.counters.forced == 0


def test_ignoring_the_end_token_does_not_go_beyond_the_grammar() -> None:
    run = drive()
    run.submit(submit([1, 2, 3], 0, max_tokens=20, ignore_eos=True, **bound("1,2|3,4")))
    run.run()
    assert run.ends["front", 0].reason == "stop" and run.ends["front", 0].token is None
    assert run.tokens["front", 0][-1] == EOS and len(run.tokens["front", 0]) == 3


def test_a_stop_token_of_the_request_is_an_end_of_the_grammar() -> None:
    run = drive()
    run.submit(submit([1, 2, 3], 0, max_tokens=20, stop_token_ids=(40,), **bound("1,2|3,4")))
    run.run()
    assert run.tokens["front", 0] == alone("1,2|3,4", [1, 2, 3], 7, 20, frozenset({EOS, 40}))
    assert run.ends["front", 0].token in (EOS, 40)


@pytest.mark.parametrize("text", TEXTS)
def test_a_record_resumes_at_every_token(text: str) -> None:
    whole = alone(text, [1, 2, 3], 7, 20)
    for said in range(len(whole) + 1):
        run = drive()
        run.submit(submit([1, 2, 3], 0, max_tokens=20, output=tuple(whole[:said]), **bound(text)))
        run.run()
        assert run.tokens["front", 0] == whole


def test_it_waits_for_its_grammar_and_holds_up_nobody() -> None:
    run = drive(slow=True)
    run.submit(submit([1, 2, 3], 0, max_tokens=20, **bound("1,2|3")))
    run.submit(submit([1, 2, 3], 1, max_tokens=6))
    run.run()
    assert run.scheduler.idle and ("front", 1) in run.ends and ("front", 0) not in run.ends
    run.scheduler.bind_waiting()
    assert run.scheduler.idle
    run.scheduler.constrained._grammars.done.add("1,2|3")
    run.scheduler.bind_waiting()
    run.run()
    assert run.tokens["front", 0] == alone("1,2|3", [1, 2, 3], 7, 20)


def test_those_that_waited_are_named_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar that kills us when it is given to a sequence is no other's fault."""
    run = drive(slow=True)
    for seq in range(3):
        run.submit(submit([1, 2, 3], seq, max_tokens=20, **bound(f"{seq + 1}")))
    run.scheduler.constrained._grammars.done |= {"1", "2"}
    named: list[tuple[int, ...]] = []
    met: dict[str, tuple[int, ...]] = {}

    def matcher(self: ToyBuilt, *args: Any) -> Any:
        met[self.text] = named[-1]
        return ToyMatch(self.text, *args[:2])

    monkeypatch.setattr(ToyBuilt, "matcher", matcher)
    run.scheduler.bind_waiting(named.append)
    assert met == {"1": (0,), "2": (1,)} and named == [(0,), (1,), (2,)]


def test_what_waits_for_a_grammar_may_be_cancelled_and_its_client_may_leave() -> None:
    run = drive(slow=True)
    run.submit(submit([1, 2, 3], 0, max_tokens=20, **bound("1,2")))
    run.scheduler.cancel("front", 0)
    run.run()
    assert run.ends["front", 0].reason == "cancelled"
    run.submit(submit([1, 2, 3], 1, max_tokens=20, **bound("1,2")))
    run.scheduler.drop_client("front")
    run.scheduler.constrained._grammars.done.add("1,2")
    run.scheduler.bind_waiting()
    assert run.scheduler.idle and not run.scheduler._live


def test_a_refused_grammar_fails_its_sequence() -> None:
    run = drive()
    run.submit(submit([1, 2, 3], 0, **bound("bad")))
    run.run()
    end = run.ends["front", 0]
    assert end.reason == "grammar" and end.detail == "bad is no grammar (at line 1)"


def test_an_engine_without_grammars_says_so() -> None:
    run = Drive(spec())
    run.submit(submit([1, 2, 3], 0, **bound("1")))
    run.run()
    assert run.ends["front", 0].reason == "grammar" and "no grammars" in run.ends["front", 0].detail


@pytest.mark.parametrize("overlap", [False, True])
def test_a_mask_beyond_its_limits_ends_one_sequence_alone(overlap: bool) -> None:
    run = drive(overlap=overlap)
    run.submit(submit([1, 2, 3], 0, max_tokens=9, **bound("1,2|3,4|sick")))
    run.submit(submit([1, 2, 3], 1, max_tokens=9, **bound("1,2|3,4|5,6|7,8")))
    run.run()
    assert run.ends["front", 0].reason == "grammar" and run.ends["front", 0].detail == "the mask takes too long"
    assert run.tokens["front", 0] == alone("1,2|3,4", [1, 2, 3], 7, 2)
    assert run.tokens["front", 1] == alone("1,2|3,4|5,6|7,8", [1, 2, 3], 7, 9)


def test_no_guess_is_made_for_a_row_whose_every_token_has_its_own_mask() -> None:
    run = drive(speculation="ngram")
    run.submit(submit([1, 2] * 9, 0, max_tokens=30, **bound("|".join(["1,2"] * 30))))
    run.submit(submit([1, 2] * 9, 1, max_tokens=30))
    run.run()
    slots = {
        int(plan.slots[row])
        for plan in run.executor.plans
        if plan.guesses is not None
        for row in np.flatnonzero(plan.guesses)
    }
    assert run.tokens["front", 0] == alone("|".join(["1,2"] * 30), [1, 2] * 9, 7, 30)
    assert len(slots) <= 1


@pytest.mark.parametrize("seed", range(30))
def test_random_company_changes_nothing(seed: int) -> None:
    """Bound and free sequences, few pages, preemptions, cancels, overlap or not: each says what it says alone."""
    dice = Random(seed)
    run = Drive(
        spec(pages=dice.choice([14, 20, 64]), page_size=2, slots=4, context=24, eos=(EOS,)),
        grammars=ToyGrammars(),
        overlap=dice.random() < 0.5,
        step_tokens=dice.choice([3, 8, 64]),
    )
    asked: dict[int, tuple[str | None, list[int], int, int]] = {}
    for number in range(12):
        prompt = [dice.randrange(VOCAB - 1) for _ in range(dice.randint(1, 8))]
        text = dice.choice([None, *TEXTS])
        most, start = dice.randint(1, 10), dice.randrange(100)
        asked[number] = text, prompt, start, most
        more = bound(text) if text else {}
        run.submit(submit(prompt, number, seed=start, max_tokens=most, priority=dice.randint(0, 1), **more))
        for _ in range(dice.randint(0, 3)):
            run.step()
        if dice.random() < 0.2:
            run.scheduler.cancel("front", dice.randrange(number + 1))
    run.run()
    for number, (text, prompt, start, most) in asked.items():
        said = run.tokens["front", number]
        whole = alone(text, prompt, start, most) if text else free(prompt, start, most)
        if run.ends["front", number].reason == "cancelled":
            assert said == whole[: len(said)]
        else:
            assert said == whole


def free(prompt: list[int], seed: int, most: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + most:
        tokens.append(next_token(prefix_kv(tokens), seed))
        if tokens[-1] == EOS:
            break
    return tokens[len(prompt) :]
