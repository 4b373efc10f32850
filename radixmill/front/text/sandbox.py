"""Where chat templates run: Jinja's immutable sandbox with Hugging Face's conventions, and no way to fill the memory.

Conventions: https://huggingface.co/docs/transformers/chat_templating. Templates are data of the model's makers; the
sandbox keeps them from Python's internals, and the caps from answering a short text with gigabytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_ITEMS = 1 << 20  # characters or items that one operation may make out of few
_MAX_BITS = 1 << 12  # of an integer
_MAX_WIDTH = 1 << 12
CHANGES = frozenset({"append", "pop"})  # of lists: some makers' templates keep a queue
_PADDING = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs", "format_map"})
_WIDE = re.compile(r"\d{5,}|\*|\{[^{}]*:[^{}]*\{")


class Sandbox(ImmutableSandboxedEnvironment):
    """`range` ends at 100,000 (Jinja's own limit); `*` and `**` raise SecurityError for results of absurd size."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        extensions: list[Any] = ["jinja2.ext.loopcontrols", _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.filters |= {"tojson": _tojson, "center": _narrow("center"), "indent": _narrow("indent"), "format": _format}
        self.globals |= {"raise_exception": _raise, "strftime_now": _strftime_now}
        del self.globals["lipsum"]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _CHECKS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, list) and attr in CHANGES:
            return True
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in _PADDING)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE.search(str(value.__self__)):
            raise SecurityError("a format with a width of more than four digits")
        return wrapped


class _Generation(Extension):
    """`{% generation %}` marks what the model says, for training; here it is nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_times(left: Any, right: Any) -> None:
    for text, times in ((left, right), (right, left)):
        if isinstance(text, str | bytes | list | tuple) and isinstance(times, int) and len(text) * times > _MAX_ITEMS:
            raise SecurityError(f"a repetition of more than {_MAX_ITEMS} items")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MAX_BITS:
        raise SecurityError(f"a product of more than {_MAX_BITS} bits")


def _check_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and max(base.bit_length(), 1) * exponent > _MAX_BITS:
        raise SecurityError(f"a power of more than {_MAX_BITS} bits")


def _check_modulo(left: Any, right: Any) -> None:
    if isinstance(left, str | bytes) and _WIDE.search(left if isinstance(left, str) else left.decode("latin-1")):
        raise SecurityError("a format with a width of more than four digits")


_CHECKS = {"*": _check_times, "**": _check_power, "%": _check_modulo}


def _narrow(name: str) -> Callable[..., Any]:
    """Jinja's filter with a cap on its width."""
    whole = FILTERS[name]

    def narrow(text: Any, width: Any = 80 if name == "center" else 4, *args: Any, **options: Any) -> Any:
        if isinstance(width, str) or (isinstance(width, int) and width <= _MAX_WIDTH):
            size = len(width) if isinstance(width, str) else width
            if size <= _MAX_WIDTH:
                return whole(text, width, *args, **options)
        raise SecurityError(f"{name} by more than {_MAX_WIDTH}")

    return narrow


def _format(text: Any, *args: Any, **options: Any) -> Any:
    _check_modulo(str(text), None)
    return FILTERS["format"](text, *args, **options)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, leaves `<`, `>`, `&` and letters beyond ASCII as they are."""
    if isinstance(indent, int) and indent > 80:
        raise SecurityError("tojson with an indent of more than 80")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise JinjaError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
