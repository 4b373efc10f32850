"""What may stand in an answer, as formats of structural tags that XGrammar reads (https://xgrammar.mlc.ai/docs).

What calls look like there is their form's to say (`calls/`); here is what stands around them.
"""

from __future__ import annotations

from collections.abc import Sequence

from radixmill.front.dialects.calls.base import Format, Target, constant, either, sequence
from radixmill.front.dialects.dialect import Dialect

INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
ANY_ARGUMENTS = {"type": "object"}


def only_calls(dialect: Dialect, targets: Sequence[Target], *, parallel: bool) -> Format:
    """One call or, with `parallel`, more, and nothing else."""
    return dialect.calls.only(targets, parallel=parallel)


def text_and_calls(dialect: Dialect, targets: Sequence[Target], *, parallel: bool) -> Format:
    """Free text, in which calls may begin; where the family marks content: a text or calls."""
    if dialect.answer_opens:
        return either(answer(dialect, {"type": "any_text"}), only_calls(dialect, targets, parallel=parallel))
    return dialect.calls.among_text(targets, parallel=parallel)


def answer(dialect: Dialect, content: Format) -> Format:
    """Content as the family marks it. What closes it may be a token that ends the answer: it is left to the model."""
    return sequence(constant("".join(dialect.answer_opens[:1])), content)


def after_thoughts(dialect: Dialect, then: Format) -> Format:
    """`then`, perhaps behind thoughts."""
    if dialect.think is None:
        return then
    thoughts = {
        "type": "tag",
        "begin": dialect.think.open,
        "content": {"type": "any_text"},
        "end": dialect.think.close + dialect.turn,
    }
    return {"type": "sequence", "elements": [{"type": "optional", "content": thoughts}, then]}
