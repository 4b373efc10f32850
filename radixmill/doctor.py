"""`radixmill doctor`: what this machine can do, and which kernel serves which op."""

from __future__ import annotations

import platform
import sys

from radixmill import __version__
from radixmill.core.config import Config, ModelFacts, resolve
from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.worker import detect


def main() -> int:
    """Print the report; 0 when the machine can serve."""
    hardware = detect()
    print(f"radixmill {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"cores      {hardware.cores}")
    print(f"free       {hardware.free_bytes / (1 << 30):.1f} GiB")
    print(
        f"kernels    {native_isa() or 'not compiled: NumPy serves every op, correct but slow. Install a C++17 compiler and reinstall'}"
    )
    resolved = resolve(Config(), hardware, ModelFacts(context=8192, kv_bytes_per_token=23040))
    backend = open_backend(resolved.config.compute.backend, "fast", hardware.cores, resolved.config.compute.isa)
    print("\nop               served by")
    for op, implementation in backend.table().items():
        print(f"{op:<16} {implementation}")
    print(f"\nthe default model would get {resolved.pages} KV pages: {resolved.reasons[-2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
