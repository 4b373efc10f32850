"""Structural tags → Lark: text in which tagged parts follow their own grammars.

    {"type": "structural_tag", "format": …}                    XGrammar's formats, as `_Writer` lists them
    {"type": "structural_tag", "structures": […], "triggers": […]}    the older form: triggered tags, content JSON

Source: "Structural Tag" in XGrammar's documentation; `tags_in_order` and `raw_string` are our own. A literal that is a
control token of the model is taken as that token only; elsewhere control tokens can't occur. Lexemes that stand side by
side are written as one, so that the library's lexer can't cut them wrongly (see lexemes.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count, groupby
from operator import attrgetter
from typing import Any

import msgspec

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.fields import (
    Format,
    ends_of,
    field_of,
    head_of,
    is_whole,
    list_of,
    string_of,
    strings_of,
    tags_of,
)
from radixmill.engine.grammar.gbnf import MAX_TIMES, Alt, Ref, Seq, Text, parse
from radixmill.engine.grammar.lexemes import quoted, times, to_lark
from radixmill.engine.grammar.matcher import RULES
from radixmill.engine.grammar.raw_string import raw_strings
from radixmill.engine.grammar.regex import to_lexeme
from radixmill.engine.grammar.schema import LAYOUT, normalise
from radixmill.engine.grammar.vocabulary import Vocabulary

MAX_DEPTH = 64  # formats within formats


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rule's right side. `lexeme`: it may be a part of a lexeme; otherwise only of a rule.

    `parts`: pieces one behind the other, of which not all are lexemes; written only when their neighbours are known.
    """

    lark: str
    lexeme: bool
    parts: tuple[Piece, ...] = ()


EMPTY = Piece('""', True)


def tags_to_lark(text: str, vocabulary: Vocabulary) -> str:
    """Lark whose rule `start` matches what the structural tag `text` (JSON) says. Raises GrammarError, with a pointer."""
    try:
        tag = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise GrammarError(f"the structural tag is not valid JSON: {error}") from None
    if not isinstance(tag, dict) or tag.get("type", "structural_tag") != "structural_tag":
        raise GrammarError('a structural tag is an object whose "type" is "structural_tag"')
    if "format" in tag:
        form, place = tag["format"], "/format"
    elif "structures" in tag:
        form, place = _of_older_form(tag), ""
    else:
        raise GrammarError('a structural tag needs "format", or "structures" and "triggers"')
    writer = _Writer(vocabulary)
    start = writer.named(writer.format(form, place, ""))
    return "\n".join([f"start: {start}", *writer.lines, ""])


def _of_older_form(tag: Format) -> Format:
    structures = tag["structures"]
    if not isinstance(structures, list):
        raise GrammarError("must be an array", "/structures")
    tags = []
    for index, item in enumerate(structures):
        if not isinstance(item, dict) or not {"begin", "end"} <= set(item):
            raise GrammarError('must be an object with "begin", "schema" and "end"', f"/structures/{index}")
        content = {"type": "json_schema", "json_schema": item.get("schema", True)}
        tags.append({"type": "tag", "begin": item["begin"], "content": content, "end": item["end"]})
    return {"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": tags}


