"""Thinking budgets: the closing tag comes exactly where it must, whatever else happens to a sequence."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import pytest

from radixmill.core.request import Constraint, ThinkingBudget
from radixmill.engine.grammar import Built, GrammarError, Refused, Thinking, Vocabulary
from radixmill.engine.grammar.compile import to_grammar
from radixmill.engine.grammar.matcher import Start
from tests.engine import grammar_kit as kit
from tests.engine.drive import Drive
from tests.engine.fakes import VOCAB, Prophet, next_token, prefix_kv, spec, submit

EOS, OPEN, CLOSE = 49, 48, 47
LETTERS = b"</>ab c"
TEXT = tuple(bytes((LETTERS[i % len(LETTERS)],)) for i in range(47))
VOCABULARY = Vocabulary(
    tokens=(*TEXT, b"</think>", b"<think>", b"<eos>"), control=frozenset({EOS, OPEN, CLOSE}), eos_ids=(EOS,), size=VOCAB
)
TOKENIZER = VOCABULARY.tokenizer()
PROMPT = [1, 2, 3]


def exact(tokens: int, *, opened: bool = True, again: bool = False) -> ThinkingBudget:
    """Tags that are control tokens."""
    return ThinkingBudget(tokens=tokens, close=(CLOSE,), opened=opened, again=again)


def spelled(tokens: int, *, opened: bool = True, again: bool = False) -> ThinkingBudget:
    """Tags of letters, as many tokens: `<`, and `/>`, which the model often says by itself."""
    return ThinkingBudget(tokens=tokens, close=(1, 2), open="<", ends=("/>",), opened=opened, again=again)


def long(tokens: int, *, opened: bool = True) -> ThinkingBudget:
    """The same, of which it often says the beginning."""
    close = tuple(LETTERS.index(c) for c in b"</a>")
    return ThinkingBudget(tokens=tokens, close=close, open="<", ends=("</a>",), opened=opened)


@dataclass
class ToyGrammars:
    """Real grammars over the fake model's tokens, there at once or when `ready`."""

    ready: bool = True
    wake: socket.socket | None = None
    starts: dict[Constraint, Start] = field(default_factory=dict)

    def want(self, constraint: Constraint, asker: int | None = None) -> Built | Refused | None:
        if not self.ready:
            return None
        if constraint not in self.starts:
            self.starts[constraint] = Start(TOKENIZER, to_grammar(constraint, VOCABULARY))
        return Built(VOCABULARY, TOKENIZER, self.starts[constraint], 0)


GRAMMARS = ToyGrammars()


def drive(*, grammars: Any = GRAMMARS, **more: Any) -> Drive:
    return Drive(spec(page_size=2, eos=(EOS,)), grammars=grammars, **more)


# What must come out, from the definition: no state but the whole output.


def text_of(output: Sequence[int], budget: ThinkingBudget) -> str:
    """Control tokens are text only where they are a tag."""
    texts = [VOCABULARY.tokens[token].decode() for token in output]
    return "".join(text for text in texts if len(text) == 1 or text in (budget.open, *budget.ends))


def cut_of(output: Sequence[int], budget: ThinkingBudget) -> int | None:
    """Where in the output the closing tag must begin; None while nothing forces one. Not for `again`."""
    start = 0 if budget.opened else _behind_opener(output, budget)
    if start is None or len(output) < start + budget.tokens:
        return None
    thoughts = list(output[start : start + budget.tokens])
    if any(end in text_of(thoughts, budget) for end in budget.ends):
        return None
    begun = [n for n in range(1, len(budget.close)) if n <= len(thoughts) and tuple(thoughts[-n:]) == budget.close[:n]]
    return start + budget.tokens - max(begun, default=0)


def _behind_opener(output: Sequence[int], budget: ThinkingBudget) -> int | None:
    for count in range(1, len(output) + 1):
        if text_of(output[:count], budget).lstrip().startswith(budget.open):
            return count
    return None


def forced_of(output: Sequence[int], budget: ThinkingBudget) -> int | None:
    """The token that must come next."""
    for length in range(len(output) + 1):  # the first place counts: later ones are behind the thoughts
        if (cut := cut_of(output[:length], budget)) is not None:
            said = len(output) - cut
            return budget.close[said] if said < len(budget.close) else None
    return None


