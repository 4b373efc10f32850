"""What may stand in an answer, as formats of structural tags that XGrammar reads (https://xgrammar.mlc.ai/docs).

What calls look like there is their form's to say (`calls/`); here is what stands around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radixmill.front.dialects.calls.base import Format, Target, constant, either, sequence
from radixmill.front.dialects.dialect import Dialect, Thoughts

ANY_ARGUMENTS = {"type": "object"}


def only_calls(dialect: Dialect, targets: Sequence[Target], *, parallel: bool, instead: bool = False) -> Format:
    """One call or, with `parallel`, more, and nothing else. `instead`: of an answer that the client's constraint binds."""
    if instead:
        return dialect.calls.instead(targets, parallel=parallel)
    return dialect.calls.only(targets, parallel=parallel)


def text_and_calls(dialect: Dialect, targets: Sequence[Target], *, parallel: bool) -> Format:
    """Free text, in which calls may begin; where the family marks content: a text or calls, perhaps behind asides."""
    if not dialect.answer_opens:
        return dialect.calls.among_text(targets, parallel=parallel)
    if dialect.answer_bare:
        return answer(dialect, dialect.calls.among_text(targets, parallel=parallel))
    last = either(answer(dialect, _no_calls(dialect)), only_calls(dialect, targets, parallel=parallel))
    if not dialect.aside:
        return last
    ends = tuple(filter(None, (dialect.answer_close, dialect.answer_end, dialect.turn)))
    before = [part(dialect.aside, dialect.answer_close + dialect.turn, (*ends, *dialect.calls.openers))]
    if dialect.think and dialect.think.interleaved:
        before.append(_thoughts(dialect, dialect.think))
    return sequence({"type": "star", "content": either(*before)}, last)


def behind_content(dialect: Dialect, calls: Format, *, free: bool) -> Format:
    """Calls behind content that the prompt has begun. `free`: that may go on, with or without calls behind it."""
    then = sequence(constant(dialect.answer_close + dialect.turn), calls)
    text = _no_calls(dialect)
    return either(text, sequence(text, then)) if free else then


def answer(dialect: Dialect, content: Format) -> Format:
    """Content as the family marks it. What closes it may be a token that ends the answer: it is left to the model."""
    opener = constant("".join(dialect.answer_opens[:1]))
    return sequence({"type": "optional", "content": opener} if dialect.answer_bare else opener, content)


def json_text(schema: Any) -> Format:
    """JSON that matches a JSON Schema, laid out as the model likes."""
    return {"type": "json_schema", "json_schema": schema}


def after_thoughts(dialect: Dialect, then: Format) -> Format:
    """`then`, perhaps behind thoughts; behind any number where an answer has parts."""
    if dialect.think is None:
        return then
    thoughts = _thoughts(dialect, dialect.think)
    return {
        "type": "sequence",
        "elements": [{"type": "star" if dialect.turn else "optional", "content": thoughts}, then],
    }


def part(open: str, close: str, without: Sequence[str] = ()) -> Format:
    """Any text in tags, `without` these."""
    return {"type": "tag", "begin": open, "content": _text(without), "end": close}


def _thoughts(dialect: Dialect, think: Thoughts) -> Format:
    """Without what ends them for a reader before their whole closing tag."""
    return part(think.open, think.close + dialect.turn, (think.close, dialect.turn) if dialect.turn else ())


def _no_calls(dialect: Dialect) -> Format:
    """Any text in which a reader finds no calls."""
    return _text(dialect.calls.openers)


def _text(without: Sequence[str]) -> Format:
    return {"type": "any_text", "excludes": list(without)} if without else {"type": "any_text"}
