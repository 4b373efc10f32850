"""Whether a model fits into memory, known from the headers of its files: before anything is loaded."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from math import prod

from radixmill.core.errors import NoRoom
from radixmill.device.kernels.contract import Ops
from radixmill.device.loader import Checkpoint
from radixmill.device.loader.checkpoint import Lying

OVERHEAD = 64 << 20  # bytes of an engine's process beside weights and KV cache: the interpreter, buffers, grammars
_FLOATS = ("F32", "F16", "BF16")
_ENDS = re.compile(r"(embed_tokens|lm_head)\.weight$")  # quantised to 8 bits at least


def weight_bytes(checkpoint: Checkpoint, ops: Ops, bits: int | None) -> int:
    """About how many bytes the packed weights will have. `bits`: what floats are quantised to at load, if they are."""
    return sum(_packed(tensor, ops, bits) for tensor in checkpoint.lying())


def check_room(weights: int, kv: int, free: int) -> None:
    """Raise NoRoom, with the numbers, unless there is room for so many bytes."""
    if weights + kv + OVERHEAD > free:
        raise NoRoom(
            f"it needs {weights >> 20} MiB for weights, {kv >> 20} MiB for the KV cache and {OVERHEAD >> 20} MiB beside,"
            f" but {max(free, 0) >> 20} MiB of memory are free",
            "Use mode drain, or lower --kv-cache-bytes or --max-total-tokens",
        )


def give_back() -> None:
    """Hand memory that was freed back to the system, where the C library would keep it for later: loading leaves a tenth of
    a gigabyte of it. Without effect where there is no such call."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _packed(tensor: Lying, ops: Ops, bits: int | None) -> int:
    values = prod(tensor.shape)
    if ops.name == "reference":
        return values * 4
    if bits and tensor.kind in _FLOATS and len(tensor.shape) == 2 and not tensor.shape[1] % 32:
        block = 34 if bits == 8 or _ENDS.search(tensor.name) else 20  # bytes of 32 values
        return values // 32 * block
    if tensor.kind == "F8_E4M3" and ops.packs("F8B128"):
        return tensor.nbytes + tensor.nbytes // 32  # a scale of four bytes for each 128 values
    if tensor.kind in ("F64", "F8_E4M3", "F8_E5M2"):
        return values * 4
    return tensor.nbytes  # packed formats are as large as the file's, give or take a scale
