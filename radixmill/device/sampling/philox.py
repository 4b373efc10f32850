"""Random numbers without state: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), a bijection of 128-bit counters chosen by a 64-bit key."""

from __future__ import annotations

_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # multipliers
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # what the key grows by each round (golden ratio, √3 − 1)
_LOW = 0xFFFFFFFF
_ROUNDS = 10

Words = tuple[int, int, int, int]


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Four random 32-bit words for four counter words and two key words."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p, q = _M0 * a, _M1 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q & _LOW, (p >> 32) ^ d ^ k1, p & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return a, b, c, d


def uniform(seed: int, position: int) -> float:
    """u in [0, 1), a multiple of 2⁻²⁴, for the token at absolute `position` of a sequence with this 64-bit `seed`."""
    words = philox4x32((position & _LOW, (position >> 32) & _LOW, 0, 0), (seed & _LOW, (seed >> 32) & _LOW))
    return (words[0] >> 8) * 2.0**-24
