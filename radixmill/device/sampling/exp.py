"""exp in float64, with the same bits on every machine.

NumPy's own exp takes another algorithm where the processor has AVX-512, so equal logits could draw different tokens on
two machines of one numerics id. This one is built from IEEE-exact operations alone (add, multiply, rint, shift), by
x = (1024·e + j)·ln2/1024 + r: exp(x) = 2ᵉ · 2^(j/1024) · (1 + r + r²/2 + r³/6), |r| ≤ ln2/2048.
(Tang: "Table-driven implementation of the exponential function in IEEE floating-point arithmetic", ACM TOMS 15(2), 1989.)
Relative error: below 5e-15 for x ≥ −30, 1e-13 everywhere.
"""

from __future__ import annotations

from decimal import Context

import numpy as np
from numpy.typing import NDArray

_BITS = 10
_STEPS = 1 << _BITS
_EXACT = Context(prec=40)
_STEP = _EXACT.divide(_EXACT.ln(2), _STEPS)
_WIDTH, _INVERSE = float(_STEP), float(1 / _STEP)
_TABLE = np.array([float(_EXACT.exp(_STEP * j)) for j in range(_STEPS)])
_FLOOR = -708.0  # below, exp would be subnormal: taken as zero

BLOCK = 8192  # values at a time: temporaries stay in the nearest cache


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(x) elementwise for x ≤ 0 (−∞ too, never NaN); 0 below −708. Meant for blocks of about BLOCK values."""
    r = np.maximum(x, _FLOOR)
    n = r * _INVERSE
    np.rint(n, out=n)
    steps = n.astype(np.int64)
    n *= _WIDTH
    r -= n
    scale = _TABLE[steps & (_STEPS - 1)]
    steps >>= _BITS
    steps <<= 52
    scale.view(np.int64)[...] += steps  # times 2ᵉ: the exponent field of a normal number
    if (under := x < _FLOOR).any():
        scale[under] = 0.0
    out = r * (1 / 6)
    for coefficient in (1 / 2, 1.0):  # Horner: 1 + r·(1 + r·(1/2 + r/6))
        out += coefficient
        out *= r
    out += 1.0
    out *= scale
    return out
