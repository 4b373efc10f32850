"""The page of models: it is up to date, and every family is in it, under a name that one can read."""

from __future__ import annotations

from types import ModuleType

import pytest

from radixmill import families
from radixmill.device.loader.gguf_families import FAMILIES as GGUF
from radixmill.device.models import FAMILIES, MODULES
from tests.data import ROOT


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    assert page == families.models_page(), "run python -m radixmill.families > docs/models.md"


def test_every_architecture_is_in_it() -> None:
    page = families.models_page()
    assert [name for name in (*FAMILIES, *GGUF) if f"`{name}`" not in page] == []
    assert set(families.SPOKEN) <= set(FAMILIES)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_family_has_a_name(module: ModuleType) -> None:
    assert 3 <= len(families.title(module)) <= 60
    assert "(" not in families.title(module)
