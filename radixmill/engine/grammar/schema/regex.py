"""Regular expressions of JSON Schema (ECMA-262, by code points): read, decide, write for the grammar library.

A pattern is searched for in a string. Read here, it becomes a plain expression over the *whole* string, without
anchors, as nested tuples that compare and hash by value:

    ("set", ((lo, hi), ...))   one character of these ranges, sorted, apart, both ends included
    ("cat", (e, ...))          one after another; ("cat", ()) is the empty string
    ("alt", frozenset((e,)))   any one of them
    ("rep", e, lo, hi | None)  from lo to hi times

Questions are answered with Brzozowski derivatives (Derivatives of Regular Expressions, JACM 1964), with fuel: an
answer that costs too much is "unknown", never wrong. What has no exact reading (look-around, back references, word
boundaries, escapes that ECMA-262 and Python read differently) is a `PatternError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Expr = tuple[Any, ...]
Ranges = tuple[tuple[int, int], ...]

TOP = 0x10FFFF
SURROGATES = ((0xD800, 0xDFFF),)
MAX_PATTERN = 4096  # characters
MAX_GROUPS = 40  # groups within groups
MAX_SIDES = 64  # alternatives that anchors may split a pattern into
MAX_NODES = 1000  # of an expression made from an automaton
MAX_STATES = 24  # of such an automaton
FUEL = 200_000  # nodes of derivatives made for all questions of one judge
SHARE = 40_000  # ... and for one question

EMPTY: Expr = ("cat", ())
NOTHING: Expr = ("set", ())
_START, _END = ("start",), ("end",)


class PatternError(ValueError):
    """Why a pattern can't be had exactly: a sentence part."""


class _TooHard(Exception):
    """Out of fuel."""


# ── sets of characters ──────────────────────────────────────────────────────────────────────────────────────────────


def union(*parts: Ranges) -> Ranges:
    merged: list[tuple[int, int]] = []
    for lo, hi in sorted(pair for part in parts for pair in part):
        if merged and lo <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(hi, merged[-1][1]))
        else:
            merged.append((lo, hi))
    return tuple(merged)


def inverse(ranges: Ranges) -> Ranges:
    """All code points but these, and no surrogates: they don't occur in UTF-8."""
    out, at = [], 0
    for lo, hi in union(ranges, SURROGATES):
        if lo > at:
            out.append((at, lo - 1))
        at = hi + 1
    return (*out, (at, TOP)) if at <= TOP else tuple(out)


def _chars(text: str) -> Ranges:
    return union(tuple((ord(c), ord(c)) for c in text))


_DIGIT: Ranges = ((0x30, 0x39),)
_WORD = union(_DIGIT, ((0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)))
_SPACE = union(_chars("\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"), ((0x2000, 0x200A),))
_DOT = inverse(_chars("\n\r\u2028\u2029"))
_CLASSES = {"d": _DIGIT, "D": inverse(_DIGIT), "w": _WORD, "W": inverse(_WORD), "s": _SPACE, "S": inverse(_SPACE)}
_CONTROL = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}

CHAR: Expr = ("set", inverse(()))
ANY: Expr = ("rep", CHAR, 0, None)


# ── building, always in a simplified form ───────────────────────────────────────────────────────────────────────────


def literal(text: str) -> Expr:
    return cat(("set", _chars(c)) for c in text)


def cat(parts: Iterable[Expr]) -> Expr:
    flat: list[Expr] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        more = part[1] if part[0] == "cat" else (part,)
        flat.extend(more[1:] if flat and more and flat[-1] == more[0] == ANY else more)
    return flat[0] if len(flat) == 1 else ("cat", tuple(flat))


def alt(parts: Iterable[Expr]) -> Expr:
    flat: set[Expr] = set()
    for part in parts:
        if part != NOTHING:
            flat.update(part[1] if part[0] == "alt" else (part,))
    if ANY in flat:
        return ANY
    if len(flat) < 2:
        return next(iter(flat), NOTHING)
    return ("alt", frozenset(flat))


def rep(expr: Expr, lo: int, hi: int | None) -> Expr:
    if hi == 0 or expr == EMPTY:
        return EMPTY
    if expr[0] == "rep" and expr[2] == 0 and expr[3] is None:
        return expr
    if expr == NOTHING:
        return EMPTY if lo == 0 else NOTHING
    return expr if (lo, hi) == (1, 1) else ("rep", expr, lo, hi)


