"""What a bench leaves behind for the doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from radixmill.bench import main
from radixmill.bench.client import Server
from radixmill.bench.drive import Target
from radixmill.bench.http import Origin
from radixmill.bench.keep import record
from radixmill.bench.work import Work
from radixmill.bench.workloads import WORKLOADS
from tests.bench.fake import FakeServer, serving

OURS = {
    "internal_states": [
        {"device_steps": 7, "device_tokens": 9, "weight_bytes_per_token": 1000, "products_per_token": 500, "more": 1}
    ]
}


def bench(kept: Path, fake: FakeServer, *argv: str) -> dict[str, Any]:
    assert main([fake.url, "--quick", "--timeout", "20", *argv], kept) == 0
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def test_the_latest_figures_are_kept_with_the_work_of_the_device(tmp_path: Path) -> None:
    kept = tmp_path / "new" / "bench.json"
    with serving(FakeServer(info=OURS)) as fake:
        found = bench(kept, fake, "--workloads", "decode1,decode16,prefill")
        assert (found["url"], found["model"]) == (fake.url, "fake-model")
        lines = {line["workload"]: line for line in found["workloads"]}
        assert list(lines) == ["decode1", "decode16", "prefill"]
        assert [line["read_per_second"] for line in lines.values()] == [0, 0, 0], "the fake's counters stand still"
        assert all(line["output_per_second"] > 0 and line["errors"] == 0 for line in lines.values())
        again = bench(kept, fake, "--workloads", "decode1")
    assert [line["workload"] for line in again["workloads"]] == ["decode1"]
    assert [path.name for path in kept.parent.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    "info", [None, {}, {"internal_states": []}, {"internal_states": [{}]}, [1], {"internal_states": [{"device_steps": "x"}]}]
)  # fmt: skip
def test_a_server_that_does_not_tell_its_work_is_kept_without(info: object, tmp_path: Path) -> None:
    with serving(FakeServer(info=info)) as fake:
        [line] = bench(tmp_path / "bench.json", fake, "--workloads", "decode1")["workloads"]
    assert line["read_per_second"] is None and line["operations_per_second"] is None


def test_of_two_servers_the_one_that_tells_its_work_is_kept(tmp_path: Path) -> None:
    with serving(FakeServer(model="other")) as other, serving(FakeServer(model="ours", info=OURS)) as ours:
        found = bench(tmp_path / "bench.json", other, "--compare", ours.url, "--workloads", "decode1")
    assert (found["model"], found["url"]) == ("ours", ours.url)


def test_a_server_elsewhere_leaves_nothing() -> None:
    async def count(text: str) -> int:
        return len(text)

    target = Target("far", Server(Origin.parse("http://192.0.2.7:1"), "m"), count, "")
    assert record([target], list(WORKLOADS.values()), {}) is None


def test_a_record_that_cannot_be_written_does_not_fail_the_bench(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with serving(FakeServer()) as fake:
        assert main([fake.url, "--quick", "--workloads", "decode1"], tmp_path / "file" / "bench.json") == 0
    assert "cannot be written" in capsys.readouterr().err


def test_work_is_what_was_done_between_two_moments() -> None:
    before, after = Work(10, 40, 1000, 500), Work(15, 100, 1000, 500)
    assert (after - before).bytes_read == 5 * 1000
    assert (after - before).operations == 2 * 60 * 500
