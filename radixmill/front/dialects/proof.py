"""Whether a dialect reads a text as what it says: the same thought and the same calls, however the text is cut.

    sample    a text that a model of the family would write, and what it says: a thought, a text, two calls
    proof     it was read whole, character by character, in two parts for every place of a cut, and token by token:
              each time the same, and what the sample says

Knows strings only. Where samples come from is for others to know (session/detect.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from radixmill.front.dialects.calls.base import Callee
from radixmill.front.dialects.dialect import Dialect
from radixmill.front.dialects.pieces import Called, Passed, Piece, Said, Thought
from radixmill.front.dialects.splitter import Rules, Splitter

Subject = Literal["thoughts", "calls"]
Basis = Literal["template", "tags", "text"]
"""What a proof stands on.

template   the model's own chat template wrote the text
tags       the template writes no thoughts; their tags stand in the vocabulary or in the template's source
text       the text was written here: by the family's form, or by hand from the vendor's documentation
"""

Call = tuple[str, Mapping[str, Any]]
THOUGHT = "why…\n\nand how"
ANSWER = "so be it"
CALLS: tuple[Call, ...] = (("get_weather", {"city": "Paris", "days": 3}), ("now", {}))
PARAMETERS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "the city"},
            "days": {"type": "integer", "description": "how many days"},
        },
        "required": ["city", "days"],
    },
    "now": {"type": "object", "properties": {}},
}
CALLEES = {name: Callee("object", parameters) for name, parameters in PARAMETERS.items()}
SHOWN = 160  # characters of a text in an explanation


class Token(NamedTuple):
    """A token's part of a text. `control`: its literal, where it is a control token."""

    text: str
    control: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A text that follows `prompt`, and what it says. `tokens`: the same text as the model's tokenizer cuts it;
    `exact`: literals of its control tokens."""

    text: str
    prompt: str = ""
    thought: str = ""
    said: str = ""
    calls: tuple[Call, ...] = ()
    tokens: tuple[Token, ...] = ()
    exact: frozenset[str] = frozenset()

    def opens(self, dialect: Dialect) -> bool:
        """Whether the prompt ended within thoughts. Where there are none, they were closed before."""
        if (think := dialect.think) is None or not self.thought:
            return False
        end = self.prompt.rstrip()
        return end.endswith(think.open.rstrip()) or (think.assumed and not end.endswith(think.close.rstrip()))


@dataclass(frozen=True, slots=True)
class Proof:
    """One finding. `explanation`: what was read; where it is not what the text says, both."""

    subject: Subject
    basis: Basis
    passed: bool
    explanation: str
    text: str


Part = tuple[str, ...]  # ("thought", text), ("text", text) or ("call", name, arguments)


def prove(dialect: Dialect, samples: Sequence[Sample], bases: Mapping[Subject, Basis]) -> tuple[Proof, ...]:
    """A proof for each of the subjects: all samples read in all portions. The first that fails is told."""
    wholes = [_read(dialect, sample, [sample.text]) for sample in samples]
    unsteady = [_unsteady(dialect, *seen) for seen in zip(samples, wholes, strict=True)]
    proofs = []
    for subject, basis in bases.items():
        wrong = [_fault(subject, *seen) for seen in zip(samples, wholes, strict=True)]
        faults = [one or other for one, other in zip(wrong, unsteady, strict=True)]
        at = next((i for i, fault in enumerate(faults) if fault), 0)
        seen = f"read as {_shown(_expected(samples[0], subject))}, however it is cut"
        proofs.append(Proof(subject, basis, not faults[at], faults[at] or seen, samples[at].text))
    return tuple(proofs)


def reads(dialect: Dialect, samples: Iterable[Sample], subject: Subject) -> bool:
    """The same of whole texts only: quick, for candidates."""
    return all(_matches(_read(dialect, sample, [sample.text]), sample, subject) for sample in samples)


def stated(dialect: Dialect | type[Dialect]) -> Sample:
    """The two calls in one answer, as the family's form writes them."""
    return Sample(text=dialect.calls.all_written(CALLS), calls=CALLS)


def documented(dialect: Dialect) -> Sample:
    """The answer in the words of the vendor's documentation."""
    return Sample(text=dialect.example, thought="why" if dialect.think else "", calls=CALLS)


