"""What a server of ours says of its device's work, so that a bench can tell how much of the machine it used."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from radixmill.bench.client import Server
from radixmill.bench.http import HttpError, fetch


class Work(Struct, frozen=True):
    """Since the server's start, or between two moments: /server_info's counters of one engine."""

    device_steps: int
    device_tokens: int
    weight_bytes_per_token: int  # that a step reads, however many tokens it has
    products_per_token: int  # weights that a token is multiplied with, the head's aside

    def __sub__(self, before: Work) -> Work:
        return Work(
            self.device_steps - before.device_steps,
            self.device_tokens - before.device_tokens,
            self.weight_bytes_per_token,
            self.products_per_token,
        )

    @property
    def bytes_read(self) -> int:
        """Of weights."""
        return self.device_steps * self.weight_bytes_per_token

    @property
    def operations(self) -> int:
        """Multiplications and additions with the weights of all layers; the head's, for tokens that want logits, come on top."""
        return 2 * self.device_tokens * self.products_per_token


class _Info(Struct):
    internal_states: tuple[Work, ...]


async def work_done(server: Server) -> Work | None:
    """The first engine's counters; None of servers that have none."""
    try:
        status, body = await fetch(server.origin, "GET", "/server_info", key=server.key)
        return msgspec.json.decode(body, type=_Info).internal_states[0] if status == 200 else None
    except (HttpError, msgspec.MsgspecError, LookupError):
        return None
