"""Exact fractions → the numbers that the grammar library reads as doubles, where nothing is lost on the way."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from radixmill.engine.grammar.errors import GrammarError

MAX_INTEGER = 2**53  # up to here, every integer is a double
INT64_MAX = 2**63 - 1  # the library's integers end here, and so it reads the double 2^63 as this
MAX_FRACTION = 15  # digits after the point


def exact_float(value: Fraction, keyword: str) -> int | float:
    if value.denominator == 1:
        return _exact_integer(int(value), keyword)
    number = float(value)
    written = Decimal(repr(number))
    places = -int(written.as_tuple().exponent)
    if Fraction(written) != value or places > MAX_FRACTION or abs(value) >= MAX_INTEGER:
        raise GrammarError(f"{keyword} is a number with too many digits to be kept exactly")
    return number


def _exact_integer(value: int, keyword: str) -> int:
    fits = abs(value) <= MAX_INTEGER or (abs(value) < INT64_MAX and int(float(value)) == value)
    if not fits and (value, keyword) != (INT64_MAX, "maximum"):
        raise GrammarError(f"{keyword} is an integer too large to be kept exactly: {str(value)[:30]}")
    return value


def exact_step(step: Fraction) -> int | float:
    """For multipleOf: the library multiplies the double by 10 until it is an integer below 2^32."""
    number = float(step)
    scaled, places = number, 0
    while scaled != int(scaled) and places < 16:
        scaled, places = scaled * 10, places + 1
    if scaled >= 2**32 or Fraction(int(scaled), 10**places) != step:
        raise GrammarError("multipleOf is a number that can't be kept exactly")
    return int(step) if step.denominator == 1 else number
