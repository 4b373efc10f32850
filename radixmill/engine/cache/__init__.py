"""Who holds which page of the KV cache. Door: `Cache` opens `Lease`s; pools and tree are behind it."""

from radixmill.engine.cache.lease import Cache, Lease
from radixmill.engine.cache.pages import Pools
from radixmill.engine.cache.radix import RadixTree, common

__all__ = ["Cache", "Lease", "Pools", "RadixTree", "common"]
