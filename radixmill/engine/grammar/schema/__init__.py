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
from radixmill.engine.grammar.schema.read import MAX_COUNT
from radixmill.engine.grammar.schema.shapes import Literal
from radixmill.engine.grammar.schema.source import MAX_BYTES, MAX_DEPTH, MAX_VALUES, Document, read_json
from radixmill.engine.grammar.schema.writer import Writer

__all__ = ["MAX_BRANCHES", "MAX_BYTES", "MAX_COUNT", "MAX_DEPTH", "MAX_VALUES", "MAX_WORK", "normalise"]


def normalise(text: str) -> str:
    """The schema in `text`, as JSON text for `LLMatcher.grammar_from_json_schema`. Raises `GrammarError`."""
    document = Document(read_json(text))
    cases = CaseAnalysis(document)
    try:
        return Writer(cases).write((Literal(document.top(), True),))
    except RecursionError:
        raise GrammarError("$ref or allOf: schemas within schemas go too deep") from None
