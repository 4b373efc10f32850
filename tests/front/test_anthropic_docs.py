"""The example of docs/messages.md runs as it stands there."""

from __future__ import annotations

import re

import anthropic

from tests.data import ROOT
from tests.fakes import EchoClient
from tests.front.anthropic_kit import client_of
from tests.front.kit import make_app, says

PAGE = ROOT / "docs" / "messages.md"


def test_the_example_runs(monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with client_of(make_app(EchoClient(says("Hello.")))) as client:
        monkeypatch.setattr(anthropic, "Anthropic", lambda base_url, api_key: client)
        exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "Hello.\n"
