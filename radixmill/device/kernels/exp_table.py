"""The numbers that the sampler's exp is made of, rounded once from forty digits: NumPy and C++ take the same ones."""

from __future__ import annotations

from decimal import Context

import numpy as np

BITS = 10
STEPS = 1 << BITS
_EXACT = Context(prec=40)
_STEP = _EXACT.divide(_EXACT.ln(2), STEPS)

WIDTH, INVERSE = float(_STEP), float(1 / _STEP)  # ln2/1024, 1024/ln2
TABLE = np.array([float(_EXACT.exp(_STEP * j)) for j in range(STEPS)])  # 2^(j/1024)
