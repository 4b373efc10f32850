"""Fixtures shared by all tests."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import httpx
import hypothesis
import pytest

from radixmill.store.catalogue import pull

# Machines that run tests are busy: how long an example takes says nothing.
hypothesis.settings.register_profile("radixmill", deadline=None)
hypothesis.settings.load_profile("radixmill")
# httpx gives up after five seconds where a test names no timeout: too soon on a busy machine. All of its functions and
# classes have one and the same object as their default, which it has no public name for.
for what in ("connect", "read", "write", "pool"):
    setattr(inspect.signature(httpx.Client).parameters["timeout"].default, what, 60.0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos", type=int, default=0, help="seconds of engine kills under load (tests/e2e/test_recovery.py)"
    )


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The embedded model's GGUF file, fetched into the cache if need be."""
    return pull("smollm2-135m-instruct").root


@pytest.fixture(scope="session")
def other_gguf() -> Path:
    """A GGUF file of the user's: RADIXMILL_TEST_GGUF=/path/to/chat-model.Q4_K_M.gguf."""
    if not (path := os.environ.get("RADIXMILL_TEST_GGUF")):
        pytest.skip("RADIXMILL_TEST_GGUF names no file")
    return Path(path)
