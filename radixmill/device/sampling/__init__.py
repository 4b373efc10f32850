"""Logits → tokens."""

from radixmill.device.sampling.sampler import Sampler

__all__ = ["Sampler"]