def alone(budget: ThinkingBudget, seed: int, most: int, prompt: Sequence[int] = PROMPT) -> list[int]:
    output: list[int] = []
    while len(output) < most and EOS not in output:
        forced = forced_of(output, budget)
        output.append(next_token(prefix_kv([*prompt, *output]), seed) if forced is None else forced)
    return output


def said(run: Drive, id: int = 0) -> list[int]:
    return run.tokens["front", id]


BUDGETS = [exact, spelled, long]


@pytest.mark.parametrize("make", BUDGETS)
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("opened", [False, True])
def test_every_budget_is_kept_exactly(make: Any, overlap: bool, opened: bool) -> None:
    forced = 0
    for tokens in range(14):
        for seed in range(25):
            budget = make(tokens, opened=opened)
            run = drive(overlap=overlap, check=False)
            run.submit(submit(PROMPT, 0, seed=seed, max_tokens=18, thinking=budget))
            run.run()
            assert said(run) == alone(budget, seed, 18), (tokens, seed)
            forced += forced_of(said(run)[:tokens], budget) is not None
    assert forced > 20 or not opened


def test_thoughts_have_as_many_tokens_and_then_their_tag() -> None:
    for tokens in range(12):
        run = drive()
        run.submit(submit(PROMPT, 0, seed=3, max_tokens=20, ignore_eos=True, thinking=exact(tokens)))
        run.run()
        assert said(run)[tokens] == CLOSE and CLOSE not in said(run)[:tokens]


def test_thoughts_that_the_model_opens_are_counted_behind_the_tag() -> None:
    budget, tag = exact(3, opened=False), Thinking(VOCABULARY, exact(3, opened=False))
    for token in (5, 5, OPEN, 3, 4, 3):  # 5: a space
        assert tag.forced() is None and tag.free
        tag.push(token)
    assert tag.forced() == CLOSE and budget.tokens == 3


def test_behind_visible_text_a_tag_is_text() -> None:
    tag = Thinking(VOCABULARY, exact(0, opened=False), output=[3, OPEN, 3])
    assert tag.forced() is None and tag.free > 1_000_000


def test_thoughts_that_come_again_have_one_budget_together() -> None:
    tag = Thinking(VOCABULARY, exact(3, opened=False, again=True), output=[OPEN, 3, 3, CLOSE, 4, 4, OPEN])
    assert tag.forced() is None and tag.free == 1
    tag.push(3)
    assert tag.forced() == CLOSE
    tag.push(CLOSE)
    assert tag.forced() is None
    tag.push(OPEN)
    assert tag.forced() == CLOSE


def test_a_tag_that_comes_again_may_begin_in_the_first_visible_token() -> None:
    letters = kit.VOCABULARY.tokens.index(b"</")
    budget = ThinkingBudget(tokens=1, close=(kit.UNTOOL,), open="/x", ends=("</|tool|>",), again=True)
    tag = Thinking(kit.VOCABULARY, budget, output=[letters, ord("x"), ord("y")])
    assert tag.forced() == kit.UNTOOL


def test_letters_that_spell_a_control_token_are_no_tag() -> None:
    tag = Thinking(kit.VOCABULARY, ThinkingBudget(tokens=0, close=(kit.UNTOOL,), open="<think>"))
    for token in b"<think>":
        tag.push(token)
    assert tag.forced() is None
    tag = Thinking(kit.VOCABULARY, ThinkingBudget(tokens=0, close=(kit.UNTOOL,), open="<think>"), output=[kit.THINK])
    assert tag.forced() == kit.UNTOOL


def test_a_call_may_end_thoughts_too() -> None:
    budget = ThinkingBudget(tokens=4, close=(0,), ends=("</think>", "</|tool|>"), opened=True)
    tag = Thinking(kit.VOCABULARY, budget, output=[9, 9, kit.TOOL, kit.UNTOOL])
    assert tag.forced() is None and tag.free > 1_000_000


