"""MXFP4 files in several parts take little more memory than their bytes; resident.py measures it at full size."""

from __future__ import annotations

import pytest

from radixmill.device.kernels import native_isa
from tests.device.resident import MB, Sizes, measure


@pytest.mark.skipif(not native_isa(), reason="the compiled kernels are not installed")
def test_experts_of_four_bits_take_what_their_files_do() -> None:
    nbytes, found = measure(Sizes(hidden=1024, experts=8, vocab=8000, shard=20))
    before, loaded, ran = (found[when].anon for when in ("before", "loaded", "ran"))
    assert nbytes > 70 * MB
    assert 0.9 * nbytes <= loaded - before <= 1.1 * nbytes, found
    assert ran - loaded <= 64 * MB, found  # what steps need
