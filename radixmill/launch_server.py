"""`python -m radixmill.launch_server`: SGLang's spelling of `radixmill serve`."""

from __future__ import annotations

import sys

from radixmill.__main__ import launch_server

if __name__ == "__main__":
    sys.exit(launch_server(sys.argv[1:]))