def length(lo: int, hi: int | None) -> Expr:
    return rep(CHAR, lo, hi)


def none_of(words: Iterable[str]) -> Expr:
    """Every string but these: along the tree of the words, stop early, leave it, or go on past an end."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for c in word:
            node = node.setdefault(c, {})
        node[""] = True
    return _outside(tree)


def _outside(node: dict[str, Any]) -> Expr:
    steps = [(c, below) for c, below in node.items() if c]
    leave = cat((("set", inverse(_chars("".join(c for c, _ in steps)))), ANY))
    options = [leave, *(cat((literal(c), _outside(below))) for c, below in steps)]
    return alt(options if "" in node else [EMPTY, *options])


def without(word: str) -> Expr | None:
    """Every string that `word` does not occur in. None where its first character occurs in it again."""
    if not word:
        return NOTHING
    first, more = word[0], word[1:]
    if first in more:
        return None
    plain = rep(("set", inverse(_chars(first))), 0, None)
    behind = NOTHING  # the first character and those after it so far
    for c in reversed(more):
        other = cat((("set", inverse(_chars(first + c))), plain))
        behind = alt((EMPTY, other, cat((literal(c), behind))))
    return cat((plain, rep(cat((literal(first), behind)), 0, None)))


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(pattern: str) -> Expr:
    """The whole strings that `pattern` is found in."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"longer than {MAX_PATTERN} characters")
    return whole(_Parser(pattern).read())


def whole(found: Expr) -> Expr:
    """Anchors away: what isn't tied to an end of the string may have anything around it."""
    return alt(cat((EMPTY if left else ANY, body, EMPTY if right else ANY)) for left, body, right in _sides(found))


Side = tuple[bool, Expr, bool]  # tied to the start, the expression, tied to the end


def _sides(expr: Expr) -> list[Side]:
    match expr[0]:
        case "start":
            return [(True, EMPTY, False)]
        case "end":
            return [(False, EMPTY, True)]
        case "alt":
            return [side for part in expr[1] for side in _sides(part)]
        case "rep" if _anchored(expr[1]):
            return _sides_of_repeat(expr)
        case "cat" if _anchored(expr):
            return _sides_in_turn(expr[1])
    return [(False, expr, False)]


def _anchored(expr: Expr) -> bool:
    match expr[0]:
        case "start" | "end":
            return True
        case "rep":
            return _anchored(expr[1])
        case "cat" | "alt":
            return any(map(_anchored, expr[1]))
    return False


def _sides_of_repeat(expr: Expr) -> list[Side]:
    _, body, lo, hi = expr
    if hi != 1:
        raise PatternError("an anchor is repeated")
    return [(False, EMPTY, False), *_sides(body)] if lo == 0 else _sides(body)


def _sides_in_turn(parts: Sequence[Expr]) -> list[Side]:
    done: list[Side] = [(False, EMPTY, False)]
    for part in parts:
        done = [_join(a, b) for a in done for b in _sides(part)]
        if len(done) > MAX_SIDES:
            raise PatternError("too many alternatives with anchors")
    return done


def _join(a: Side, b: Side) -> Side:
    if (a[2] and b[1] != EMPTY) or (b[0] and a[1] != EMPTY):
        raise PatternError("an anchor (^ or $) stands in the middle")
    return (a[0] or b[0], cat((a[1], b[1])), a[2] or b[2])


