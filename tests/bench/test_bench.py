"""The load generator against a fake server: what it sends, what it counts, what it says when things go wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from radixmill.bench import main
from radixmill.bench.workloads import WORKLOADS
from tests.bench.fake import FakeServer, serving


def bench(*argv: str) -> int:
    return main([*argv, "--timeout", "20"])


@pytest.mark.parametrize("chunked", [True, False])
def test_one_workload_is_sent_and_counted(chunked: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    with serving(FakeServer(chunked=chunked, token_seconds=0.001)) as fake:
        assert bench(fake.url, "--workloads", "decode16", "--out", str(out)) == 0
    sent = fake.bodies[1:]
    assert len(sent) == 32 and fake.most_running == 16
    assert {len(body["prompt"].split()) for body in sent} == {30}
    assert len({body["prompt"] for body in sent}) == 32
    assert all(
        (b["model"], b["max_tokens"], b["temperature"], b["ignore_eos"], b["stream"])
        == ("fake-model", 64, 0, True, True)
        for b in sent
    )
    [figures] = json.loads(out.read_text())["summary"]
    assert (figures["requests"], figures["errors"]) == (32, 0)
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (32 * 30, 32 * 64)
    assert figures["output_per_second"] == pytest.approx(32 * 64 / figures["seconds"])
    assert 0.9 < figures["tpot_p50"] < 500 and 0.9 < figures["ttft_p50"] < 5000
    assert "decode16" in capsys.readouterr().out


def test_all_workloads_have_the_sizes_they_promise(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    with serving(FakeServer()) as fake:
        assert bench(fake.url, "--out", str(out)) == 0
    assert len(fake.bodies) == 1 + sum(w.requests for w in WORKLOADS.values())
    for run in json.loads(out.read_text())["runs"]:
        workload = WORKLOADS[run["workload"]]
        for request in run["each"]:
            assert workload.prompt[0] <= request["prompt_tokens"] - workload.prefix <= workload.prompt[1]
            assert workload.output[0] <= request["output_tokens"] <= workload.output[1]
    shared = [body["prompt"].split() for body in fake.bodies if body["max_tokens"] == 16]
    assert len(shared) == 48 and len({tuple(words[:900]) for words in shared}) == 1
    assert len({tuple(words[900:]) for words in shared}) == 48


def test_sizes_without_tokenize_come_from_usage() -> None:
    with serving(FakeServer(tokenize=False)) as fake:
        assert bench(fake.url, "--workloads", "prefill", "--quick") == 0
    _warm_up, short, long, *sent = fake.bodies
    assert (short["max_tokens"], long["max_tokens"]) == (1, 1)
    assert {len(body["prompt"].split()) for body in sent} == {900}


def test_without_usage_chunks_are_counted(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    with serving(FakeServer(usage=False)) as fake:
        assert bench(fake.url, "--workloads", "decode1", "--quick", "--out", str(out)) == 0
    assert json.loads(out.read_text())["summary"][0]["output_tokens"] == 2 * 128


def test_quick_sends_fewer() -> None:
    with serving(FakeServer()) as fake:
        assert bench(fake.url, "--quick", "--workloads", "decode1,decode16,prefill,shared,mixed") == 0
    assert len(fake.bodies) - 1 == 2 + 16 + 2 + 12 + 8


def test_prompts_are_the_same_every_time_and_other_with_another_seed() -> None:
    sent = []
    for seed in ("0", "0", "1"):
        with serving(FakeServer()) as fake:
            assert bench(fake.url, "--workloads", "mixed", "--quick", "--seed", seed) == 0
        sent.append(sorted(body["prompt"] for body in fake.bodies[1:]))
    assert sent[0] == sent[1]
    assert not set(sent[0]) & set(sent[2])


def test_repeats_send_new_prompts_and_print_medians(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    with serving(FakeServer()) as fake:
        assert bench(fake.url, "--workloads", "prefill", "--quick", "--repeat", "3", "--out", str(out)) == 0
    assert len({body["prompt"] for body in fake.bodies[1:]}) == 6
    found = json.loads(out.read_text())
    assert len(found["runs"]) == 3 and len(found["summary"]) == 1


def test_compare_takes_turns_and_prints_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    with (
        serving(FakeServer(token_seconds=0.001)) as fast,
        serving(FakeServer(token_seconds=0.01, model="other")) as slow,
    ):
        code = bench(
            fast.url,
            "--compare",
            slow.url,
            "--workloads",
            "decode1,prefill",
            "--quick",
            "--repeat",
            "2",
            "--out",
            str(out),
        )
    assert code == 0
    assert [b["prompt"] for b in fast.bodies] == [b["prompt"] for b in slow.bodies]
    assert slow.bodies[0]["model"] == "other"
    found = json.loads(out.read_text())
    first = [run["server"] for run in found["runs"][::2]]
    assert first == [fast.url, slow.url, slow.url, fast.url]
    by_name = {row["workload"]: row for row in found["ratios"]}
    assert by_name["decode1"]["output_per_second"] > 2 and by_name["decode1"]["tpot_p50"] > 2
    assert by_name["prefill"]["ttft_p50"] > 1.5 and by_name["prefill"]["tpot_p50"] is None
    assert "above 1 is better" in capsys.readouterr().out


def test_two_models_of_one_server_can_be_compared_but_not_one_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeServer()) as fake:
        assert bench(fake.url, "--compare", fake.url, "--compare-model", "b", "--workloads", "prefill", "--quick") == 0
        assert bench(fake.url, "--compare", fake.url) == 2
    assert f"{fake.url} b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fake", "says"),
    [
        (FakeServer(fail_every=1), "HTTP 500"),
        (FakeServer(fault="error"), "engine gone"),
        (FakeServer(fault="garbage"), "not a completion chunk"),
        (FakeServer(fault="cut"), "IncompleteReadError"),
        (FakeServer(fault="empty"), "ended without a token"),
    ],
    ids=["500", "error", "garbage", "cut", "empty"],
)
def test_failing_requests_are_counted_and_told(
    fake: FakeServer, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    with serving(fake):
        assert bench(fake.url, "--workloads", "decode1", "--quick", "--out", str(out)) == 1
    [figures] = json.loads(out.read_text())["summary"]
    assert (figures["errors"], figures["output_tokens"], figures["ttft_p50"]) == (2, 0, None)
    assert says in capsys.readouterr().err


def test_some_failures_leave_the_rest_measured(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    with serving(FakeServer(fail_every=4)) as fake:
        assert bench(fake.url, "--workloads", "decode1", "--out", str(out)) == 1
    [figures] = json.loads(out.read_text())["summary"]
    assert (figures["requests"], figures["errors"], figures["output_tokens"]) == (8, 2, 6 * 128)


def test_a_hanging_server_ends_at_the_timeout(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeServer(fault="hang")) as fake:
        assert main([fake.url, "--workloads", "decode1", "--quick", "--timeout", "1.5"]) == 1
    assert "2× " in (err := capsys.readouterr().err) and "not finished in time" in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["http://127.0.0.1:9"], "does not answer"),
        (["ftp://x"], "not an http(s) URL"),
        (["http://127.0.0.1:9", "--workloads", "decode1,nope"], "no workload nope. There are: decode1"),
        (["http://127.0.0.1:9", "--workloads", ","], "no workload named"),
        (["http://127.0.0.1:9", "--out", "/no/such/folder/x.json"], "no folder /no/such/folder"),
        (["http://127.0.0.1:9", "--plot", "x.docx"], "can't draw a .docx"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err and err.count("\n") == 1


def test_what_is_no_http_server_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeServer(fault="not-http")) as fake:
        assert bench(fake.url) == 2
    assert "not an HTTP/1 answer" in capsys.readouterr().err


def test_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeServer(key="s3")) as fake:
        assert bench(fake.url, "--quick", "--workloads", "prefill") == 2
        assert "--api-key" in capsys.readouterr().err
        assert bench(f"{fake.url}/v1", "--quick", "--workloads", "prefill", "--api-key", "s3") == 0


def test_cached_prompts_are_remarked_on_where_they_spoil_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeServer(cached=400)) as fake:
        assert bench(fake.url, "--quick", "--workloads", "prefill,shared") == 0
    err = capsys.readouterr().err
    assert "of prefill in its cache; try another --seed" in err and "of shared" not in err


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_plot_is_drawn(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bench.{suffix}"
    with serving(FakeServer()) as a, serving(FakeServer()) as b:
        assert bench(a.url, "--compare", b.url, "--quick", "--workloads", "decode1,prefill", "--plot", str(path)) == 0
    head = path.read_bytes()[:400]
    assert head.startswith(b"\x89PNG") if suffix == "png" else b"<svg" in head


def test_without_matplotlib_the_figures_still_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out, drawing = tmp_path / "bench.json", tmp_path / "bench.png"
    with serving(FakeServer()) as fake:
        assert bench(fake.url, "--quick", "--workloads", "prefill", "--out", str(out), "--plot", str(drawing)) == 1
    said = capsys.readouterr()
    assert "radixmill[bench]" in said.err and "prefill" in said.out
    assert out.exists() and not drawing.exists()


def test_help_names_workloads_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert all(word in text for word in (*WORKLOADS, "TTFT", "TPOT", "--compare"))
