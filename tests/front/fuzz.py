"""Random texts over each family's alphabet of tags, heads and fragments, read in any portions under random rules.

    python -m tests.front.fuzz --texts 100000 --seed 0 [--only Hermes,Qwen3]

What must hold of each: no exception; each text of a piece stands where the piece says, in order, nothing twice; what is in
no piece is a tag, a gap beside one, or a call that reads back as what was given; and all of it is the same however the
text was cut. One text in ten is such as a grammar allows, cut off anywhere: what is given of it is the beginning of what
the whole text gives.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from radixmill.front.dialects import Callee, Dialect
from tests.front.dialect_kit import NOW, PARIS, TOOLS, Case, every_char, families, fault, name_of, plain

WORDS = (
    "a",
    "so ",
    "Paris",
    "é",
    "日本",
    "😀",
    "\u2028",
    "\\",
    "\\n",
    "0",
    "-1",
    "true",
    "null",
    "<",
    ">",
    "</",
    "|",
    "=",
    "`",
    "```json\n",
)
LONG = ("0x" + "f" * 300, "+" + "9" * 400, "1_0" + "0" * 400, "9" * 5000)  # numbers beyond floats, or what Python reads
BITS = (
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    ":",
    ",",
    ";",
    "(",
    ")",
    '{"',
    '"}',
    "{}",
    "[]",
    '"a"',
    '{"a": 1}',
    '"name": "now"',
    '{"name": "now"}',
    '{"\\ud800": 1}',
)
SPACES = ("\n", " ", "\n\n", "\t", " \n")
CALLS = (
    NOW,
    PARIS,
    ("get_weather", {"city": ""}),
    ("get_weather", {"city": 'a "b" <c> [d] {e} é\n'}),
    ("note", {"input": "x\ny"}),
    ("unknown", {"a": [1, {"b": None}]}),
)  # fmt: skip
TOOL_SETS: tuple[dict[str, Callee], ...] = (TOOLS, TOOLS, TOOLS, {}, {"now": TOOLS["now"]}, {"get_weather": Callee()})


class Part(NamedTuple):
    """A fragment of a text. `real`: literals of control tokens in it are such tokens, not letters."""

    text: str
    real: bool


@dataclass(frozen=True)
class Alphabet:
    """What texts of a family are made of."""

    dialect: Dialect
    tags: tuple[str, ...]
    calls: tuple[str, ...]
    heads: tuple[str, ...]
    answers: tuple[str, ...]

    @classmethod
    def of(cls, dialect: Dialect) -> Alphabet:
        calls = dialect.calls
        sections = [
            calls.all_written(some) for some in ([NOW], [PARIS], [PARIS, NOW], [NOW, CALLS[3]], [NOW, CALLS[5], NOW])
        ]
        answers = [
            answered(dialect, why, said, run) for why in ("", "why") for said in ("", "so") for run in sections[:3]
        ]
        return cls(
            dialect,
            tuple(sorted(dialect.tags)),
            tuple(sections + [calls.written(*call) for call in CALLS]),
            tuple([calls.head(name) for name in ("now", "get_weather", "unknown")] + [calls.tail()]),
            (dialect.example or "so", *answers),
        )

    def fragments(self, dice: random.Random) -> list[Part]:
        """A text in parts."""
        kinds: Sequence[Callable[[random.Random], str]] = (
            lambda dice: dice.choice(self.tags),
            lambda dice: dice.choice(self.tags),
            lambda dice: _part(dice, dice.choice(self.tags)),
            lambda dice: dice.choice(self.calls),
            lambda dice: _part(dice, dice.choice(self.calls)),
            lambda dice: _hurt(dice, dice.choice(self.calls)),
            lambda dice: dice.choice(self.calls).replace("3", dice.choice(LONG)),
            lambda dice: dice.choice(self.heads),
            lambda dice: dice.choice(WORDS),
            lambda dice: dice.choice((*BITS, *LONG)),
            lambda dice: dice.choice(SPACES),
        )
        parts = [dice.choice(kinds)(dice) for _ in range(dice.randint(0, 7))]
        if dice.random() < 0.1:
            parts.insert(0, _hurt(dice, dice.choice(self.answers)))
        return [Part(part, dice.random() < 0.85) for part in parts]


def answered(dialect: Dialect, why: str, said: str, calls: str) -> str:
    """An answer as the family writes it."""
    think = f"{dialect.think.open}{why}{dialect.think.close}{dialect.turn}" if why and dialect.think else ""
    content = f"{''.join(dialect.answer_opens[:1])}{said}{dialect.answer_close}" if said else ""
    return think + content + calls


def _part(dice: random.Random, text: str) -> str:
    start, stop = sorted((dice.randint(0, len(text)), dice.randint(0, len(text))))
    return dice.choice((text[:stop], text[start:], text[start:stop]))


def _hurt(dice: random.Random, text: str) -> str:
    """With one character gone, doubled or another."""
    at = dice.randrange(len(text))
    return text[:at] + dice.choice(("", text[at] * 2, dice.choice(WORDS), dice.choice(BITS))) + text[at + 1 :]


def drawn(alphabet: Alphabet, dice: random.Random) -> tuple[Case, list[Part]]:
    """A text under some rules, and the parts that it was made of."""
    parts = alphabet.fragments(dice)
    rules = {
        "opened": dice.random() < 0.3,
        "separate": dice.random() < 0.85,
        "whole_thoughts": dice.random() < 0.15,
        "one_call": dice.random() < 0.1,
        "calls_first": dice.random() < 0.1,
    }
    exact = frozenset(tag for tag in alphabet.tags if dice.random() < 0.5) if dice.random() < 0.3 else frozenset()
    case = Case(
        alphabet.dialect, "", dice.choice(TOOL_SETS), {k: v for k, v in rules.items() if v or k == "separate"}, exact
    )
    return _with_text(case, parts), parts


def _with_text(case: Case, parts: Sequence[Part]) -> Case:
    marks, at = set[int](), 0
    for text, real in parts:
        marks |= {at + match.start() for tag in case.exact if real for match in re.finditer(re.escape(tag), text)}
        at += len(text)
    return replace(case, text="".join(part.text for part in parts), marks=frozenset(marks))


def cuts_of(text: str, dice: random.Random) -> list[Sequence[int]]:
    """Every character, or a few places."""
    few = sorted(dice.randint(0, len(text)) for _ in range(dice.randint(1, 6)))
    return [every_char(text)] if dice.random() < 0.4 else [few]


def wrong_with(case: Case, cuts: Sequence[Sequence[int]]) -> str:
    try:
        return fault(case, cuts)
    except Exception:
        return traceback.format_exc()


def shrunk(case: Case, parts: list[Part]) -> Case:
    """The same fault in less text: parts taken away, then characters, as long as one stays."""

    def fails(parts: Sequence[Part]) -> bool:
        made = _with_text(case, parts)
        return bool(wrong_with(made, [every_char(made.text)]))

    if not fails(parts):
        return case
    parts = _less(parts, fails)
    if not case.exact:
        parts = _less([Part(char, real) for text, real in parts for char in text], fails)
    return _with_text(case, parts)


def _less(parts: list[Part], fails: Callable[[Sequence[Part]], bool]) -> list[Part]:
    size = len(parts)
    while size:
        at = 0
        while at < len(parts):
            less = [*parts[:at], *parts[at + size :]]
            if fails(less):
                parts = less
            else:
                at += size
        size //= 2
    return parts


def promised(alphabet: Alphabet, dice: random.Random) -> str:
    """What is wrong with how a text is read that a grammar allows; it is cut off anywhere. "": nothing."""
    dialect, only = alphabet.dialect, dice.random() < 0.5
    calls = list(dice.choices(CALLS[:-1], k=dice.randint(1, 3)))
    text = answered(
        dialect, dice.choice(("", "why")), "" if only else dice.choice(("", "so ")), dialect.calls.all_written(calls)
    )
    rules = {"guaranteed": True, "only_calls": only, "whole_thoughts": dice.random() < 0.2}
    exact = frozenset(dialect.tags) if dice.random() < 0.3 else frozenset[str]()
    tools = {name: tool._replace(bound=True) for name, tool in TOOLS.items()}
    whole = _with_text(Case(dialect, text, tools, rules, exact), [Part(text, True)])
    cut = replace(whole, text=text[: dice.randint(0, len(text))])
    try:
        return _broken_promise(whole, calls) or _other_beginning(whole, cut, cuts_of(cut.text, dice))
    except Exception:
        return f"{cut}\n{traceback.format_exc()}"


def _broken_promise(case: Case, calls: Sequence[tuple[str, Any]]) -> str:
    found = [(name, text) for kind, name, *text in map(tuple, plain(case.read()[0])) if kind == "call"]
    read = [(name, text[0] if name == "note" else json.loads(text[0])) for name, text in found]
    wanted = [(name, given["input"] if name == "note" else given) for name, given in calls]
    return "" if read == wanted else f"{case}\n{read} are not {wanted}"


def _other_beginning(whole: Case, cut: Case, cuts: Sequence[Sequence[int]]) -> str:
    given = plain(cut.read()[0])
    for places in cuts:
        if (again := plain(cut.read(places)[0])) != given:
            return f"{cut}\n cut at {list(places)}: {again}, not {given}"
    every = plain(whole.read()[0])
    if not _is_beginning(given, every):
        return f"{cut}\n{given} are not the beginning of {every}"
    told = [name for kind, name, *_ in every if kind == "call"]
    if whole.rules["only_calls"] and "note" not in told and any(kind == "said" for kind, *_ in given):
        return f"{cut}\n{given} shows what can only be of a call"
    return ""


def _is_beginning(given: list[tuple[str, ...]], every: list[tuple[str, ...]]) -> bool:
    """The last may be the raw text of a tag or a call that was cut off."""
    if not given:
        return True
    *before, last = given
    return before == every[: len(before)] and (last[0] != "call" or _begins(last, every[len(before)]))


def _begins(part: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    return part[:-1] == whole[:-1] and whole[-1].startswith(part[-1])


def faults(dialect: Dialect, texts: int, seed: int) -> Iterator[str]:
    """What is wrong with any of so many texts of a family."""
    dice, alphabet = random.Random(f"{seed}/{name_of(dialect)}"), Alphabet.of(dialect)
    for _ in range(texts):
        if dice.random() < 0.1:
            if wrong := promised(alphabet, dice):
                yield wrong
            continue
        case, parts = drawn(alphabet, dice)
        cuts = cuts_of(case.text, dice)
        if wrong_with(case, cuts):
            least = shrunk(case, parts)
            wrong = wrong_with(least, [*cuts, every_char(least.text)]) or wrong_with(case, cuts)
            yield f"{name_of(dialect)} {least.text!r}\n tools={[*least.tools]} rules={least.rules} exact={set(least.exact)} marks={set(least.marks)}\n{wrong}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000, help="of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of families, with commas between them")
    parser.add_argument("--show", type=int, default=5, help="faults of a family to print; then it stops")
    options = parser.parse_args(arguments)
    only, bad = options.only.split(",") if options.only else [], 0
    for dialect in families():
        if only and name_of(dialect) not in only:
            continue
        began, found = time.perf_counter(), 0
        for wrong in faults(dialect, options.texts, options.seed):
            found += 1
            print(wrong, flush=True)
            if found == options.show:
                break
        bad += found
        print(
            f"{name_of(dialect)}: {options.texts:,} texts, {found} faults, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