def test_a_token_may_hold_a_tag_and_more() -> None:
    budget = ThinkingBudget(tokens=2, close=tuple(b"</think>"), open="</", ends=("</think>",))
    known = kit.VOCABULARY.tokens.index(b"</think>\n")
    tag = Thinking(kit.VOCABULARY, budget, output=[*b"<", ord("/"), ord("x"), known])
    assert tag.forced() is None and tag.free > 1_000_000
    tag = Thinking(kit.VOCABULARY, budget, output=[kit.VOCABULARY.tokens.index(b"</"), ord("x"), ord("x")])
    assert tag.forced() == ord("<")


def test_what_goes_on_where_the_tag_must_come_is_an_error() -> None:
    with pytest.raises(GrammarError, match="where its thoughts must end"):
        Thinking(VOCABULARY, exact(1), output=[3, 4])


# --- with the scheduler


def test_the_tag_has_no_step_of_its_own_and_no_other_token_a_mask() -> None:
    run, masked = drive(), []
    masks = run.scheduler.masks
    run.scheduler.masks = lambda plan: masked.append(masks(plan)) or masked[-1]  # type: ignore[method-assign]
    run.submit(submit(PROMPT, 0, seed=2, max_tokens=20, ignore_eos=True, thinking=long(5)))
    assert run.run() == 20 - 4 and run.scheduler.counters.forced == 4
    assert masked == [None] * 16


def test_overlapped_steps_mask_the_tag_alone() -> None:
    run, rows = drive(overlap=True), 0
    masks = run.scheduler.masks

    def counted(plan: Any) -> Any:
        nonlocal rows
        found = masks(plan)
        rows += len(found.rows) if found else 0
        return found

    run.scheduler.masks = counted  # type: ignore[method-assign]
    run.submit(submit(PROMPT, 0, seed=2, max_tokens=20, ignore_eos=True, thinking=long(5)))
    run.run()
    assert rows == 4 and said(run) == unending(long(5), 2, 20)


@pytest.mark.parametrize("make", BUDGETS)
def test_logprobs_want_every_forward_pass(make: Any) -> None:
    run = drive()
    run.submit(submit(PROMPT, 0, max_tokens=20, logprobs=0, thinking=make(5)))
    run.run()
    assert said(run) == alone(make(5), 7, 20) and run.scheduler.counters.forced == 0


@pytest.mark.parametrize("make", BUDGETS)
@pytest.mark.parametrize("opened", [False, True])
def test_a_record_resumes_at_every_token(make: Any, opened: bool) -> None:
    for tokens in (0, 1, 4):
        for seed in range(8):
            budget = make(tokens, opened=opened)
            whole = alone(budget, seed, 12)
            for have in range(len(whole) + 1):
                run = drive(check=False)
                record = tuple(whole[:have])
                run.submit(submit(PROMPT, 0, seed=seed, max_tokens=12, output=record, thinking=budget))
                run.run()
                assert said(run) == whole


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("make", BUDGETS)
def test_preempted_at_every_step(make: Any, overlap: bool) -> None:
    whole = alone(make(5), 7, 14)
    for turn in range(16):
        run = drive(overlap=overlap)
        run.submit(submit(PROMPT, 0, max_tokens=14, thinking=make(5)))
        for at in range(100):
            if run.scheduler.idle:
                break
            if at == turn and run.scheduler.running.rows:
                victim = run.scheduler.running.rows[0]
                run.scheduler.room.preempt(victim, _no_draft())
            run.step()
        assert said(run) == whole and run.scheduler.counters.preemptions <= 1
    assert turn > 10


def _no_draft() -> Any:
    class Nothing:
        def revoke(self, seq: object) -> None: ...

    return Nothing()


def test_choices_have_a_budget_each() -> None:
    run = drive()
    run.submit(submit(PROMPT, 0, 1, 2, seed=4, max_tokens=16, thinking=long(6)))
    run.run()
    assert [said(run, n) for n in range(3)] == [alone(long(6), 4 + n, 16) for n in range(3)]


def test_the_answer_may_end_within_the_tag() -> None:
    run = drive()
    run.submit(submit(PROMPT, 0, max_tokens=6, ignore_eos=True, thinking=long(4)))
    run.run()
    assert len(said(run)) == 6 and run.ends["front", 0].reason == "length"


