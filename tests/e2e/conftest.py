"""Models and servers for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kit import Server, serving, tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the tiny model; tests leave it as they found it."""
    with serving(tiny, "--load-format", "dummy", folder=tmp_path_factory.mktemp("tiny")) as server:
        yield server


@pytest.fixture(scope="session")
def smollm2_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the embedded model, settings as a user gets them."""
    with serving("smollm2-135m-instruct", folder=tmp_path_factory.mktemp("smollm2")) as server:
        yield server
