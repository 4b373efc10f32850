"""A server that takes chat templates from requests."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.footprint import process
from tests.e2e.kit import serving
from tests.front.kit import CHAT, until
from tests.front.test_guest import ASKS, LOOP, SIMPLE, children


def test_a_server_takes_them_and_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, "--load-format", "dummy", "--trust-request-chat-template", folder=tmp_path) as server:
        (front,) = server.pids("front")
        assert not children(front)
        body = {"model": "default", "max_tokens": 2, **ASKS}
        good = server.post(CHAT, **body, chat_template=SIMPLE)
        assert good.status_code == 200, good.text
        (host,) = children(front)
        assert (found := process(host)) and found.role == "guest"
        bad = server.post(CHAT, **body, chat_template=LOOP)
        assert bad.status_code in (400, 503) and "seconds" in bad.json()["error"]["message"]
        assert server.post(CHAT, **body).status_code == 200
    until(lambda: not Path(f"/proc/{host}").exists(), 20)