class _Parser:
    """Recursive descent over the pattern's text."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def read(self) -> Expr:
        expr = self.choice()
        if self.at < len(self.text):
            raise PatternError("a ) without its (")
        return expr

    def peek(self, ahead: int = 1) -> str:
        return self.text[self.at : self.at + ahead]

    def take(self) -> str:
        if self.at >= len(self.text):
            raise PatternError("it ends too early")
        self.at += 1
        return self.text[self.at - 1]

    def skip(self, word: str) -> bool:
        if self.text.startswith(word, self.at):
            self.at += len(word)
            return True
        return False

    def choice(self) -> Expr:
        options = [self.sequence()]
        while self.skip("|"):
            options.append(self.sequence())
        return alt(options)

    def sequence(self) -> Expr:
        parts = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.quantified(self.atom()))
        return cat(parts)

    def quantified(self, expr: Expr) -> Expr:
        counts = self.counts()
        if counts is None:
            return expr
        if self.peek() == "+" or expr[0] in ("start", "end"):
            raise PatternError("a quantifier follows an anchor or a quantifier")
        self.skip("?")  # lazy or not, the language is the same
        return rep(expr, *counts)

    def counts(self) -> tuple[int, int | None] | None:
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.skip(sign):
                return counts
        return self.braces() if self.skip("{") else None

    def braces(self) -> tuple[int, int | None]:
        body, closed, _ = self.text[self.at :].partition("}")
        low, comma, high = body.partition(",")
        if not closed or not _is_count(low) or not (high == "" or _is_count(high)):
            raise PatternError("a { that opens no count")
        self.at += len(body) + 1
        lo, hi = int(low), int(high) if high else None if comma else int(low)
        if hi is not None and hi < lo:
            raise PatternError("a count runs backwards")
        return lo, hi

    def atom(self) -> Expr:
        match self.take():
            case "(":
                return self.group()
            case "[":
                return ("set", self.char_class())
            case ".":
                return ("set", _DOT)
            case "^":
                return _START
            case "$":
                return _END
            case "\\":
                return ("set", self.escape())
            case "*" | "+" | "?" as c:
                raise PatternError(f"{c} follows nothing")
            case "{":
                raise PatternError("a { that opens no count")
            case c:
                return ("set", _chars(c))

    def group(self) -> Expr:
        if self.skip("?"):
            self.group_kind()
        self.depth += 1
        if self.depth > MAX_GROUPS:
            raise PatternError(f"more than {MAX_GROUPS} groups within groups")
        expr = self.choice()
        if not self.skip(")"):
            raise PatternError("a ( without its )")
        self.depth -= 1
        return expr

    def group_kind(self) -> None:
        if self.skip(":"):
            return
        if self.peek() in ("=", "!") or self.peek(2) in ("<=", "<!"):
            raise PatternError("look-around")
        if self.skip("<") or self.skip("P<"):
            name, closed, _ = self.text[self.at :].partition(">")
            if closed and name.isidentifier():
                self.at += len(name) + 1
                return
        raise PatternError("a group of a kind that ECMA-262 doesn't have")

    def property(self) -> str:
        """The braces behind `\\p`, if any stand here."""
        body, closed, _ = self.text[self.at :].partition("}")
        return f"{body}}}"[:40] if closed and body.startswith("{") else ""

    def char_class(self) -> Ranges:
        inverted = self.skip("^")
        if self.peek() == "]":
            raise PatternError("an empty character class")
        parts: list[Ranges] = []
        while not self.skip("]"):
            parts.append(self.class_range())
        ranges = union(*parts)
        return inverse(ranges) if inverted else inverse(inverse(ranges))

    def class_range(self) -> Ranges:
        low = self.class_item()
        if self.peek() != "-" or self.peek(2) in ("-]", "-"):
            return low
        self.take()
        high = self.class_item()
        ends = (*low, *high)
        if len(ends) != 2 or any(lo != hi for lo, hi in ends):
            return union(low, _chars("-"), high)  # ECMA-262 annex B: a class at an end of a range is no range
        if low[0][0] > high[0][0]:
            raise PatternError("a range runs backwards")
        return ((low[0][0], high[0][0]),)

    def class_item(self) -> Ranges:
        c = self.take()
        if c == "\\":
            return ((8, 8),) if self.skip("b") else self.escape()
        return _chars(c)

    def escape(self) -> Ranges:
        c = self.take()
        if c in _CLASSES:
            return _CLASSES[c]
        if c in _CONTROL:
            return _chars(_CONTROL[c])
        if c in "xu":
            return self.code(2 if c == "x" else 4)
        if c == "0" and not self.peek().isdigit():
            return ((0, 0),)
        if c.isalnum():
            raise PatternError(f"\\{c}{self.property()} is not supported")
        return _chars(c)

    def code(self, digits: int) -> Ranges:
        point = self.hex(digits)
        if 0xD800 <= point <= 0xDBFF and self.peek(2) == "\\u":
            self.at += 2
            point = 0x10000 + ((point - 0xD800) << 10) + (self.hex(4) - 0xDC00)
        if not 0 <= point <= TOP:
            raise PatternError("a code point that is none")
        return ((point, point),)

    def hex(self, digits: int) -> int:
        if digits == 4 and self.skip("{"):
            text, closed, _ = self.text[self.at :].partition("}")
            self.at += len(text) + 1
        else:
            text = self.peek(digits)
            self.at += digits
            closed = "}" if len(text) == digits else ""
        if not closed or not 0 < len(text) <= 6 or any(c not in "0123456789abcdefABCDEF" for c in text):
            raise PatternError("an escape without its hexadecimal digits")
        return int(text, 16)


def _is_count(text: str) -> bool:
    return 0 < len(text) <= 9 and text.isascii() and text.isdigit()


# ── deciding ────────────────────────────────────────────────────────────────────────────────────────────────────────


def nullable(expr: Expr) -> bool:
    match expr[0]:
        case "set":
            return False
        case "cat":
            return all(map(nullable, expr[1]))
        case "alt":
            return any(map(nullable, expr[1]))
    return expr[2] == 0 or nullable(expr[1])


class Judge:
    """Answers questions about expressions from one budget; out of fuel, or over one question's share: None."""

    def __init__(self, fuel: int = FUEL) -> None:
        self.fuel = fuel

    def matches(self, expr: Expr, text: str) -> bool | None:
        """Is `text` one of the strings?"""
        with _Question(self) as question:
            for c in text:
                expr = question.after(expr, ord(c))
                if expr == NOTHING:
                    return False
            return nullable(expr)
        return None

    def possible(self, wanted: Iterable[Expr], unwanted: Iterable[Expr] = ()) -> bool | None:
        """Is there a string in all of `wanted` and in none of `unwanted`?"""
        with _Question(self) as question:
            return any(
                all(map(nullable, yes)) and not any(map(nullable, no)) for yes, no in question.walk(wanted, unwanted)
            )
        return None

    def combine(self, wanted: Iterable[Expr], unwanted: Iterable[Expr] = ()) -> Expr | None:
        """One expression for the strings in all of `wanted` and in none of `unwanted`, if it is small."""
        with _Question(self) as question:
            return _eliminate(*question.automaton(wanted, unwanted))
        return None


