"""GBNF, the EBNF of llama.cpp, XGrammar and SGLang: text → rules over characters.

    root  ::= "yes" | item{1,3} ( [^a-z] . )*      # comments; a rule goes on until the next `name ::=`

References: grammars/README.md of llama.cpp, and the grammar syntax of XGrammar, which takes the same with other white
space. Escapes: \\n \\r \\t \\\\ \\" \\[ \\] and other punctuation, \\xHH, \\uHHHH, \\UHHHHHHHH, all of them code points.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from radixmill.engine.grammar.errors import GrammarError

MAX_DEPTH = 100  # parentheses within parentheses
MAX_TIMES = 100_000  # of a repetition

LAST = 0x10FFFF
_HALVES = (0xD800, 0xDFFF)  # no characters

Range = tuple[int, int]  # code points, both ends included


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of these ranges, which are sorted and apart."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """These characters; may be empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Ref:
    name: str


@dataclass(frozen=True, slots=True)
class Seq:
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    item: Expr
    low: int
    high: int | None  # None: no limit


Expr = Chars | Text | Ref | Seq | Alt | Repeat
Rules = dict[str, Expr]


def parse(text: str) -> Rules:
    """The rules by name; `root` is one of them, every name in them is defined, and every rule can end.

    Raises GrammarError with line and column.
    """
    parser = _Parser(text)
    rules = parser.rules()
    if "root" not in rules:
        raise GrammarError("the grammar has no rule named root")
    for name, place in parser.references:
        if name not in rules:
            raise GrammarError(f"the grammar has no rule named {name}", place)
    _refuse_cycles(rules, parser.places)
    return _ending(rules)


def chars(ranges: list[Range], *, negated: bool = False) -> Chars:
    """A class of characters; `negated`: all but these."""
    apart: list[Range] = []
    for low, high in sorted(ranges):
        if apart and low <= apart[-1][1] + 1:
            apart[-1] = (apart[-1][0], max(high, apart[-1][1]))
        else:
            apart.append((low, high))
    if not negated:
        return Chars(tuple(apart))
    starts = [0, *(high + 1 for _, high in apart)]
    ends = [*(low - 1 for low, _ in apart), LAST]
    return Chars(tuple((low, high) for low, high in zip(starts, ends, strict=True) if low <= high))


