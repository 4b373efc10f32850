"""From a plan to a result: build the batch, run the model, draw the tokens."""

from __future__ import annotations

from radixmill.device.runner.batch import build_batch
from radixmill.device.runner.runner import PagedKV, Runner

__all__ = ["PagedKV", "Runner", "build_batch"]