def _fault(subject: Subject, sample: Sample, whole: list[Part]) -> str:
    """How what was read differs from what the sample says; "": not at all."""
    if _matches(whole, sample, subject):
        return ""
    return _difference(_expected(sample, subject), whole, sample.text)


def _unsteady(dialect: Dialect, sample: Sample, whole: list[Part]) -> str:
    """Portions in which it is read differently; "": none."""
    for how, portions in _portions(sample.text):
        if (parts := _read(dialect, sample, portions)) != whole:
            return f"{how}: {_difference(whole, parts, sample.text)}"
    if sample.tokens and (parts := _read_tokens(dialect, sample)) != whole:
        return f"token by token: {_difference(whole, parts, sample.text)}"
    return ""


def _portions(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    yield "character by character", text
    for at in range(1, len(text)):
        yield f"cut at character {at}", (text[:at], text[at:])


def _read(dialect: Dialect, sample: Sample, portions: Iterable[str]) -> list[Part]:
    splitter = Splitter(dialect, CALLEES, Rules(opened=sample.opens(dialect)))
    pieces: list[Piece] = []
    for portion in portions:
        pieces += splitter.push(portion)
    return _parts(pieces + splitter.finish())


def _read_tokens(dialect: Dialect, sample: Sample) -> list[Part]:
    """As answers are read: control tokens count by what they are, not by their letters."""
    splitter = Splitter(dialect, CALLEES, Rules(opened=sample.opens(dialect)), exact=sample.exact)
    pieces: list[Piece] = []
    at = 0
    for token in sample.tokens:
        at += len(token.text)
        if token.control and any(token.control in tag for tag in dialect.tags):
            splitter.mark(at - len(token.control))
        pieces += splitter.push(token.text)
    return _parts(pieces + splitter.finish())


def _parts(pieces: Iterable[Piece]) -> list[Part]:
    """Pieces of one kind joined; white space is nothing."""
    out: list[Part] = []
    for piece in pieces:
        match piece:
            case Thought(text):
                _add(out, "thought", text)
            case Said(text):
                _add(out, "text", text)
            case Called(name=name):
                out.append(("call", name, ""))
            case Passed(text=text):
                out[-1] = (*out[-1][:-1], out[-1][-1] + text)
    return [part for part in ((*part[:-1], part[-1].strip()) for part in out) if any(part[1:])]


def _add(out: list[Part], kind: str, text: str) -> None:
    if out and out[-1][0] == kind:
        out[-1] = (kind, out[-1][1] + text)
    else:
        out.append((kind, text))


def _matches(parts: list[Part], sample: Sample, subject: Subject) -> bool:
    """Whether they are what the sample says, as far as the subject goes."""
    return [_value(part) for part in _of(subject, parts)] == [_value(part) for part in _expected(sample, subject)]


def _of(subject: Subject, parts: Iterable[Part]) -> list[Part]:
    """A proof of thoughts looks at them alone, one of calls at all that is none."""
    return [part for part in parts if (part[0] == "thought") == (subject == "thoughts")]


def _expected(sample: Sample, subject: Subject) -> list[Part]:
    calls = [("call", name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in sample.calls]
    plain = [("thought", sample.thought), ("text", sample.said)]
    return _of(subject, [*(part for part in plain if part[1]), *calls])


def _value(part: Part) -> Part:
    """Arguments by what they mean: `3` is not `3.0`, the order of members is nothing."""
    if part[0] != "call":
        return part
    try:
        return (*part[:-1], json.dumps(json.loads(part[-1]), sort_keys=True))
    except ValueError:
        return part


def _difference(expected: Iterable[Part], read: Iterable[Part], text: str) -> str:
    return f"expected {_shown(expected)}, but read {_shown(read)}, from {_short(text)}"


def _shown(parts: Iterable[Part]) -> str:
    shown = [f"{kind} {_short(' '.join(rest)) if kind != 'call' else ' '.join(rest)}" for kind, *rest in parts]
    return ", ".join(shown) or "nothing"


def _short(text: str) -> str:
    """Quoted, the middle left out where it is long."""
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
    return json.dumps(text, ensure_ascii=False)
