"""What may stand in an answer, as formats of structural tags that XGrammar reads (https://xgrammar.mlc.ai/docs).

What calls look like there is their form's to say (`calls/`); here is what stands around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radixmill.front.dialects.calls.base import Format, Target, constant, either, sequence
from radixmill.front.dialects.dialect import Dialect

ANY_ARGUMENTS = {"type": "object"}
ANY_TEXT = {"type": "any_text"}


def only_calls(dialect: Dialect, targets: Sequence[Target], *, parallel: bool) -> Format:
    """One call or, with `parallel`, more, and nothing else."""
    return dialect.calls.only(targets, parallel=parallel)


def text_and_calls(dialect: Dialect, targets: Sequence[Target], *, parallel: bool) -> Format:
    """Free text, in which calls may begin; where the family marks content: a text or calls, perhaps behind asides."""
    if not dialect.answer_opens:
        return dialect.calls.among_text(targets, parallel=parallel)
    if dialect.answer_bare:
        return answer(dialect, dialect.calls.among_text(targets, parallel=parallel))
    last = either(answer(dialect, ANY_TEXT), only_calls(dialect, targets, parallel=parallel))
    if not dialect.aside:
        return last
    before = [part(dialect.aside, dialect.answer_close + dialect.turn)]
    if dialect.think and dialect.think.interleaved:
        before.append(part(dialect.think.open, dialect.think.close + dialect.turn))
    return sequence({"type": "star", "content": either(*before)}, last)


def behind_content(dialect: Dialect, calls: Format, *, free: bool) -> Format:
    """Calls behind content that the prompt has begun. `free`: that may go on, with or without calls behind it."""
    then = sequence(constant(dialect.answer_close + dialect.turn), calls)
    return either(ANY_TEXT, sequence(ANY_TEXT, then)) if free else then


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
    thoughts = part(dialect.think.open, dialect.think.close + dialect.turn)
    return {
        "type": "sequence",
        "elements": [{"type": "star" if dialect.turn else "optional", "content": thoughts}, then],
    }


def part(open: str, close: str) -> Format:
    """Any text in tags."""
    return {"type": "tag", "begin": open, "content": ANY_TEXT, "end": close}
