"""Which parts of a grammar become one lexeme each, so that the library's lexer changes nothing; and its text in Lark.

The library cuts the output into lexemes before it parses: always the longest that some lexeme allowed at that place
takes. So `"a" "b" "c" | "ab" "d"` would lose "abc". Single characters as lexemes are always right and always slow.
Here, every part without recursion starts as one lexeme, and is taken apart only where it could be cut wrongly:

    E, F lexemes; u a text of E; c a character that may follow E in the grammar; u·c begins a text of F

Then the longest cut reads on in F although E could have ended. F is taken apart, or E where F is a character already.
Character sets are bits of an int, one for each class of characters that no set of the grammar tells apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from itertools import count, groupby
from operator import or_

from radixmill.engine.grammar.gbnf import (
    LAST,
    Alt,
    Chars,
    Expr,
    Ref,
    Repeat,
    Rules,
    Seq,
    Text,
    children,
    grown,
    is_empty,
    names,
    nullable,
)

_Write = Callable[[Expr], str]

LARGEST = 128  # characters in an expression, repetitions written out, that is still compared with others


@dataclass(frozen=True, slots=True)
class Lark:
    """Text in the library's Lark: `name` matches what the grammar does; `lines` define it and what it refers to."""

    name: str
    lines: tuple[str, ...]
    terminal: bool  # one lexeme, which may be part of a larger one


def to_lark(rules: Rules, start: str = "root", *, prefix: str = "", open_end: bool = False) -> Lark:
    """`rules` in Lark, all names beginning with `prefix`. `open_end`: anything may follow in the same output."""
    analysis = _Analysis(rules, start, open_end)
    analysis.settle()
    writer = _Writer(analysis, prefix)
    name = writer.write(start)
    return Lark(name, tuple(writer.lines), start not in analysis.apart)


