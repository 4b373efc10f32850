"""`radixmill doctor` on a cache folder that has a bench's figures, none, or rubbish; and the peaks it measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from radixmill import doctor
from radixmill.__main__ import main
from radixmill.bench.keep import keep
from radixmill.device.kernels import Peaks, measure, native_isa
from radixmill.device.kernels.cpu.probe import last_cache
from radixmill.front.text.template import CHATML
from radixmill.store.files import bench_record
from tests.data import shared
from tests.e2e.kit import tiny_model

PEAKS = Peaks("some-isa", 26e9, 100e9, 200e9)


def entry(**decode1: Any) -> dict[str, Any]:
    line = {"workload": "decode1", "errors": 0, "output_per_second": 155.2, "prompt_per_second": 36.0}
    batch = {
        "workload": "decode16",
        "requests": 32,
        "errors": 2,
        "output_per_second": 0.274,
        "prompt_per_second": 375.4,
    }
    workloads = [{**line, "read_per_second": 15e9, "operations_per_second": 42e9, **decode1}, batch]
    return {"tool": "x", "time": "2025-01-02T03:04:05+00:00", "url": "u", "model": "tiny", "workloads": workloads}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file's place in a fake cache folder; not made yet."""
    monkeypatch.setenv("RADIXMILL_CACHE", str(tmp_path / "cache"))
    assert bench_record() == tmp_path / "cache" / "bench.json"
    return bench_record()


def test_figures_stand_beside_what_the_memory_gives(record: Path) -> None:
    keep(record, entry())
    assert list(doctor.last_bench(record, PEAKS)) == [
        "last bench       tiny, 2025-01-02T03:04:05+00:00",
        "decode1          155 tok/s out, 36 tok/s in: weights at 15.0 of 26.0 GB/s, 42.0 of 200.0 GOP/s",
        "decode16         0.27 tok/s out, 375 tok/s in, 2 requests failed",
    ]


def test_what_is_not_known_is_left_out(record: Path) -> None:
    keep(record, entry(read_per_second=None))
    assert list(doctor.last_bench(record, PEAKS))[1] == "decode1          155 tok/s out, 36 tok/s in"
    keep(record, entry())
    assert (
        list(doctor.last_bench(record, None))[1]
        == "decode1          155 tok/s out, 36 tok/s in: weights at 15.0 GB/s, 42.0 GOP/s"
    )


def test_without_a_bench_it_says_so(record: Path) -> None:
    [line] = doctor.last_bench(record, PEAKS)
    assert line.startswith("no bench of a server on this machine yet")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "\xff",
        json.dumps(entry(output_per_second="fast")),
        json.dumps(entry(workload=None)),
    ],
)
def test_a_broken_record_is_named_and_nothing_fails(
    text: str, record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record.parent.mkdir()
    record.write_bytes(text.encode("latin-1"))
    monkeypatch.setattr(doctor, "measure", lambda *_: None)
    assert doctor.main() == 0
    assert f"the last bench's figures in {record} cannot be read" in capsys.readouterr().out


def test_a_folder_in_the_records_place_is_no_failure(record: Path) -> None:
    record.mkdir(parents=True)
    [line] = doctor.last_bench(record, PEAKS)
    assert "cannot be read" in line


def test_the_whole_report(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(record, entry())
    assert doctor.main() == 0
    said = capsys.readouterr().out
    assert (
        "linear" in said and "cores" in said and "decode1          155 tok/s out, 36 tok/s in: weights at 15.0" in said
    )
    assert "KV pages: KV cache" in said
    assert ("GB/s read" in said and "GOP/s int8" in said) == bool(native_isa())


def folder_with(template: str, folder: Path) -> str:
    (tiny_model(folder) / "chat_template.jinja").write_text(template)
    return str(folder)


def test_how_a_models_answers_are_read(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "measure", lambda *_: None)
    template = shared("templates", "Qwen-Qwen3-0.6B.jinja")
    model = folder_with(template.read_text(), tmp_path / "m")
    assert main(["doctor", model]) == 0
    said = capsys.readouterr().out
    assert (
        "thoughts         qwen3, of the family Qwen3\n  proof          on what the chat template writes: passed" in said
    )
    assert '"<think>\\nwhy' in said and "read as call get_weather" in said and "names that fit qwen25" in said
    assert main(["doctor", model, "--tool-call-parser", "gpt-oss"]) == 1
    assert "writes: FAILED" in capsys.readouterr().out
    assert main(["doctor", model, "--tool-call-parser", "frob"]) == 2
    assert "no such parser" in capsys.readouterr().err


def test_the_generic_dialect_is_named(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "measure", lambda *_: None)
    assert main(["doctor", folder_with(CHATML, tmp_path / "m")]) == 0
    said = capsys.readouterr().out
    assert "thoughts         none" in said and "the generic dialect, in the system message" in said


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_peaks_are_measured(isa: str) -> None:
    peaks = measure(isa, 2, 4 << 30)
    if peaks is None:
        pytest.skip("the compiled kernels are not installed")
    assert peaks.isa in ("portable", "avx2", "avx512") and (isa != "portable" or peaks.isa == "portable")
    # From what a very slow to what a very large machine does.
    assert 1e8 < peaks.read < 1e13 and 1e8 < peaks.floats < 1e15 and 1e8 < peaks.int8 < 1e15


def test_nothing_is_measured_where_memory_is_short() -> None:
    assert measure("portable", 1, 100 << 20) is None


def test_the_last_cache_is_the_largest(tmp_path: Path) -> None:
    assert last_cache(tmp_path) == 32 << 20
    for at, size in enumerate(("48K", "1024K", "98304K", "rubbish", "")):
        (tmp_path / f"index{at}").mkdir()
        (tmp_path / f"index{at}" / "size").write_text(size)
    assert last_cache(tmp_path) == 98304 << 10