Both = tuple[tuple[Expr, ...], tuple[Expr, ...]]  # what must match the rest of a string, what must not


class _Question:
    """Derivatives with memory. As a context, it swallows being out of fuel."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.share, self.known = judge, min(SHARE, judge.fuel), dict[tuple[Expr, int], Expr]()

    def __enter__(self) -> _Question:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, _TooHard | RecursionError)

    def spend(self, nodes: int) -> None:
        self.share -= nodes
        self.judge.fuel -= nodes
        if self.share < 0:
            raise _TooHard

    def after(self, expr: Expr, point: int) -> Expr:
        """What may follow once `expr` has begun with the character at `point`."""
        if (expr, point) not in self.known:
            self.known[expr, point] = result = self._after(expr, point)
            self.spend(size(result))
        return self.known[expr, point]

    def _after(self, expr: Expr, point: int) -> Expr:
        match expr[0]:
            case "set":
                return EMPTY if any(lo <= point <= hi for lo, hi in expr[1]) else NOTHING
            case "alt":
                return alt(self.after(part, point) for part in expr[1])
            case "rep":
                _, body, lo, hi = expr
                rest = rep(body, max(lo - 1, 0), None if hi is None else hi - 1)
                return cat((self.after(body, point), rest))
        return self._after_cat(expr[1], point)

    def _after_cat(self, parts: tuple[Expr, ...], point: int) -> Expr:
        options = []
        for index, part in enumerate(parts):
            options.append(cat((self.after(part, point), *parts[index + 1 :])))
            if not nullable(part):
                break
        return alt(options)

    def step(self, state: Both, point: int) -> Both:
        yes, no = (tuple(self.after(expr, point) for expr in side) for side in state)
        return yes, tuple(expr for expr in no if expr != NOTHING)

    def walk(self, wanted: Iterable[Expr], unwanted: Iterable[Expr]) -> Iterator[Both]:
        """All states that some beginning of a string leads to, and that something may follow in."""
        start = (tuple(wanted), tuple(unwanted))
        points = _representatives((*start[0], *start[1]))
        todo, seen = [start], {start}
        while todo:
            state = todo.pop()
            yield state
            for point in points:
                after = self.step(state, point)
                if NOTHING not in after[0] and ANY not in after[1] and after not in seen:
                    seen.add(after)
                    todo.append(after)

    def automaton(self, wanted: Iterable[Expr], unwanted: Iterable[Expr]) -> tuple[dict[tuple[int, int], Expr], int]:
        """Edges between numbered states, 0 the start and 1 the end, and how many states there are."""
        start = (tuple(wanted), tuple(unwanted))
        points = _representatives((*start[0], *start[1]))
        states = {state: number for number, state in enumerate(self.walk(*start), 2)}
        if len(states) > MAX_STATES:
            raise _TooHard
        edges: dict[tuple[int, int], Expr] = {(0, 2): EMPTY}
        for state, number in states.items():
            if all(map(nullable, state[0])) and not any(map(nullable, state[1])):
                edges[number, 1] = EMPTY
            for point, end in zip(points, (*points[1:], TOP + 1), strict=True):
                if (to := states.get(self.step(state, point))) is not None:
                    chars: Expr = ("set", union(edges.get((number, to), NOTHING)[1], ((point, end - 1),)))
                    edges[number, to] = chars
        return edges, len(states) + 2


def _eliminate(edges: dict[tuple[int, int], Expr], count: int) -> Expr:
    """States out of an automaton, one by one, until the one edge left carries the whole (Kleene)."""
    edges = {ends: ("set", inverse(inverse(e[1]))) if e[0] == "set" else e for ends, e in edges.items()}
    for gone in range(count - 1, 1, -1):
        loop = rep(edges.pop((gone, gone), NOTHING), 0, None)
        into = [(a, e) for (a, b), e in edges.items() if b == gone]
        out = [(b, e) for (a, b), e in edges.items() if a == gone]
        edges = {ends: e for ends, e in edges.items() if gone not in ends}
        for a, before in into:
            for b, after in out:
                path = alt((edges.get((a, b), NOTHING), cat((before, loop, after))))
                if size(path) > MAX_NODES:
                    raise _TooHard
                edges[a, b] = path
    return edges.get((0, 1), NOTHING)


def size(expr: Expr) -> int:
    match expr[0]:
        case "cat" | "alt":
            return 1 + sum(map(size, expr[1]))
        case "rep":
            return 1 + size(expr[1])
    return 1


def _representatives(exprs: Iterable[Expr]) -> tuple[int, ...]:
    """One character of each kind that the sets in `exprs` can tell apart: the first of its run."""
    edges = {0, 0xE000}
    todo = list(exprs)
    while todo:
        expr = todo.pop()
        match expr[0]:
            case "set":
                edges.update(edge for lo, hi in expr[1] for edge in (lo, hi + 1))
            case "rep":
                todo.append(expr[1])
            case _:
                todo.extend(expr[1])
    return tuple(sorted(edge for edge in edges if edge <= TOP and not 0xD800 <= edge <= 0xDFFF))


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(expr: Expr) -> str:
    """A pattern for the grammar library (Rust's regex syntax) that the whole string must match."""
    return f"^(?:{_write(expr)})$"


def _write(expr: Expr) -> str:
    match expr[0]:
        case "set":
            return _write_set(expr[1])
        case "cat":
            return "".join(_wrapped(part) if part[0] == "alt" else _write(part) for part in expr[1])
        case "alt":
            return "|".join(sorted(map(_write, expr[1])))
    _, body, lo, hi = expr
    counts = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    own = counts.get((lo, hi)) or f"{{{lo},{'' if hi is None else hi}}}"
    return (_write(body) if body[0] == "set" else _wrapped(body)) + own


def _wrapped(expr: Expr) -> str:
    return f"(?:{_write(expr)})"


def _write_set(ranges: Ranges) -> str:
    if ranges == CHAR[1]:
        return "(?s:.)"
    if not ranges:
        return r"[^\x{0}-\x{10FFFF}]"
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1] and _plain(ranges[0][0]):
        return chr(ranges[0][0])
    return "[" + "".join(_point(lo) if lo == hi else f"{_point(lo)}-{_point(hi)}" for lo, hi in ranges) + "]"


def _plain(point: int) -> bool:
    return point < 128 and chr(point).isalnum()


def _point(point: int) -> str:
    return chr(point) if _plain(point) else f"\\x{{{point:X}}}"
