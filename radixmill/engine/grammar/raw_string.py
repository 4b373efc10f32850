"""Strings of a JSON Schema as they stand outside JSON: without quotes, nothing escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.lexemes import quoted
from radixmill.engine.grammar.regex import to_lexeme
from radixmill.engine.grammar.schema import RAW_FORMATS, Strings, strings_of, without, write

ANY = "/(?s:.*)/"


def raw_strings(schema: str, excludes: Iterable[str]) -> str:
    """A lexeme that takes the strings which the schema, JSON text, does, and in which none of `excludes` occurs. Raises
    GrammarError where there are none."""
    kinds = [_lexeme(shape, values) for shape, values in strings_of(schema)]
    return f"(({' | '.join(kinds)}){''.join(f' & {_without(word)}' for word in excludes)})"


def _lexeme(shape: Strings, values: list[str] | None) -> str:
    if shape.fault is not None and values is None:
        raise GrammarError(shape.fault.reason, shape.fault.place)
    limits = [_one_of(values)] if values is not None else list(_sized(shape))
    limits += [to_lexeme(write(pattern)) for pattern in shape.patterns]
    limits += [to_lexeme(RAW_FORMATS[name]) for name in shape.formats]
    limits += [f"~{to_lexeme(write(pattern))}" for pattern, _ in shape.without]
    if shape.never:
        limits.append(f"~{_one_of(sorted(shape.never))}")
    return f"({' & '.join(limits or [ANY])})"


def _without(word: str) -> str:
    """NOTE: not as the opposite of texts with the word, where that can be: together with limits of length such are so
    many states that the library gives up."""
    found = without(word)
    return f"~/(?s:.*){quoted(word)[1:-1]}(?s:.*)/" if found is None else to_lexeme(write(found))


def _sized(shape: Strings) -> Iterator[str]:
    """The limits of length, in characters."""
    if shape.low or shape.high is not None:
        yield to_lexeme(f"(?s:.{{{shape.low},{'' if shape.high is None else shape.high}}})")


def _one_of(texts: list[str]) -> str:
    return f"({' | '.join(map(quoted, texts))})"