class _Writer:
    """Lark text of one structural tag. Every method that takes a format takes its place, a JSON pointer, too.

    `end` is the text that surely follows: a free text before it stops where it first occurs.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.lines: list[str] = []
        self._numbers = count()
        self._depth = 0
        self._control = vocabulary.literals
        longest = sorted(self._control, key=len, reverse=True)
        self._split = re.compile("|".join(map(re.escape, longest))) if longest else None
        self._formats: dict[str, Callable[[Format, str, str], Piece]] = {
            "const_string": self._const_string,
            "json_schema": self._json_schema,
            "qwen_xml_parameter": self._qwen_xml,
            "regex": self._regex,
            "grammar": self._grammar,
            "any_text": self._any_text,
            "token": self._token,
            "sequence": self._sequence,
            "or": self._or,
            "optional": self._optional,
            "star": self._star,
            "plus": self._plus,
            "repeat": self._repeat,
            "tag": self._tag,
            "triggered_tags": self._triggered_tags,
            "tags_with_separator": self._tags_with_separator,
            "tags_in_order": self._tags_in_order,
            "raw_string": self._raw_string,
        }

    def format(self, form: Any, place: str, end: str) -> Piece:
        """Any format."""
        if not isinstance(form, dict):
            raise GrammarError("a format is an object", place)
        make = self._formats.get(str(form.get("type")))
        if make is None:
            known = ", ".join(self._formats)
            raise GrammarError(f"the format type {form.get('type')!r} is not supported; these are: {known}", place)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise GrammarError(f"formats are nested more than {MAX_DEPTH} deep", place)
        piece = make(form, place, end)
        self._depth -= 1
        return piece

    def named(self, piece: Piece) -> str:
        """`piece` under a name of its own, in the case that fits it."""
        return self._define("TAG", piece.lark) if piece.lexeme else self._define("tag", self._text(piece))

    def _define(self, kind: str, text: str) -> str:
        name = f"{kind}{next(self._numbers)}"
        self.lines.append(f"{name}: {text}")
        return name

    # --- one part of the text

    def _const_string(self, form: Format, place: str, end: str) -> Piece:
        return self._literal(string_of(form, "value", place))

    def _json_schema(self, form: Format, place: str, end: str) -> Piece:
        style = form.get("style", "json")
        if form.get("any_order"):
            raise GrammarError("any_order is not supported: properties come in their order", f"{place}/any_order")
        if style == "qwen_xml":
            return self._qwen_xml(form, place, end)
        if style != "json":
            raise GrammarError(f"the style {style!r} is not supported; json and qwen_xml are", f"{place}/style")
        return self._json(field_of(form, "json_schema", place), f"{place}/json_schema", _space(form, place))

    def _regex(self, form: Format, place: str, end: str) -> Piece:
        return Piece(to_lexeme(string_of(form, "pattern", place)), True)

    def _grammar(self, form: Format, place: str, end: str) -> Piece:
        """What follows a recursive grammar belongs to its analysis: a tag's end is written into it (see `_tagged`)."""
        return self._gbnf(string_of(form, "grammar", place), f"{place}/grammar", [])

    def _any_text(self, form: Format, place: str, end: str) -> Piece:
        for limit in ("max_tokens", "max_chars"):
            if form.get(limit) is not None:
                raise GrammarError(f"{limit} is not supported", f"{place}/{limit}")
        excludes = strings_of(form, "excludes", place) if form.get("excludes") else []
        return self._free([*excludes, *([end] if end else [])])

    def _token(self, form: Format, place: str, end: str) -> Piece:
        token = field_of(form, "token", place)
        if isinstance(token, str):
            token = self._control.get(token, token)
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise GrammarError(f"{token!r} is no control token of this model", f"{place}/token")
        return Piece(f"<[{token}]>", False)

    # --- several

    def _sequence(self, form: Format, place: str, end: str) -> Piece:
        elements = list_of(form, "elements", place)
        ends = [*map(head_of, elements[1:]), end]
        return self._join([self.format(e, f"{place}/elements/{i}", ends[i]) for i, e in enumerate(elements)])

    def _or(self, form: Format, place: str, end: str) -> Piece:
        elements = list_of(form, "elements", place)
        if not elements:
            raise GrammarError("needs at least one element", f"{place}/elements")
        return self._either([self.format(e, f"{place}/elements/{i}", end) for i, e in enumerate(elements)])

    def _optional(self, form: Format, place: str, end: str) -> Piece:
        return self._times(self.format(field_of(form, "content", place), f"{place}/content", end), 0, 1)

    def _star(self, form: Format, place: str, end: str) -> Piece:
        return self._times(self.format(field_of(form, "content", place), f"{place}/content", ""), 0, None)

    def _plus(self, form: Format, place: str, end: str) -> Piece:
        return self._times(self.format(field_of(form, "content", place), f"{place}/content", ""), 1, None)

    def _repeat(self, form: Format, place: str, end: str) -> Piece:
        low, high = field_of(form, "min", place), field_of(form, "max", place)
        if not is_whole(low) or not is_whole(high) or low < 0 or high < -1 or max(low, high) > MAX_TIMES:
            raise GrammarError(f"min and max must be whole numbers up to {MAX_TIMES:,} (max -1: no limit)", place)
        if 0 <= high < low:
            raise GrammarError("max is below min", place)
        content = self.format(field_of(form, "content", place), f"{place}/content", "")
        return self._times(content, low, None if high == -1 else high)

    # --- tags

    def _tag(self, form: Format, place: str, end: str) -> Piece:
        return self._tagged(form, place, field_of(form, "begin", place))

    def _tagged(self, form: Format, place: str, begin: Any) -> Piece:
        """A tag, of whose begin only `begin` is still to come."""
        first = self._edge(begin, f"{place}/begin")
        content, ends = field_of(form, "content", place), ends_of(form, place)
        edges = [self._edge(end, f"{place}/end") for end in ends]
        if all(edge.lexeme for edge in edges) and isinstance(content, dict) and content.get("type") == "grammar":
            text = string_of(content, "grammar", f"{place}/content")
            return self._join([first, self._gbnf(text, f"{place}/content/grammar", ends)])
        texts = [end if isinstance(end, str) else "" for end in ends]
        bodies = [self.format(content, f"{place}/content", text) for text in texts]
        tails = [self._join([body, edge]) for body, edge in zip(bodies, edges, strict=True)]
        return self._join([first, self._either(tails)])

    def _edge(self, edge: Any, place: str) -> Piece:
        """A tag's begin or end: text, or a token."""
        if isinstance(edge, str):
            return self._literal(edge)
        if isinstance(edge, dict) and edge.get("type") == "token":
            return self._token(edge, place, "")
        raise GrammarError('must be a string, or {"type": "token", "token": …}', place)

    def _triggered_tags(self, form: Format, place: str, end: str) -> Piece:
        """Free text; where a trigger occurs in it, one of the tags that begin so."""
        triggers = strings_of(form, "triggers", place)
        if not triggers or not all(triggers):
            raise GrammarError("needs at least one trigger, none of them empty", f"{place}/triggers")
        excludes = strings_of(form, "excludes", place) if form.get("excludes") else []
        stops = [*triggers, *excludes, *([end] if end else [])]
        by_trigger = self._by_trigger(form, place, triggers)
        calls = [self._call(trigger, rests, stops) for trigger, rests in by_trigger.items() if rests]
        call = self._once(self._either(calls))
        text = self._free(stops)
        once, at_least = bool(form.get("stop_after_first")), bool(form.get("at_least_one"))
        if not at_least:
            return self._either([text, call]) if once else self._join([self._times(call, 0, None), text])
        whole = [self.format(tag, f"{place}/tags/{i}", "") for i, tag in enumerate(tags_of(form, place))]
        first = self._either(whole)
        return first if once else self._join([first, self._times(call, 0, None), text])

    def _by_trigger(self, form: Format, place: str, triggers: list[str]) -> dict[str, list[Piece]]:
        """Trigger → the tags that begin with it, without it."""
        found: dict[str, list[Piece]] = {trigger: [] for trigger in triggers}
        for index, tag in enumerate(tags_of(form, place)):
            where = f"{place}/tags/{index}"
            begin = field_of(tag, "begin", where)
            fits = [trigger for trigger in triggers if isinstance(begin, str) and begin.startswith(trigger)]
            if not fits:
                raise GrammarError(f"the tag's begin {begin!r} starts with none of the triggers", f"{where}/begin")
            trigger = min(fits, key=len)  # the one that is complete first
            found[trigger].append(self._tagged(tag, where, begin[len(trigger) :]))
        return found

    def _call(self, trigger: str, rests: list[Piece], stops: list[str]) -> Piece:
        """Free text to the first trigger, that trigger, and the rest of one of its tags."""
        mark = self._literal(trigger)
        head = self._upto(trigger, stops) if mark.lexeme else self._join([self._free(stops), mark])
        return self._join([head, self._either(rests)])

    def _tags_with_separator(self, form: Format, place: str, end: str) -> Piece:
        whole = [self.format(tag, f"{place}/tags/{i}", "") for i, tag in enumerate(tags_of(form, place))]
        if form.get("stop_after_first"):
            tag = self._either(whole)
            return tag if form.get("at_least_one") else self._times(tag, 0, 1)
        # NOTE: separator and begin are one lexeme: what ends the run may begin as the separator does.
        separator = self._literal(string_of(form, "separator", place))
        shared = [self._shared(tag) for tag in whole]
        more = self._times(self._either([self._join([separator, tag]) for tag in shared]), 0, None)
        tags = self._join([self._either(shared), more])
        return tags if form.get("at_least_one") else self._times(tags, 0, 1)

    def _shared(self, piece: Piece) -> Piece:
        """For use in several places: its first part may still become one with what stands before."""
        if piece.lexeme or not piece.parts:
            return self._once(piece)
        return self._join([piece.parts[0], self._once(self._join(piece.parts[1:]))])

    def _tags_in_order(self, form: Format, place: str, end: str) -> Piece:
        """Tags one behind the other; those that are not `required` may be left out.

        NOTE: each is a lexeme of its own, so that the next may be any of the rest. How a tag begins must tell it from
        the others and from what stands behind them all.
        """
        tags, required = tags_of(form, place), list_of(form, "required", place)
        if len(required) != len(tags):
            raise GrammarError("must say of each tag whether it is required", f"{place}/required")
        pieces = [self.format(tag, f"{place}/tags/{i}", "") for i, tag in enumerate(tags)]
        return self._join([self._apart(p, "" if r else "?") for p, r in zip(pieces, required, strict=True)])

    def _apart(self, piece: Piece, times: str) -> Piece:
        """So often, and never one lexeme with its neighbours."""
        return Piece(self.named(piece) + times, False)

    def _raw_string(self, form: Format, place: str, end: str) -> Piece:
        """Text that, as a JSON string, is valid; without `excludes`."""
        excludes = strings_of(form, "excludes", place) if form.get("excludes") else []
        schema = json.dumps(field_of(form, "json_schema", place))
        try:
            return Piece(raw_strings(schema, excludes), True)
        except GrammarError as error:
            raise GrammarError(error.reason, f"{place}/json_schema{error.place}") from None

    # --- JSON, and parameters in XML as Qwen's coder models write them

    def _json(self, schema: Any, place: str, space: str = LAYOUT) -> Piece:
        try:
            return Piece(f"%json {normalise(json.dumps(schema), space=space)}", False)
        except GrammarError as error:
            raise GrammarError(error.reason, place + error.place) from None

    def _qwen_xml(self, form: Format, place: str, end: str) -> Piece:
        """`<parameter=name>`, a line with the value, `</parameter>`, for each property in order; strings are bare."""
        schema, where = field_of(form, "json_schema", place), f"{place}/json_schema"
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise GrammarError("the schema of parameters is an object", where)
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise GrammarError("must be an object", f"{where}/properties")
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        required = schema.get("required", [])
        pieces = [
            self._apart(self._parameter(name, value, shared, where), "" if name in required else "?")
            for name, value in properties.items()
        ]
        if others := schema.get("additionalProperties", not properties):
            pieces.append(self._apart(self._other_parameter(others, shared, where), "*"))
        return self._join(pieces)

    def _parameter(self, name: str, schema: Any, shared: Format, place: str) -> Piece:
        begin = Piece(quoted(f"<parameter={name}>\n"), True)
        return self._join([begin, self._value(schema, shared, f"{place}/properties/{_pointer(name)}")])

    def _other_parameter(self, schema: Any, shared: Format, place: str) -> Piece:
        head = Piece(r"/<parameter=[^>\n]+>\n/", True)
        return self._join([head, self._value(schema, shared, f"{place}/additionalProperties")])

    def _value(self, schema: Any, shared: Format, place: str) -> Piece:
        """A value and what closes it."""
        texts = _bare_texts(schema)
        if texts is None:
            kinds = [self._json({**shared, **schema} if isinstance(schema, dict) else schema, place)]
        elif texts:
            kinds = [Piece(f"({' | '.join(map(quoted, texts))})", True)]
        else:
            kinds = [self._free([_PARAMETER_CLOSE])]
        return self._join([*kinds, _PARAMETER_END])

    # --- Lark

    def _gbnf(self, text: str, place: str, tails: list[str]) -> Piece:
        """An EBNF grammar, with one of the `tails` behind it if there are any."""
        try:
            rules = parse(text)
        except GrammarError as error:
            raise GrammarError(error.reason, f"{place}: {error.place}" if error.place else place) from None
        tail = Alt(tuple(map(Text, tails))) if tails else Text("")
        whole = {**rules, "root'": Seq((Ref("root"), tail))}
        lark = to_lark(whole, "root'", prefix=f"{RULES}{next(self._numbers)}_", open_end=not tails)
        self.lines += lark.lines
        return Piece(lark.name, lark.terminal)

    def _literal(self, text: str) -> Piece:
        """`text`, its control tokens as such."""
        pieces, done = [], 0
        for match in self._split.finditer(text) if self._split else ():
            pieces += [Piece(quoted(text[done : match.start()]), True), Piece(f"<[{self._control[match[0]]}]>", False)]
            done = match.end()
        return self._join([*pieces, Piece(quoted(text[done:]), True)])

    def _free(self, without: list[str]) -> Piece:
        """Any text in which none of these occurs."""
        if not without:
            return Piece("/(?s:.*)/", True)
        return Piece(f"(/(?s:.*)/ & ~/(?s:.*){_any_of(without)}(?s:.*)/)", True)

    def _upto(self, stop: str, stops: list[str]) -> Piece:
        """Any text that ends with `stop`, and in which none of the stops is complete before."""
        return Piece(f"(/(?s:.*){_any_of([stop])}/ & ~/(?s:.*){_any_of(stops)}(?s:.+)/)", True)

    def _join(self, pieces: Iterable[Piece]) -> Piece:
        """One behind the other; all lexemes make one lexeme."""
        parts = [part for piece in pieces for part in piece.parts or (piece,) if part != EMPTY]
        if len(parts) <= 1:
            return parts[0] if parts else EMPTY
        if all(part.lexeme for part in parts):
            return Piece(f"({' '.join(part.lark for part in parts)})", True)
        return Piece("", False, tuple(parts))

    def _text(self, piece: Piece) -> str:
        """`piece` as it stands in a rule: neighbouring lexemes are one."""
        runs = groupby(piece.parts or (piece,), key=attrgetter("lexeme"))
        parts = [self._run(lexeme, " ".join(part.lark for part in run)) for lexeme, run in runs]
        return f"({' '.join(parts)})"

    def _run(self, lexeme: bool, text: str) -> str:
        return self._define("TAG", text) if lexeme else text

    def _either(self, pieces: list[Piece]) -> Piece:
        if len(pieces) == 1:
            return pieces[0]
        lexeme = all(piece.lexeme for piece in pieces)
        return Piece(f"({' | '.join(p.lark if lexeme else self._text(p) for p in pieces)})", lexeme)

    def _times(self, piece: Piece, low: int, high: int | None) -> Piece:
        if (low, high) == (1, 1):
            return piece
        return Piece(f"({piece.lark if piece.lexeme else self._text(piece)}){times(low, high)}", piece.lexeme)

    def _once(self, piece: Piece) -> Piece:
        """Under a name, for use in several places."""
        return Piece(self.named(piece), piece.lexeme)


_PARAMETER_CLOSE = "</parameter>"
_PARAMETER_END = Piece(r"/\n<\/parameter>\s*/", True)


def _bare_texts(schema: Any) -> list[str] | None:
    """Of a schema of strings: the texts that it lists, or [] for any; None for any other schema."""
    if not isinstance(schema, dict):
        return None
    listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(listed, list) and listed and all(isinstance(item, str) for item in listed):
        return listed
    return [] if schema.get("type") == "string" and not listed else None


def _any_of(texts: list[str]) -> str:
    return f"({'|'.join(quoted(text)[1:-1] for text in texts)})"


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _space(form: Format, place: str) -> str:
    """What may stand between two tokens of JSON."""
    if (most := form.get("max_whitespace_cnt")) is None:
        return LAYOUT
    if not is_whole(most) or not 0 <= most <= MAX_TIMES:
        raise GrammarError(f"must be a whole number up to {MAX_TIMES:,}", f"{place}/max_whitespace_cnt")
    return rf"[ \t\r\n]{{0,{most}}}"
