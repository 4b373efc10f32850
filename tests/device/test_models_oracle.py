"""No architecture is done without a case that compares it with transformers."""

from __future__ import annotations

import pytest

from radixmill.device.models import FAMILIES
from tests.device import oracle_kit
from tests.device.test_models_oracle_dense import CASES as DENSE
from tests.device.test_models_oracle_experts import CASES as EXPERTS
from tests.device.test_models_oracle_latent import CASES as LATENT

pytestmark = pytest.mark.oracle


def test_every_architecture_has_a_case() -> None:
    tables = (DENSE, EXPERTS, LATENT)
    assert set(FAMILIES) == {oracle_kit.architecture(name) for table in tables for name, _ in table.values()}
