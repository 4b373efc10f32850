"""Which dialect a model speaks, and the proof: at start-up, from its template and its vocabulary, or as it is named.

    calls      the family that reads two calls as the template writes them; where it writes none, one whose tags it knows
    thoughts   that family's own, if the template's thought is read by them, or their tags are known; else another's

A template that knows nothing of calls gets the generic dialect: JSON in <tool_call>, told in the system message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from radixmill.core.errors import CannotStart
from radixmill.front.dialects import FAMILIES, Dialect, Thoughts
from radixmill.front.dialects.calls.unread import Unread
from radixmill.front.dialects.proof import ANSWER, THOUGHT, Proof, Sample, Subject, documented, prove, reads, stated
from radixmill.front.session.rehearse import EFFORT, Rehearsal
from radixmill.front.text import TextStack

AUTO, NONE = "auto", "none"
Family = type[Dialect]
GENERIC: Family = Dialect
FIELDS: dict[Subject, str] = {"thoughts": "reasoning_parser", "calls": "tool_call_parser"}
FLAGS: dict[Subject, str] = {subject: "--" + field.replace("_", "-") for subject, field in FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Detected:
    """A model's dialect. `reasoning_parser`, `tool_call_parser`: names of what was chosen, "none" where nothing was;
    `fits`: names of all that read the same. `generic`: tools are told in the system message, in a form of ours."""

    dialect: Dialect
    reasoning_parser: str
    tool_call_parser: str
    proofs: tuple[Proof, ...] = ()
    fits: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # of thoughts, of calls
    families: tuple[str, str] = ("", "")  # theirs, as the code calls them; "": none
    generic: bool = False
    warnings: tuple[str, ...] = ()

    def basis(self, subject: Subject) -> str:
        """What the choice stands on: a Basis, or "generic"; "nothing" where its proof failed, "none" without a choice."""
        proof = next((proof for proof in self.proofs if proof.subject == subject), None)
        if proof is None:
            return "none"
        if not proof.passed:
            return "nothing"
        return "generic" if subject == "calls" and self.generic else proof.basis

    def line(self) -> str:
        """The choice, for the log."""
        thoughts, calls = _WHY[self.basis("thoughts")], _WHY[self.basis("calls")]
        return f"thoughts: {self.reasoning_parser}{thoughts} · tool calls: {self.tool_call_parser}{calls}"


_WHY = {
    "template": " (proved on the chat template)",
    "tags": " (its tags are known; the chat template writes none)",
    "text": " (proved on a text of its family)",
    "generic": " (the chat template knows no calls; tools are told in the system message)",
    "nothing": " (its proof failed)",
    "none": "",
}


def detect_dialect(
    stack: TextStack, reasoning_parser: str = AUTO, tool_call_parser: str = AUTO, *, trust: bool = False
) -> Detected:
    """The dialect of a model. Parsers: a name that a family has, "auto" or "none".

    Raises CannotStart for an unknown name, and for a named parser that does not read what the template writes, unless
    `trust` makes a warning of that.
    """
    detected = _Detection(stack, reasoning_parser, tool_call_parser).result()
    asked: dict[Subject, str] = {"thoughts": reasoning_parser, "calls": tool_call_parser}
    warnings = []
    for proof in detected.proofs:
        if not proof.passed:
            message, hint = _fault(proof, asked[proof.subject], detected.fits)
            if asked[proof.subject] != AUTO and not trust:
                raise CannotStart(message, hint)
            warnings.append(message)
    return replace(detected, warnings=tuple(warnings))


def names_of(family: Family, subject: Subject) -> tuple[str, ...]:
    return family.reasoning_parsers if subject == "thoughts" else family.tool_call_parsers


def families_named(name: str, subject: Subject) -> list[Family]:
    """The families that have this name; none: it is unknown."""
    return [family for family in FAMILIES if name in names_of(family, subject)]


def known_names(subject: Subject) -> list[str]:
    return sorted({name for family in FAMILIES for name in names_of(family, subject)})


class _Detection:
    """One model, and the parsers that were asked for. A family of None reads no calls at all."""

    def __init__(self, stack: TextStack, reasoning_parser: str, tool_call_parser: str) -> None:
        self.made = Rehearsal(stack)
        self.thoughts_asked, self.calls_asked = reasoning_parser, tool_call_parser
        self.fitting = sorted(
            (family for family in FAMILIES if family.think and self._thinks(family)), key=self._unlike
        )
        self.thinkers = self._asked("thoughts", self.fitting)
        readers = [family for family in FAMILIES if self._reads(family)]
        self.readers = sorted(readers, key=lambda family: (self._thinker(family) != _own(family), self._unlike(family)))
        self.callers = self._asked("calls", self.readers)

    def result(self) -> Detected:
        """The first family whose proof of calls passes; else the one that was asked for, or the generic one."""
        if self.calls_asked == NONE:
            return self._detected(None)
        tried = [*self.callers, GENERIC] if self.calls_asked == AUTO else self.callers
        first: Detected | None = None
        for family in tried:
            detected = self._detected(family)
            if all(proof.passed for proof in detected.proofs if proof.subject == "calls"):
                return detected
            first = first or detected
        assert first is not None, "a name without families is refused before"
        return first

    def _asked(self, subject: Subject, fitting: Sequence[Family]) -> list[Family]:
        """The families that are meant and fit; if none does of those that were named, the first of them.

        Raises CannotStart for a name that nobody has.
        """
        name = self.thoughts_asked if subject == "thoughts" else self.calls_asked
        if name in (AUTO, NONE):
            return list(fitting) if name == AUTO else []
        if not (named := families_named(name, subject)):
            known = ", ".join((AUTO, NONE, *known_names(subject)))
            raise CannotStart(f"{FLAGS[subject]} {name}: there is no such parser", f"There are: {known}")
        return [family for family in fitting if family in named] or named[:1]

    def _unlike(self, family: Family) -> tuple[bool, ...]:
        """How little a family's thoughts look like the model's: families that fit are tried in this order, and of those
        that look as much like it the one with the form of calls that all models get, and with names for both, first."""
        think, switches = family.think or Thoughts(), self.made.switches
        strange = bool(switches) and think.switch not in switches
        return strange, think.assumed, family.calls != GENERIC.calls, not family.tool_call_parsers

    def _thinks(self, family: Family) -> bool:
        """Whether the template's thought is read by this family's tags; where it writes none, whether they are known."""
        sample = self.made.thought(family.call_ids)
        return not self._unknown(_think_tags(family)) and (sample is None or reads(family(), [sample], "thoughts"))

    def _unknown(self, tags: Iterable[str]) -> list[str]:
        """Those that stand neither in the vocabulary nor in the template."""
        return [tag for tag in tags if tag.strip() and not self.made.where(tag)]

    def _thinker(self, family: Family | None) -> Family | None:
        """Whose thoughts go with a family's calls: its own if they may, else the likeliest."""
        return family if family in self.thinkers else next(iter(self.thinkers), None)

    def _think(self, thinker: Family | None) -> Thoughts | None:
        """With the switch that the template has, and what holds where it is not set."""
        if thinker is None or thinker.think is None:
            return None
        switches, own = self.made.switches, thinker.think.switch
        switch = own if own in switches else next((one for one in switches if one != EFFORT), "")
        unset, on, off = self.made.prompt(""), self.made.prompt(switch), self.made.prompt(switch, False)
        return replace(thinker.think, switch=switch, default=thinker.think.default if on == off else unset == on)

    # --- calls

    def _reads(self, family: Family) -> bool:
        """Whether calls are read as the template writes them; where it writes none, whether they look as it is told, by
        us, or as far as is known by the template."""
        if samples := self._written(family):
            return reads(self._pair(family), samples, "calls")
        template = self.made.template
        if template is None or not template.takes_tools:
            return family.calls == GENERIC.calls
        return bool(family.calls.tags - {""}) and not self._unknown(family.calls.tags)

    def _written(self, family: Family | None) -> tuple[Sample, ...]:
        """The two calls as the template writes them; for a family whose ids it refuses, with others. Empty: it does not."""
        ids = (family or GENERIC).call_ids
        return self.made.calls(ids) or self.made.calls("ours") or self.made.calls("nine") or self.made.calls("indexed")

    def _pair(self, family: Family | None) -> Dialect:
        """A family's calls with the thoughts that go with them."""
        thinker, form = self._thinker(family), family.calls if family else Unread()
        around = thinker if thinker and thinker.answer_opens else family or GENERIC
        return around(think=self._think(thinker), calls=form)

    # --- proofs

    def _detected(self, family: Family | None) -> Detected:
        dialect, thinker, generic = self._pair(family), self._thinker(family), not self._written(family)
        return Detected(
            dialect,
            reasoning_parser=_name(thinker, "thoughts", self.thoughts_asked) if thinker else NONE,
            tool_call_parser=_name(GENERIC if generic else family, "calls", self.calls_asked) if family else NONE,
            proofs=self._proofs(dialect, family, thinker),
            fits=(_names(self.fitting, "thoughts"), _names(self.readers, "calls")),
            families=(thinker.__name__ if thinker else "", family.__name__ if family else ""),
            generic=generic and family is not None,
        )

    def _proofs(self, dialect: Dialect, family: Family | None, thinker: Family | None) -> tuple[Proof, ...]:
        """Of thoughts, then of calls; both on one text where the template writes one with both."""
        shown = self.made.thought(thinker.call_ids) if thinker else None
        if family and shown and len(shown.calls) > 1 and thinker in self.fitting:
            return prove(dialect, [shown], {"thoughts": "template", "calls": "template"})
        thoughts = (self._thoughts_proof(dialect, thinker, shown),) if thinker else ()
        return thoughts + ((self._calls_proof(dialect, family),) if family else ())

    def _thoughts_proof(self, dialect: Dialect, thinker: Family, shown: Sample | None) -> Proof:
        """On what the template writes, or on the tags behind the prompts that it makes."""
        if shown:
            return prove(dialect, [shown], {"thoughts": "template"})[0]
        if unknown := self._unknown(_think_tags(thinker)):
            return Proof("thoughts", "tags", False, _lost(unknown), "".join(_think_tags(thinker)))
        think = dialect.think or Thoughts()
        prompts = dict.fromkeys([self.made.prompt(""), self.made.prompt(think.switch)])
        [proof] = prove(dialect, [_thinking(think, prompt) for prompt in prompts], {"thoughts": "tags"})
        places = ", ".join(f"{tag!r} in the {self.made.where(tag)}" for tag in _think_tags(thinker))
        return replace(proof, explanation=f"{proof.explanation}; {places}")

    def _calls_proof(self, dialect: Dialect, family: Family) -> Proof:
        """On what the template writes; one that takes no two calls at once writes each alone, and the form both."""
        if written := self._written(family):
            samples = written if len(written) == 1 else (*written, stated(family))
            return prove(dialect, samples, {"calls": "template"})[0]
        return self._untold(dialect, family)

    def _untold(self, dialect: Dialect, family: Family) -> Proof:
        """The proof of calls that no template writes: we tell the model what they look like, and tags must be tokens."""
        if family.calls != GENERIC.calls and (unknown := self._unknown(family.calls.tags)):
            return Proof("calls", "tags", False, _lost(unknown), stated(family).text)
        samples = [stated(family)]
        if family.example and dialect.think == family.think:
            samples.insert(0, documented(family()))
        return prove(dialect, samples, {"calls": "text"})[0]