class _Analysis:
    """Finds the rules and expressions to take apart."""

    def __init__(self, rules: Rules, start: str, open_end: bool) -> None:
        self.rules, self.start = rules, start
        self.empty = nullable(rules)
        self.apart = _recursive(rules)  # rules that are no lexeme
        self.broken: set[Expr] = set()  # expressions that are none
        self._alphabet = _Alphabet(rules)
        self._open_end = self._alphabet.all if open_end else 0
        self._reach = {name: set(names(expr)) for name, expr in rules.items()}
        self._glushkov: dict[Expr, _Positions | None] = {}
        self._clashes: dict[tuple[Expr, Expr], int] = {}
        self._first: dict[str, int] = dict.fromkeys(rules, 0)
        self._sizes: dict[str, int] = {}
        self._settle_first()

    def settle(self) -> None:
        """Take apart until no lexeme can be cut wrongly. Ends, since each round takes something apart."""
        while wrong := self._wrong(self._following()):
            for expr in wrong:
                self._take_apart(expr)

    def lexeme(self, expr: Expr) -> bool:
        """Whether `expr` is one lexeme."""
        match expr:
            case Chars():
                return True
            case Ref(name):
                return name not in self.apart
            case _:
                return expr not in self.broken and self._plain(expr)

    def parts(self, items: tuple[Expr, ...]) -> list[Expr]:
        """A sequence that is no lexeme: its runs of lexemes as one each, where they may be."""
        found: list[Expr] = []
        for flat, group in groupby(items, key=self.lexeme):
            run = tuple(group)
            found += [Seq(run)] if flat and len(run) > 1 and Seq(run) not in self.broken else run
        return found

    def _plain(self, expr: Expr) -> bool:
        return not any(name in self.apart for name in names(expr))

    def _take_apart(self, expr: Expr) -> None:
        if not isinstance(expr, Ref):
            self.broken |= {expr, _spelled(expr.text)} if isinstance(expr, Text) else {expr}
            return
        self.apart.add(expr.name)
        # A lexeme can't refer to a rule: neither can those that hold this one stay lexemes.
        while new := {name for name, used in self._reach.items() if name not in self.apart and used & self.apart}:
            self.apart |= new

    def _wrong(self, following: dict[Expr, int]) -> set[Expr]:
        wrong: set[Expr] = set()
        for e, after in following.items():
            if not after:
                continue
            for f in following:
                if self.first(e) & self.first(f) and self._clash(e, f) & after:
                    wrong.add(e if isinstance(f, Chars) else f)
        return wrong

    def _following(self) -> dict[Expr, int]:
        """Lexeme → the characters that may come behind it."""
        after = dict.fromkeys(self.rules, 0)
        after[self.start] = self._open_end
        seen = dict.fromkeys(self.rules, -1)
        found: dict[Expr, int] = {}
        ahead = [self.start]
        while ahead:
            name = ahead.pop()
            if seen[name] == after[name]:
                continue
            seen[name] = after[name]
            body = self.rules[name] if name in self.apart else Ref(name)
            ahead += self._walk(body, after[name], after, found)
        return found

    def _walk(self, expr: Expr, then: int, after: dict[str, int], found: dict[Expr, int]) -> Iterator[str]:
        """Note what follows the lexemes of `expr`, which `then` follows; the rules whose own followers grew."""
        if self.lexeme(expr):
            found[expr] = found.get(expr, 0) | then
            return
        match expr:
            case Ref(name):
                after[name] |= then
                yield name
            case Text(text):
                yield from self._walk(_spelled(text), then, after, found)
            case Seq(items):
                for item in reversed(self.parts(items)):
                    yield from self._walk(item, then, after, found)
                    then = self.first(item) | (then if is_empty(item, self.empty) else 0)
            case Alt(items):
                for item in items:
                    yield from self._walk(item, then, after, found)
            case Repeat(item, _, high):
                again = 0 if high == 1 else self.first(item)
                yield from self._walk(item, then | again, after, found)

    def first(self, expr: Expr) -> int:
        """The characters that `expr` may begin with."""
        match expr:
            case Chars():
                return self._alphabet.bits(expr)
            case Text(text):
                return self._alphabet.bit(text[0]) if text else 0
            case Ref(name):
                return self._first[name]
            case Seq(items):
                found = 0
                for item in items:
                    found |= self.first(item)
                    if not is_empty(item, self.empty):
                        break
                return found
            case _:
                return reduce(or_, map(self.first, children(expr)), 0)

    def _settle_first(self) -> None:
        before = None
        while before != (before := sum(map(int.bit_count, self._first.values()))):
            for name in reversed(self.rules):
                self._first[name] = self.first(self.rules[name])

    def _clash(self, e: Expr, f: Expr) -> int:
        """The characters c such that a text u of `e` with c behind it begins a text of `f`."""
        if (e, f) not in self._clashes:
            one, other = self._positions(e), self._positions(f)
            whole = self._alphabet.all  # too large to tell: suppose the worst
            self._clashes[e, f] = whole if one is None or other is None else _clash(one, other)
        return self._clashes[e, f]

    def _positions(self, expr: Expr) -> _Positions | None:
        if expr not in self._glushkov:
            small = self._size(expr) <= LARGEST
            self._glushkov[expr] = _Builder(self.rules, self._alphabet).build(expr) if small else None
        return self._glushkov[expr]

    def _size(self, expr: Expr) -> int:
        """Characters of `expr` with its repetitions and references written out; it has no recursion."""
        match expr:
            case Chars():
                return 1
            case Text(text):
                return len(text)
            case Ref(name):
                if name not in self._sizes:
                    self._sizes[name] = self._size(self.rules[name])
                return self._sizes[name]
            case Repeat(item, low, high):
                return self._size(item) * max(low + 1 if high is None else high, 1)
            case _:
                return sum(map(self._size, children(expr)))


def _recursive(rules: Rules) -> set[str]:
    """Rules that lead to themselves, and those that lead to such."""
    return set(rules) - grown(rules, lambda expr, flat: flat.issuperset(names(expr)))


def _spelled(text: str) -> Expr:
    return Seq(tuple(Chars(((ord(char), ord(char)),)) for char in text))