@pytest.mark.parametrize("min_tokens", [0, 12])
def test_the_tag_may_be_a_stop_token(min_tokens: int) -> None:
    """It ends the answer where the model's own would."""
    for have in range(13):
        run, more = drive(), {"max_tokens": 16, "ignore_eos": True, "min_tokens": min_tokens}
        whole = [*alone(exact(5), 7, 5), CLOSE] if not min_tokens else alone(exact(5), 7, 16)
        record = tuple(whole[:have])
        run.submit(submit(PROMPT, 0, stop_token_ids=(CLOSE,), thinking=exact(5), output=record, **more))
        run.run()
        assert said(run) == whole


def test_it_waits_until_the_tokens_are_known_and_an_engine_without_grammars_says_so() -> None:
    grammars = ToyGrammars(ready=False)
    run = drive(grammars=grammars)
    run.submit(submit(PROMPT, 0, max_tokens=9, thinking=exact(3)))
    run.run()
    assert not run.ends
    grammars.ready = True
    run.scheduler.bind_waiting()
    run.run()
    assert said(run) == alone(exact(3), 7, 9)
    run = drive(grammars=None)
    run.submit(submit(PROMPT, 0, thinking=exact(3)))
    run.run()
    assert run.ends["front", 0].reason == "grammar"


@pytest.mark.parametrize("make", BUDGETS)
@pytest.mark.parametrize("skill", [0.5, 0.95])
def test_guesses_stop_where_the_tag_may_have_to_come(make: Any, skill: float) -> None:
    drafted = accepted = 0
    for tokens in (0, 1, 2, 5, 9):
        for opened in (False, True):
            budget = make(tokens, opened=opened)
            run = drive()
            run.scheduler.guesser = prophet = Prophet(Random(tokens), skill, 4)
            prophet.truths += [[*PROMPT, *alone(budget, 7, 60)]]
            run.submit(submit(PROMPT, 0, max_tokens=30, ignore_eos=True, thinking=budget))
            run.run()
            assert said(run) == unending(budget, 7, 30)
            drafted += run.scheduler.counters.drafted
            accepted += run.scheduler.counters.accepted
    assert drafted > 50 and accepted > 10


def unending(budget: ThinkingBudget, seed: int, most: int) -> list[int]:
    output: list[int] = []
    while len(output) < most:
        forced = forced_of(output, budget)
        output.append(next_token(prefix_kv([*PROMPT, *output]), seed) if forced is None else forced)
    return output


# --- with a grammar behind, or around, the thoughts


def behind(pattern: str, end: str) -> Constraint:
    return Constraint(kind="regex", text=pattern, after=end)


