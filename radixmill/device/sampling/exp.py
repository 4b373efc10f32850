"""exp in float64, with the same bits on every machine.

NumPy's own exp takes another algorithm where the processor has AVX-512, so equal logits could draw different tokens on
two machines of one numerics id. This one is built from IEEE-exact operations alone (add, multiply, rint, shift), by
x = (64·e + j)·ln2/64 + r: exp(x) = 2ᵉ · 2^(j/64) · (1 + r + … + r⁵/5!), |r| ≤ ln2/128, relative error below 1e-15.
(Tang: "Table-driven implementation of the exponential function in IEEE floating-point arithmetic", ACM TOMS 15(2), 1989.)
"""

from __future__ import annotations

from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

_STEPS = 64
_EXACT = Context(prec=60)
_LN2 = _EXACT.ln(Decimal(2))
_STEP = _EXACT.divide(_LN2, Decimal(_STEPS))


def _split(value: Decimal, bits: int) -> tuple[float, float]:
    """value = high + low, high having only its leading `bits` bits, so that high · (a small int) is exact."""
    high = np.float64(float(value))
    high = (high.view(np.int64) >> (53 - bits) << (53 - bits)).view(np.float64)
    return float(high), float(value - Decimal(float(high)))


_TABLE = np.array([float(_EXACT.exp(_STEP * j)) for j in range(_STEPS)])
_HIGH, _LOW = _split(_STEP, 32)
_INVERSE = float(1 / _STEP)
_BLOCK = 8192  # temporaries stay in the nearest cache
_FLOOR = -708.0  # below, exp would be subnormal: taken as zero


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(x) elementwise for one-dimensional x ≤ 0 (−∞ too, never NaN); 0 below −708."""
    out = np.empty_like(x)
    for start in range(0, len(x), _BLOCK):
        _exp_block(x[start : start + _BLOCK], out[start : start + _BLOCK])
    return out


def _exp_block(x: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    r = np.maximum(x, _FLOOR)
    n = r * _INVERSE
    np.rint(n, out=n)
    steps = n.astype(np.int64)
    r -= n * _HIGH
    n *= _LOW
    r -= n
    scale = _TABLE[steps & (_STEPS - 1)]
    steps >>= 6
    steps <<= 52
    scale.view(np.int64)[...] += steps  # times 2ᵉ: the exponent field of a normal number
    scale[x < _FLOOR] = 0.0
    np.multiply(r, 1 / 120, out=out)
    for coefficient in (1 / 24, 1 / 6, 1 / 2, 1.0):  # Horner: 1 + r·(1 + r·(1/2 + …))
        out += coefficient
        out *= r
    out += 1.0
    out *= scale
