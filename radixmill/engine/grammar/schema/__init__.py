"""A client's JSON Schema → a schema that the grammar library (llguidance) compiles to exactly the same values.

Nothing that the client's schema rejects gets through, and what can't be written without a loss is refused with the
keyword and its place. The library alone refuses most uses of `oneOf`, `not`, `dependencies` and unknown `format`s;
here the schema is opened into cases first (`cases`), and written again from them (`forms`, `writer`).

`format`s that the library knows are enforced; others are annotations, as the standard says. `$ref`s are followed
within the schema; nothing is fetched. Members come in the order in which the schema first names them.
"""

from __future__ import annotations

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.schema.cases import MAX_BRANCHES, MAX_WORK, CaseAnalysis
from radixmill.engine.grammar.schema.formats import RAW_FORMATS
from radixmill.engine.grammar.schema.read import MAX_COUNT
from radixmill.engine.grammar.schema.regex import without, write
from radixmill.engine.grammar.schema.shapes import STRING, Literal, Strings
from radixmill.engine.grammar.schema.source import MAX_BYTES, MAX_DEPTH, MAX_VALUES, Document, read_json
from radixmill.engine.grammar.schema.writer import LAYOUT, Writer

__all__ = [
    "LAYOUT",
    "MAX_BRANCHES",
    "MAX_BYTES",
    "MAX_COUNT",
    "MAX_DEPTH",
    "MAX_VALUES",
    "MAX_WORK",
    "RAW_FORMATS",
    "Strings",
    "normalise",
    "strings_of",
    "without",
    "write",
]


def normalise(text: str, *, space: str = LAYOUT) -> str:
    """The schema in `text`, as JSON text for `LLMatcher.grammar_from_json_schema`. `space`: a regular expression of what
    may stand between two tokens of JSON. Raises `GrammarError`."""
    document = Document(read_json(text))
    cases = CaseAnalysis(document)
    try:
        return Writer(cases, space).write((Literal(document.top(), True),))
    except RecursionError:
        raise GrammarError("$ref or allOf: schemas within schemas go too deep") from None


def strings_of(text: str) -> list[tuple[Strings, list[str] | None]]:
    """The kinds of strings that the schema in `text` takes, each with its values where it lists them. Raises
    `GrammarError` where there are none."""
    document = Document(read_json(text))
    cases = CaseAnalysis(document)
    try:
        branches = cases.branches((Literal(document.top(), True),))
    except RecursionError:
        raise GrammarError("$ref or allOf: schemas within schemas go too deep") from None
    shapes = [branch.strings for branch in branches if STRING in branch.types]
    if not shapes:
        raise GrammarError("no string satisfies the schema")
    return [(shape, cases.values(shape)) for shape in shapes]