def _lost(tags: Iterable[str]) -> str:
    return f"{', '.join(map(repr, sorted(tags)))}: not in the vocabulary, and not in the chat template"


def _own(family: Family) -> Family | None:
    return family if family.think else None


def _think_tags(family: Family) -> tuple[str, ...]:
    return (family.think.open, family.think.close) if family.think else ()


def _thinking(think: Thoughts, prompt: str) -> Sample:
    """A thought and an answer behind this prompt, which may have opened the thoughts."""
    opened = prompt.rstrip().endswith(think.open.rstrip())
    text = f"{'' if opened else think.open}{THOUGHT}{think.close}\n\n{ANSWER}"
    return Sample(text=text, prompt=prompt, thought=THOUGHT, said=ANSWER)


def _name(family: Family, subject: Subject, asked: str) -> str:
    """What a family is called; one without a name of its own by that of another with the same form."""
    if asked != AUTO:
        return asked
    alike = (other for other in FAMILIES if names_of(other, subject) and other.calls == family.calls)
    return next(iter(names_of(family, subject) or names_of(next(alike, family), subject)), family.__name__.lower())


def _names(families: Iterable[Family], subject: Subject) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for family in families for name in names_of(family, subject)))


def _fault(proof: Proof, asked: str, fits: tuple[tuple[str, ...], tuple[str, ...]]) -> tuple[str, str]:
    """What to say of a proof that failed, and what to do about it."""
    if asked == AUTO:
        return f"{proof.subject} of this model are read by no parser, and stay text: {proof.explanation}", ""
    names = fits[proof.subject == "calls"]
    fitting = f"What fits: {', '.join(names)}" if names else "None of the parsers fits"
    return (
        f"{FLAGS[proof.subject]} {asked} does not fit this model: {proof.explanation}",
        f"{fitting}. Leave the flag out to have one chosen; --trust-parsers starts all the same",
    )
