"""Any text of any family is read without loss, and the same however it is cut; and in time that grows as the text does.

`make fuzz` reads more of the same.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator

import pytest

from radixmill.front.dialects import Called, Dialect, Passed, Said, Splitter, Thought
from tests.front import fuzz
from tests.front.dialect_kit import PARIS, TOOLS, Case, every_char, families, fault, lost, name_of

every_family = pytest.mark.parametrize("dialect", families(), ids=name_of)
TEXTS = 300  # of each family
SIZE = 40_000  # characters of a text that is made to take long
WHOLE = 5.0  # seconds for one of them: far more than it takes, less than if it took the square of its length
LONG, LONG_TAKES = 100_000, 4.0  # characters of an argument, and the same for it


@every_family
def test_random_texts(dialect):
    assert not list(fuzz.faults(dialect, TEXTS, seed=7))


@every_family
def test_the_alphabet_has_all_that_the_family_writes(dialect):
    alphabet, dice = fuzz.Alphabet.of(dialect), random.Random(0)
    text = "\0".join(part.text for _ in range(2000) for part in alphabet.fragments(dice))
    assert not [tag for tag in dialect.tags if tag not in text]
    calls = [Case(dialect, sample).read()[1].calls for sample in alphabet.calls[:3]]
    assert calls == [1, 1, 2]


TEXT = '<think>why</think>\nso <tool_call>\n{"name": "now"}\n</tool_call>'


@pytest.mark.parametrize(
    "pieces",
    [
        [Thought("why", 10), Said("so ", 22)],
        [Thought("why", 10), Said("\nso ", 22)],
        [Thought("why", 10), Said("\nso ", 22), Called(0, "now", False, 40), Passed(0, '{"a": 1}', 41)],
        [Thought("why", 10), Said("\nso ", 22), Called(0, "now", False, 12), Passed(0, "{}", 41)],
        [Thought("why", 10), Thought("why", 10), Said("\nso ", 22), Called(0, "now", False, 40), Passed(0, "{}", 41)],
        [Said("\nso ", 22), Thought("why", 10), Called(0, "now", False, 40), Passed(0, "{}", 41)],
        [Thought("wha", 10), Said("\nso ", 22), Called(0, "now", False, 40), Passed(0, "{}", 41)],
        [Said("\nso ", 22), Called(0, "now", False, 40), Passed(0, "{}", 41)],
        [],
    ],
)  # fmt: skip
def test_the_judge_sees_what_is_lost_or_doubled(pieces):
    assert lost(Case(thinking(), TEXT), pieces, over=False)


def test_the_judge_takes_what_is_right():
    case = Case(thinking(), TEXT)
    assert not lost(case, case.read()[0], over=False)
    assert not fault(case, [every_char(TEXT)])


def thinking() -> Dialect:
    return next(dialect for dialect in families() if name_of(dialect) == "Qwen3")


def test_a_fault_is_found_and_made_small(monkeypatch):
    def forgets(self: Splitter, length: int) -> None:
        if length and (text := self._take(length)) != "]":
            self._pieces.append(Said(text, self.scan.position))

    monkeypatch.setattr(Splitter, "_said", forgets)
    # Texts that a grammar allows stay as they are; of another hardly more than the bracket is left.
    small = next(found for found in fuzz.faults(thinking(), 20_000, seed=0) if len(found.splitlines()[0]) < 60)
    assert "is lost" in small or "cut at" in small


# --- time


def units(dialect: Dialect) -> Iterator[str]:
    """What a text is made of, over and over, to take long."""
    calls = dialect.calls
    yield from sorted(dialect.tags)
    yield from ("[", '{"', "{", "<", " ", "a", "\\", '{"a":')
    yield from (calls.head("now"), calls.head("get_weather")[:-1], calls.written(*PARIS)[:-4], calls.written(*PARIS))
    if dialect.think:
        yield dialect.think.open + dialect.think.close


def beginnings(dialect: Dialect) -> Iterator[str]:
    """What stands before that: nothing, thoughts, arguments, a call within thoughts."""
    call = dialect.calls.written(*PARIS).partition("Paris")[0]
    yield from ("", call)
    if dialect.think:
        yield from (dialect.think.open, dialect.think.open + call)


def slowest(dialect: Dialect, size: int) -> Iterator[Case]:
    for begun in beginnings(dialect):
        for unit in dict.fromkeys(units(dialect)):
            yield Case(dialect, (begun + unit * (size // len(unit) + 1))[:size])


def seconds(case: Case, cuts: Iterable[int] = ()) -> float:
    began = time.process_time()
    case.read(cuts)
    return time.process_time() - began


@every_family
def test_no_text_takes_long(dialect):
    for case in slowest(dialect, SIZE):
        assert seconds(case) < WHOLE, case.text[:80]


@pytest.mark.slow
@every_family
def test_no_text_takes_long_by_the_character(dialect):
    for case in slowest(dialect, SIZE // 4):
        assert seconds(case, every_char(case.text)) < WHOLE, case.text[:80]


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("guaranteed", [False, True], ids=["free", "guaranteed"])
def test_long_arguments_by_the_character(dialect, guaranteed):
    before, city, behind = dialect.calls.all_written([PARIS]).partition("Paris")
    tools = {name: tool._replace(bound=guaranteed) for name, tool in TOOLS.items()}
    for unit in ("a", " ", "a\\n<b> "):
        text = before + (unit * LONG)[:LONG] + behind
        assert city and seconds(Case(dialect, text, tools, {"guaranteed": guaranteed}), every_char(text)) < LONG_TAKES