def around(pattern: str, begin: str, end: str) -> Constraint:
    tag = {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": end}
    then = {"type": "regex", "pattern": pattern}
    form = {"type": "sequence", "elements": [{"type": "optional", "content": tag}, then]}
    return Constraint(kind="structural_tag", text=json.dumps({"type": "structural_tag", "format": form}))


def bound(budget: ThinkingBudget, constraint: Constraint, seed: int, most: int) -> list[int]:
    """By the matchers alone, each token under its mask."""
    built = GRAMMARS.want(constraint)
    assert isinstance(built, Built)
    match = Thinking(VOCABULARY, budget, built.matcher((), frozenset({EOS}), constraint.after))
    output: list[int] = []
    while len(output) < most:
        row = np.zeros(VOCABULARY.words, np.uint32)
        match.fill(row)
        token = next_token(prefix_kv([*PROMPT, *output]), seed, row)
        forced = forced_of(output, budget)
        assert forced is None or forced == token
        match.push(token)
        output.append(token)
        if token == EOS:
            break
    return output


CASES = [
    (exact, behind("(ab|ba){2}", "</think>"), True),
    (spelled, behind("(ab|ba){2}", "/>"), True),
    (long, behind("(ab|ba){2}", "</a>"), True),
    (exact, around("(ab|ba){2}", "<think>", "</think>"), False),
    (spelled, around("(ab|ba){2}", "<", "/>"), False),
    (long, around("(ab|ba){2}", "<", "</a>"), False),
]


@pytest.mark.parametrize(("make", "constraint", "opened"), CASES)
@pytest.mark.parametrize("overlap", [False, True])
def test_a_grammar_begins_behind_the_tag(make: Any, constraint: Constraint, opened: bool, overlap: bool) -> None:
    thought = 0
    for tokens in (0, 1, 2, 3, 7):
        for seed in (*range(8), 64, 90):  # the last open thoughts, where no letters may
            budget = make(tokens, opened=opened)
            run = drive(overlap=overlap, check=False)
            run.submit(submit(PROMPT, 0, seed=seed, max_tokens=40, constraint=constraint, thinking=budget))
            run.run()
            whole = bound(budget, constraint, seed, 40)
            assert said(run) == whole and run.ends["front", 0].reason == "stop"
            text = text_of(whole, budget)
            answer = text[-4:]
            assert answer in ("abab", "abba", "baab", "baba")
            thought += text != answer
            if len(whole) > 5:
                assert any(text[:-4].endswith(end) for end in budget.ends)
    assert thought


@pytest.mark.parametrize(("make", "constraint", "opened"), CASES)
def test_a_bound_record_resumes_at_every_token(make: Any, constraint: Constraint, opened: bool) -> None:
    for seed in range(3):
        budget = make(4, opened=opened)
        whole = bound(budget, constraint, seed, 40)
        for have in range(len(whole) + 1):
            run = drive()
            record = tuple(whole[:have])
            run.submit(
                submit(PROMPT, 0, seed=seed, max_tokens=40, output=record, constraint=constraint, thinking=budget)
            )
            run.run()
            assert said(run) == whole


@pytest.mark.parametrize("text", ["aé", "a€", "a😀", "é", "ab", "€😀"])
def test_thoughts_may_be_cut_within_a_character(text: str) -> None:
    """No grammar takes half a character; the one around the thoughts does not hear of it."""
    tag = {"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</t>"}
    form = {"type": "sequence", "elements": [{"type": "optional", "content": tag}, {"type": "regex", "pattern": "yes"}]}
    raw = text.encode()
    for tokens in range(len(raw) + 1):
        inner = kit.matcher("structural_tag", {"format": form})
        budget = ThinkingBudget(tokens=tokens, close=tuple(b"</t>"), ends=("</t>",))
        match = Thinking(kit.VOCABULARY, budget, inner, [kit.THINK, *raw[:tokens]])
        for token in [*b"</t>", *b"yes", kit.EOS]:
            assert match.forced() == token
            match.push(token)
        assert match.ended


# --- all at once


@pytest.mark.parametrize("seed", range(30))
def test_random_company_changes_nothing(seed: int) -> None:
    """With budgets and without, few pages, preemptions, cancels, guesses, overlap or not: each says what it says alone."""
    dice = Random(seed)
    run = Drive(
        spec(pages=dice.choice([14, 20, 64]), page_size=2, slots=4, context=24, eos=(EOS,)),
        grammars=GRAMMARS,
        overlap=dice.random() < 0.5,
        step_tokens=dice.choice([3, 8, 64]),
    )
    if dice.random() < 0.5:
        run.scheduler.guesser = Prophet(dice, 0.8, 3)
    asked: dict[int, tuple[ThinkingBudget, list[int], int, int]] = {}
    for number in range(12):
        prompt = [dice.randrange(47) for _ in range(dice.randint(1, 8))]
        budget = dice.choice(BUDGETS)(dice.choice([0, 1, 3, 6, 999]), opened=dice.random() < 0.7)
        most, start = dice.randint(1, 12), dice.randrange(100)
        asked[number] = budget, prompt, start, most
        if isinstance(run.scheduler.guesser, Prophet):
            run.scheduler.guesser.truths.append([*prompt, *alone(budget, start, most, prompt)])
        told = None if budget.tokens == 999 else budget
        run.submit(submit(prompt, number, seed=start, max_tokens=most, priority=dice.randint(0, 1), thinking=told))
        for _ in range(dice.randint(0, 3)):
            run.step()
        if dice.random() < 0.2:
            run.scheduler.cancel("front", dice.randrange(number + 1))
    run.run()
    for number, (budget, prompt, start, most) in asked.items():
        whole = alone(budget, start, most, prompt)
        if run.ends["front", number].reason == "cancelled":
            assert said(run, number) == whole[: len(said(run, number))]
        else:
            assert said(run, number) == whole