def children(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Seq(items) | Alt(items):
            return items
        case Repeat(item):
            return (item,)
        case _:
            return ()


def names(expr: Expr) -> Iterator[str]:
    """Rules that `expr` refers to."""
    if isinstance(expr, Ref):
        yield expr.name
    for child in children(expr):
        yield from names(child)


_TOKEN = re.compile(
    r"""(?P<space> (?:[ \t\r\n]+ | \#[^\n]*)+ )
      | (?P<define> ::= )
      | (?P<name> [A-Za-z0-9_] (?: [A-Za-z0-9_-] | \.(?=[A-Za-z0-9_]) )* )
      | (?P<string> "(?: [^"\\\n] | \\. )*" )
      | (?P<set> \[(?: [^\]\\\n] | \\. )*\] )
      | (?P<times> \{ [ \t]* (?P<low>\d*) [ \t]* (?P<comma>,)? [ \t]* (?P<high>\d*) [ \t]* \} )
      | (?P<mark> [()|*+?.] )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([nrtfv0])|([^0-9A-Za-z]))|([^\\])", re.S
)
_NAMED = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_TIMES = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_UNCLOSED = {'"': "a string without its closing quote", "[": "a character class without its closing bracket"}
_FOREIGN = {"<": "tokens in angle brackets", "(=": "look-ahead", "'": "strings in single quotes"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int
    match: re.Match[str]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._cut())
        self._at = 0
        self._depth = 0
        self.references: list[tuple[str, str]] = []  # name, place
        self.places: dict[str, str] = {}  # of rules

    def rules(self) -> Rules:
        rules: Rules = {}
        while self._at < len(self._tokens):
            name = self._tokens[self._at]
            if name.kind != "name" or not self._defines(self._at):
                raise GrammarError("a rule `name ::= …` is expected", self.place(name.at))
            if name.text in rules:
                raise GrammarError(f"there are two rules named {name.text}", self.place(name.at))
            self._at += 2
            self.places[name.text] = self.place(name.at)
            rules[name.text] = self._choice()
        return rules

    def place(self, at: int) -> str:
        line = self._text.count("\n", 0, at) + 1
        return f"line {line}, column {at - self._text.rfind(chr(10), 0, at)}"

    def _cut(self) -> Iterator[_Token]:
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None or self._text.startswith("(=", at):
                raise GrammarError(self._foreign(at), self.place(at))
            kind = next(kind for kind in _KINDS if match[kind] is not None)
            if kind != "space":
                yield _Token(kind, match[0], at, match)
            at = match.end()

    def _foreign(self, at: int) -> str:
        """What is wrong with the text there."""
        for start, what in _FOREIGN.items():
            if self._text.startswith(start, at):
                return f"{what} are not supported"
        return _UNCLOSED.get(self._text[at], f"{self._text[at]!r} is not understood")

    def _defines(self, at: int) -> bool:
        return at + 1 < len(self._tokens) and self._tokens[at + 1].kind == "define"

    def _peek(self) -> _Token | None:
        """The next token of this rule; None at its end."""
        if self._at >= len(self._tokens):
            return None
        token = self._tokens[self._at]
        return None if token.kind == "name" and self._defines(self._at) else token

    def _choice(self) -> Expr:
        items = [self._sequence()]
        while (token := self._peek()) and token.text == "|" and token.kind == "mark":
            self._at += 1
            items.append(self._sequence())
        return items[0] if len(items) == 1 else Alt(tuple(items))

    def _sequence(self) -> Expr:
        items: list[Expr] = []
        while (token := self._peek()) and not (token.kind == "mark" and token.text in "|)"):
            self._at += 1
            if (times := self._times(token)) is not None:
                if not items:
                    raise GrammarError(f"`{token.text}` has nothing to repeat", self.place(token.at))
                items[-1] = Repeat(items[-1], *times)
            else:
                items.append(self._item(token))
        if token and token.text == ")" and not self._depth:
            raise GrammarError("`)` without `(`", self.place(token.at))
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _times(self, token: _Token) -> tuple[int, int | None] | None:
        if token.kind == "mark":
            return _TIMES.get(token.text)
        if token.kind != "times":
            return None
        low, comma, high = token.match["low"], token.match["comma"], token.match["high"]
        if not low and not high:
            raise GrammarError(f"`{token.text}` names no number", self.place(token.at))
        times = int(low or 0), (int(high) if high else None) if comma else int(low)
        if times[1] is not None and times[1] < times[0]:
            raise GrammarError(f"`{token.text}` ends before it begins", self.place(token.at))
        if max(times[0], times[1] or 0) > MAX_TIMES:
            raise GrammarError(f"`{token.text}` repeats more than {MAX_TIMES:,} times", self.place(token.at))
        return times

    def _item(self, token: _Token) -> Expr:
        match token.kind, token.text:
            case "name", name:
                self.references.append((name, self.place(token.at)))
                return Ref(name)
            case "string", text:
                return Text("".join(chr(point) for point in self._points(text[1:-1], token.at + 1)))
            case "set", text:
                return self._set(text[1:-1], token.at + 1)
            case "mark", ".":
                return chars([_HALVES], negated=True)
            case "mark", "(":
                return self._group(token)
        raise GrammarError(f"`{token.text}` is not expected here", self.place(token.at))

    def _group(self, opened: _Token) -> Expr:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise GrammarError(f"parentheses are nested more than {MAX_DEPTH} deep", self.place(opened.at))
        expr = self._choice()
        token = self._peek()
        if token is None or token.text != ")":
            raise GrammarError("`(` without `)`", self.place(opened.at))
        self._at += 1
        self._depth -= 1
        return expr

    def _points(self, text: str, at: int) -> Iterator[int]:
        """The code points that `text`, which stands at `at`, spells."""
        done = 0
        while done < len(text):
            match = _ESCAPE.match(text, done)
            if match is None:
                raise GrammarError(f"the escape {text[done : done + 2]} is unknown", self.place(at + done))
            x, u, long, named, mark, plain = match.groups()
            point = int(x or u or long, 16) if x or u or long else _NAMED[named] if named else ord(mark or plain)
            if point > LAST or _HALVES[0] <= point <= _HALVES[1]:
                raise GrammarError(f"{match[0]} is no character", self.place(at + done))
            yield point
            done = match.end()

    def _set(self, text: str, at: int) -> Chars:
        """What stands between brackets: characters and ranges `a-z`, after a `^` all but them."""
        negated = text.startswith("^")
        text, at = (text[1:], at + 1) if negated else (text, at)
        ranges = []
        for part in _PARTS.finditer(text):
            low, high = part.groups()
            first = next(self._points(low, at + part.start()))
            last = next(self._points(high, at + part.start(2))) if high else first
            if last < first:
                raise GrammarError(f"the range {part[0]} ends before it begins", self.place(at + part.start()))
            ranges.append((first, last))
        made = chars([*ranges, _HALVES], negated=True) if negated else chars(ranges)
        if not made.ranges:
            raise GrammarError("a character class that no character is in", self.place(at - 1))
        return made


_KINDS = ("space", "define", "name", "string", "set", "times", "mark")
_ONE = r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|[^\\]"
_PARTS = re.compile(rf"({_ONE})(?:-({_ONE}))?", re.S)


def _refuse_cycles(rules: Rules, places: dict[str, str]) -> None:
    """A rule that is itself, with nothing besides (`root ::= root`), says nothing. Raises GrammarError."""
    empty = nullable(rules)
    edges = {name: set(_alone(expr, empty)) for name, expr in rules.items()}
    for name in rules:
        seen, ahead = set(), list(edges[name])
        while ahead:
            at = ahead.pop()
            if at == name:
                raise GrammarError(f"the rule {name} leads to itself and adds nothing", places[name])
            if at not in seen:
                seen.add(at)
                ahead += edges[at]


def _alone(expr: Expr, empty: set[str]) -> Iterator[str]:
    """Rules that `expr` may come down to, everything beside them being empty."""
    match expr:
        case Ref(name):
            yield name
        case Alt(items):
            for item in items:
                yield from _alone(item, empty)
        case Seq(items):
            full = [item for item in items if not is_empty(item, empty)]
            for item in items if not full else full if len(full) == 1 else ():
                yield from _alone(item, empty)
        case Repeat(item, low, high):
            if high != 0 and (low <= 1 or is_empty(item, empty)):
                yield from _alone(item, empty)


def grown(rules: Rules, test: Callable[[Expr, set[str]], bool]) -> set[str]:
    """The smallest set of rules with every rule that passes `test`, which is given the set."""
    found: set[str] = set()
    size = -1
    while size < len(found):
        size = len(found)
        for name in reversed(rules):  # what is used mostly stands below its users
            if name not in found and test(rules[name], found):
                found.add(name)
    return found


def nullable(rules: Rules) -> set[str]:
    """Rules that match the empty text."""
    return grown(rules, is_empty)


def is_empty(expr: Expr, empty: set[str]) -> bool:
    """Whether `expr` matches the empty text, if the rules of `empty` do."""
    match expr:
        case Chars():
            return False
        case Text(text):
            return not text
        case Ref(name):
            return name in empty
        case Seq(items):
            return all(is_empty(item, empty) for item in items)
        case Alt(items):
            return any(is_empty(item, empty) for item in items)
        case Repeat(item, low):
            return low == 0 or is_empty(item, empty)


def _ending(rules: Rules) -> Rules:
    """Without the branches that no text ever ends. Raises GrammarError where nothing is left."""
    ends = grown(rules, _ends)
    if "root" not in ends:
        raise GrammarError("no text matches the rule root: it goes on for ever")
    return {name: _pruned(expr, ends) for name, expr in rules.items() if name in ends}


def _ends(expr: Expr, ends: set[str]) -> bool:
    match expr:
        case Ref(name):
            return name in ends
        case Seq(items):
            return all(_ends(item, ends) for item in items)
        case Alt(items):
            return any(_ends(item, ends) for item in items)
        case Repeat(item, low):
            return low == 0 or _ends(item, ends)
        case _:
            return True


def _pruned(expr: Expr, ends: set[str]) -> Expr:
    match expr:
        case Seq(items):
            return Seq(tuple(_pruned(item, ends) for item in items))
        case Alt(items):
            kept = tuple(_pruned(item, ends) for item in items if _ends(item, ends))
            return kept[0] if len(kept) == 1 else Alt(kept)
        case Repeat(item, low, high):
            return Repeat(_pruned(item, ends), low, high) if _ends(item, ends) else Text("")
        case _:
            return expr
