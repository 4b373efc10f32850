"""Where chat templates run: Jinja's immutable sandbox with Hugging Face's conventions, and no way to fill the memory or
to run on and on.

Conventions: https://huggingface.co/docs/transformers/chat_templating. Templates are data of the model's makers; the
sandbox keeps them from Python's internals, and a budget from answering a short text with gigabytes, or with nothing for
hours. What can multiply a text or walk far in one step is held against the budget before it is done.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sized
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from radixmill.front.text.budget import MAX_ITEMS, MAX_TEXT, Budget, OverBudget
from radixmill.front.text.metered import JOINED, MADE, WEIGHED, metered

_MAX_BITS = 1 << 12  # of an integer
_MAX_WIDTH = 1 << 12
_MAX_SLOW = 1 << 16  # characters for what takes more than linear time
CHANGES = frozenset({"append", "pop"})  # of lists: some makers' templates keep a queue
_BARRED = frozenset(
    {"ljust", "rjust", "center", "zfill", "expandtabs", "format_map", "translate", "encode", "to_bytes"}
)
_WIDE = re.compile(r"\d{5,}|\*|\{[^{}]*:[^{}]*\{|\{[^{}:!]*[.\[]")
_PLAIN = (str, int, float, type(None))

# Filters that neither print nor compare what they get.
_LIGHT = frozenset(
    [
        "abs",
        "attr",
        "count",
        "d",
        "default",
        "first",
        "float",
        "int",
        "items",
        "last",
        "length",
        "list",
        "map",
        "random",
        "reject",
        "rejectattr",
        "reverse",
        "safe",
        "select",
        "selectattr",
    ]
)
_LIGHT_TESTS = frozenset(
    [
        "boolean",
        "callable",
        "defined",
        "divisibleby",
        "escaped",
        "even",
        "false",
        "filter",
        "float",
        "integer",
        "iterable",
        "mapping",
        "none",
        "number",
        "odd",
        "sameas",
        "sequence",
        "string",
        "test",
        "true",
        "undefined",
    ]
)
# Filters whose numbers say how much comes out, and those that take more than linear time.
_NARROW = frozenset({"batch", "center", "indent", "round", "slice", "tojson", "wordwrap"})
_SLOW = frozenset({"pprint", "striptags", "sum", "title", "urlize", "wordcount", "wordwrap", "xmlattr"})


class Sandbox(ImmutableSandboxedEnvironment):
    """`range` ends at 100,000 (Jinja's own limit). Raises SecurityError for what is barred, OverBudget for too much."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        self.budget = Budget()
        extensions: list[Any] = ["jinja2.ext.loopcontrols", _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=self.budget.weighed)
        self.concat = self.budget.joined  # type: ignore[method-assign]
        self.filters["tojson"] = _tojson
        self.filters = {name: self._filter(name, one) for name, one in self.filters.items()}
        self.filters |= {JOINED: self._joined, MADE: self.budget.made, WEIGHED: self.budget.weighed}
        self.tests |= {
            name: self._metered(cast(Callable[..., Any], test))
            for name, test in self.tests.items()
            if name not in _LIGHT_TESTS
        }
        self.globals |= {"raise_exception": _raise, "strftime_now": _strftime_now, "namespace": _Namespace}
        del self.globals["lipsum"]

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        return super()._generate(metered(source), *args, **options)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.budget.tick()
        _CHECKS[operator](self.budget, left, right)
        return self.budget.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.budget.tick()
        if not isinstance(__obj, Macro | LoopContext | BlockReference):
            _check_call(__self.budget, __obj, args, kwargs)
        return __self.budget.made(super().call(__context, __obj, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, _PLAIN):
            self.budget.weigh(argument)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, list) and attr in CHANGES:
            return True
        barred = isinstance(obj, bytes) or (isinstance(obj, str | int) and attr in _BARRED)
        return super().is_safe_attribute(obj, attr, value) and not barred

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = str(value.__self__)
        if _WIDE.search(text):
            raise SecurityError("a format with a width of more than four digits, or that looks into its values")

        @wraps(value)
        def counted(*args: Any, **options: Any) -> str:
            """What is wrapped does not tell whose method it is: its costs are counted here."""
            _check_format(self.budget, text, args, options)
            return wrapped(*args, **options)

        return counted

    def _joined(self, parts: list[Any]) -> str:
        """What `~` does."""
        self.budget.tick()
        self.budget.take(sum(map(self.budget.weigh, parts)))
        return "".join(map(str, parts))

    def _filter(self, name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        """A filter with its costs before it."""
        if name in _LIGHT:
            return self._metered(whole, weigh=False)
        checks = [check for names, check in _FILTER_CHECKS if name in names]

        @wraps(whole)
        def checked(*args: Any, **options: Any) -> Any:
            for check in checks:
                args = check(self.budget, args, options)
            return whole(*args, **options)

        return self._metered(checked)

    def _metered(self, whole: Callable[..., Any], *, weigh: bool = True) -> Callable[..., Any]:
        """A filter or test that counts as a step; what it gets can be printed or compared, what it makes is counted."""

        @wraps(whole)
        def metered(*args: Any, **options: Any) -> Any:
            self.budget.tick()
            if weigh:
                for arg in (*args, *options.values()):
                    self.budget.weigh(arg)
            return self.budget.made(whole(*args, **options))

        return metered


class _Generation(Extension):
    """`{% generation %}` marks what the model says, for training; here it is nothing but a scope of its own."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Namespace(Namespace):
    """Jinja's, without names that Python keeps for itself."""

    def __init__(*args: Any, **fields: Any) -> None:
        self, args = args[0], args[1:]
        Namespace.__init__(self, *args, **fields)
        for name in self._Namespace__attrs:
            _check_name(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace with the name {name[:40]!r}")


# Operators.


def _check_plus(budget: Budget, left: Any, right: Any) -> None:
    if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        limit = MAX_TEXT if isinstance(left, str) else MAX_ITEMS
        if len(left) + len(right) > limit:
            raise OverBudget(f"the chat template makes a text or list of more than {limit} characters or items")


def _check_times(budget: Budget, left: Any, right: Any) -> None:
    for text, times in ((left, right), (right, left)):
        if isinstance(text, str | bytes | list | tuple) and isinstance(times, int) and len(text) * times > MAX_ITEMS:
            raise SecurityError(f"a repetition of more than {MAX_ITEMS} items")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MAX_BITS:
        raise SecurityError(f"a product of more than {_MAX_BITS} bits")


def _check_power(budget: Budget, base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and max(base.bit_length(), 1) * exponent > _MAX_BITS:
        raise SecurityError(f"a power of more than {_MAX_BITS} bits")


def _check_modulo(budget: Budget, left: Any, right: Any) -> None:
    if isinstance(left, str):
        if _WIDE.search(left):
            raise SecurityError("a format with a width of more than four digits")
        budget.take(len(left) + left.count("%") * (budget.weigh(right) + _width(left)))


_CHECKS = {"+": _check_plus, "*": _check_times, "**": _check_power, "%": _check_modulo}


def _width(form: str) -> int:
    return max(map(int, re.findall(r"\d+", form)), default=0)


# Calls.


def _check_call(budget: Budget, called: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    for arg in (*args, *options.values()):
        budget.weigh(arg)
    owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
    if isinstance(owner, str):
        budget.read(len(owner))
        if check := _METHOD_CHECKS.get(name):
            check(budget, owner, args, options)
    elif isinstance(owner, list | tuple):
        budget.weigh(owner)


def _check_replace(budget: Budget, text: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    match args:
        case (str(old), str(new), *_):
            budget.take(len(text) + text.count(old) * len(new))


def _check_join(budget: Budget, text: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    for arg in args:
        if isinstance(arg, str | list | tuple):
            budget.take(budget.weigh(arg) + len(arg) * len(text))


def _check_split(budget: Budget, text: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    by = args[0] if args and isinstance(args[0], str) and args[0] else None
    if (text.count(by) if by else len(text) // 4) > MAX_ITEMS:
        raise OverBudget(f"the chat template splits a text into more than {MAX_ITEMS} parts")


def _check_strip(budget: Budget, text: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    for arg in (*args, *options.values()):
        if isinstance(arg, str) and len(arg) > _MAX_WIDTH:
            raise SecurityError(f"a strip of more than {_MAX_WIDTH} characters")


def _check_format(budget: Budget, text: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    most = max(map(budget.weigh, (*args, *options.values())), default=0)
    budget.take(len(text) + text.count("{") * (most + _width(text)))


_METHOD_CHECKS = {
    "replace": _check_replace,
    "join": _check_join,
    **dict.fromkeys(("split", "rsplit", "splitlines"), _check_split),
    **dict.fromkeys(("strip", "lstrip", "rstrip"), _check_strip),
}


# Filters: each check gives back the arguments, generators turned into lists.


def _check_narrow(budget: Budget, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    for arg in (*args[1:], *options.values()):
        if (len(arg) if isinstance(arg, str) else arg if isinstance(arg, int) else 0) > _MAX_WIDTH:
            raise SecurityError(f"a filter with a number or a text of more than {_MAX_WIDTH}")
    return args


def _check_slow(budget: Budget, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    args = _listed(budget, args)
    texts = [len(arg) for arg in (*args, *options.values()) if isinstance(arg, str)]
    if any(budget.weigh(arg) > _MAX_SLOW for arg in args) or math.prod(texts) > MAX_TEXT:
        raise OverBudget(f"the chat template uses a slow filter on more than {_MAX_SLOW} characters")
    return args


def _check_replacing(budget: Budget, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    texts = [str(arg) for arg in (*args[1:], *options.values()) if isinstance(arg, str | list | dict | int)]
    if len(texts) >= 3:
        budget.take(len(texts[0]) + texts[0].count(texts[1]) * len(texts[2]))
    return args


def _check_joining(budget: Budget, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    args = _listed(budget, args)
    parts = args[1] if len(args) > 1 else ()
    by = max((len(arg) for arg in (*args[2:], *options.values()) if isinstance(arg, str)), default=0)
    budget.take(budget.weigh(parts) + (len(parts) * by if isinstance(parts, Sized) else 0))
    return args


def _check_formatting(budget: Budget, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    _check_modulo(budget, str(args[0]), [*args[1:], *options.values()])
    return args


def _check_indent(budget: Budget, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    wide = [len(one) if isinstance(one, str) else one for one in (*args[1:], *options.values(), 4)]
    text = str(args[0])
    budget.take(len(text) + text.count("\n") * max(one for one in wide if isinstance(one, int)))
    return args


def _check_json(budget: Budget, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    wide = [one for one in (*args[2:], *options.values()) if isinstance(one, int)]
    budget.weigh(args[0], max(wide, default=0))
    return args


def _check_trim(budget: Budget, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    _check_strip(budget, "", args[1:], options)
    return args


def _check_walk(budget: Budget, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    return _listed(budget, args)


def _listed(budget: Budget, args: Iterable[Any]) -> tuple[Any, ...]:
    """Generators, which can't be weighed, as lists, which can."""
    kept = tuple(list(arg) if hasattr(arg, "__next__") else arg for arg in args)
    for arg in kept:
        budget.weigh(arg)
    return kept


_Check = Callable[[Budget, tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]
_FILTER_CHECKS: tuple[tuple[frozenset[str], _Check], ...] = (
    (_NARROW, _check_narrow),
    (_SLOW, _check_slow),
    (frozenset({"replace"}), _check_replacing),
    (frozenset({"join"}), _check_joining),
    (frozenset({"format"}), _check_formatting),
    (frozenset({"indent"}), _check_indent),
    (frozenset({"tojson"}), _check_json),
    (frozenset({"trim"}), _check_trim),
    (frozenset({"groupby", "max", "min", "sort", "unique"}), _check_walk),
)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, leaves `<`, `>`, `&` and letters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise JinjaError(message)


def _strftime_now(form: str) -> str:
    if len(form) > _MAX_WIDTH:
        raise SecurityError(f"a form of the clock of more than {_MAX_WIDTH} characters")
    return datetime.now().strftime(form)