class _Alphabet:
    """Classes of characters: class i is [edges[i], edges[i + 1])."""

    def __init__(self, rules: Rules) -> None:
        edges = {0, LAST + 1}
        for expr in rules.values():
            for low, high in _ranges(expr):
                edges |= {low, high + 1}
        self._edges = sorted(edges)
        self.all = (1 << len(self._edges) - 1) - 1

    def bits(self, chars: Chars) -> int:
        return reduce(or_, (self._between(low, high + 1) for low, high in chars.ranges), 0)

    def bit(self, char: str) -> int:
        return self._between(ord(char), ord(char) + 1)

    def _between(self, start: int, end: int) -> int:
        return (1 << bisect_left(self._edges, end)) - (1 << bisect_left(self._edges, start))


def _ranges(expr: Expr) -> Iterator[tuple[int, int]]:
    match expr:
        case Chars(ranges):
            yield from ranges
        case Text(text):
            yield from ((ord(char), ord(char)) for char in set(text))
    for child in children(expr):
        yield from _ranges(child)


@dataclass
class _Positions:
    """The places of characters in a regular expression (Glushkov 1961): who may begin, follow whom, and end.

    Sets of places are ints, bit i for place i.
    """

    bits: list[int] = field(default_factory=list)  # of each place, the characters it takes
    next: list[int] = field(default_factory=list)
    first: int = 0
    last: int = 0

    def taking(self, chars: int) -> int:
        """The places that take one of `chars`."""
        return sum(1 << place for place, bits in enumerate(self.bits) if bits & chars)

    def behind(self, places: int) -> int:
        """The places that may follow these."""
        return reduce(or_, (self.next[place] for place in _members(places)), 0)

    def link(self, ends: int, starts: int) -> None:
        """Those may be followed by these."""
        for place in _members(ends):
            self.next[place] |= starts


Part = tuple[int, int, bool]  # places that begin it, that end it; whether it may be empty


class _Builder:
    def __init__(self, rules: Rules, alphabet: _Alphabet) -> None:
        self._rules, self._alphabet = rules, alphabet
        self._made = _Positions()

    def build(self, expr: Expr) -> _Positions:
        self._made.first, self._made.last, _ = self._part(expr)
        return self._made

    def _part(self, expr: Expr) -> Part:
        match expr:
            case Chars():
                return self._place(self._alphabet.bits(expr))
            case Text(text):
                return self._chain(self._place(self._alphabet.bit(char)) for char in text)
            case Ref(name):
                return self._part(self._rules[name])
            case Seq(items):
                return self._chain(map(self._part, items))
            case Alt(items):
                firsts, lasts, empty = zip(*map(self._part, items), strict=True)
                return reduce(or_, firsts), reduce(or_, lasts), any(empty)
            case Repeat(item, low, high):
                return self._chain(self._copies(item, low, high))

    def _place(self, bits: int) -> Part:
        here = 1 << len(self._made.bits)
        self._made.bits.append(bits)
        self._made.next.append(0)
        return here, here, False

    def _chain(self, parts: Iterator[Part]) -> Part:
        first = last = 0
        empty = True
        for starts, ends, may in parts:
            self._made.link(last, starts)
            first = first | starts if empty else first
            last = last | ends if may else ends
            empty = empty and may
        return first, last, empty

    def _copies(self, item: Expr, low: int, high: int | None) -> Iterator[Part]:
        """A repetition written out; without a limit the last copy repeats."""
        for index in range(max(low, 1) if high is None else high):
            starts, ends, empty = self._part(item)
            if high is None and index >= low - 1:
                self._made.link(ends, starts)
            yield starts, ends, empty or index >= low


