"""Logits → tokens."""

from radixmill.device.sampling.sampler import VERSION, Sampler

__all__ = ["VERSION", "Sampler"]