def _clash(one: _Positions, other: _Positions) -> int:
    """Walk both over the same texts; where `one` may end, the characters that `other` takes next."""
    takes = list(map(other.taking, one.bits))
    reach = [0] * len(one.bits)  # place of one → places of other that the same text leads to
    done = [0] * len(one.bits)
    ahead = one.first
    for place in _members(one.first):
        reach[place] = takes[place] & other.first
    after = 0
    while ahead:
        place = ahead.bit_length() - 1
        ahead ^= 1 << place
        behind = other.behind(reach[place] & ~done[place])
        done[place] = reach[place]
        after |= behind if one.last >> place & 1 else 0
        for n in _members(one.next[place]):
            if new := behind & takes[n] & ~reach[n]:
                reach[n] |= new
                ahead |= 1 << n
    return reduce(or_, (other.bits[place] for place in _members(after)), 0)


def _members(places: int) -> Iterator[int]:
    while places:
        low = places & -places
        yield low.bit_length() - 1
        places ^= low


class _Writer:
    """Lark text: rules in lower case, lexemes in upper case."""

    def __init__(self, analysis: _Analysis, prefix: str) -> None:
        self._analysis, self._prefix = analysis, prefix
        self._numbers = count()
        self._named: dict[str, str] = {}
        self._lexemes: dict[Expr, str] = {}
        self._ahead: list[Callable[[], None]] = []
        self.lines: list[str] = []

    def write(self, start: str) -> str:
        """Write the rule `start` and all it needs, one behind the other; its name in Lark."""
        name = self._rule(start)
        while self._ahead:
            self._ahead.pop()()
        return name

    def _rule(self, name: str) -> str:
        if name not in self._named:
            flat = name not in self._analysis.apart
            write, body = (self._flat if flat else self._expr), self._analysis.rules[name]
            self._named[name] = self._define("L" if flat else "r", flat, lambda: write(body))
        return self._named[name]

    def _define(self, letter: str, flat: bool, body: Callable[[], str]) -> str:
        """A new name; its line is written later, so that long chains of rules are no deep recursion."""
        prefix = self._prefix.upper() if flat else self._prefix.lower()
        lark = f"{prefix}{letter}{next(self._numbers)}"
        self._ahead.append(lambda: self.lines.append(f"{lark}: {body()}"))
        return lark

    def _expr(self, expr: Expr) -> str:
        """`expr` within a rule."""
        if not isinstance(expr, Ref) and self._analysis.lexeme(expr):
            return self._lexeme(expr)
        match expr:
            case Text(text):
                return self._expr(_spelled(text)) if text else '""'
            case Seq(items):
                return f"({' '.join(map(self._expr, self._analysis.parts(items)))})" if items else '""'
            case _:
                return self._compound(expr, self._expr)

    def _lexeme(self, expr: Expr) -> str:
        if expr == Text("") or expr == Seq(()):
            return '""'
        if expr not in self._lexemes:
            self._lexemes[expr] = self._define("L", True, lambda: self._flat(expr))
        return self._lexemes[expr]

    def _flat(self, expr: Expr) -> str:
        """`expr` within a lexeme."""
        match expr:
            case Chars(ranges):
                return f"/[{''.join(_range(low, high) for low, high in ranges)}]/"
            case Text(text):
                return quoted(text)
            case _:
                return self._compound(expr, self._flat)

    def _compound(self, expr: Expr, write: _Write) -> str:
        match expr:
            case Ref(name):
                return self._rule(name)
            case Seq(items):
                return f"({' '.join(map(write, items))})" if items else '""'
            case Alt(items):
                return f"({' | '.join(map(write, items))})"
            case Repeat(item, low, high):
                return f"({write(item)}){times(low, high)}"
        raise AssertionError(expr)


def times(low: int, high: int | None) -> str:
    """A repetition in Lark."""
    signs = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    return signs.get((low, high)) or f"{{{low},{'' if high is None else high}}}"


def quoted(text: str) -> str:
    """`text` as a lexeme that is just it."""
    return f"/{''.join(map(_escaped, map(ord, text)))}/" if text else '""'


def _escaped(point: int) -> str:
    char = chr(point)
    return char if char.isascii() and char.isalnum() else f"\\u{{{point:x}}}"


def _range(low: int, high: int) -> str:
    return _escaped(low) if low == high else f"{_escaped(low)}-{_escaped(high)}"
