"""What can't start says so in one line, with what to do, and exit code 2."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import ROOT, shared
from tests.e2e.kit import TINY, run_cli, serving, tiny_model


def refused(*argv: str) -> str:
    result = run_cli(*argv)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


def serve(model: object, *flags: str) -> str:
    return refused("serve", str(model), "--port", "0", *flags)


def test_an_unknown_model(tmp_path: Path) -> None:
    assert "nowhere" in serve(tmp_path / "nowhere")
    assert "smolm2" in serve("smolm2")


def test_a_port_in_use(tiny: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = refused("serve", str(tiny), "--load-format", "dummy", "--port", port)
    assert port in line and "already in use" in line and "--port" in line


@pytest.mark.weights
@pytest.mark.parametrize("keep", [0, 3, 100, 5_000, 2_000_000, 98_000_000])
def test_a_truncated_gguf(smollm2: Path, tmp_path: Path, keep: int) -> None:
    cut = tmp_path / "cut.gguf"
    with smollm2.open("rb") as whole:
        cut.write_bytes(whole.read(keep))
    assert "cut.gguf" in serve(cut)


def test_a_truncated_safetensors(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes((5000).to_bytes(8, "little") + b'{"lm_head.weight":')
    assert "model.safetensors" in serve(folder)


def test_no_weights(tmp_path: Path) -> None:
    assert "safetensors" in serve(tiny_model(tmp_path / "m"))


def test_an_architecture_we_do_not_have(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({**TINY, "architectures": ["WhaleForCausalLM"]}))
    line = serve(folder, "--load-format", "dummy")
    assert "WhaleForCausalLM" in line and "LlamaForCausalLM" in line


def test_a_config_key_we_do_not_know(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({**TINY, "frobnication_factor": 2}))
    assert "frobnication_factor" in serve(folder, "--load-format", "dummy")


def test_too_little_memory_for_the_kv_cache(tiny: Path) -> None:
    line = serve(tiny, "--load-format", "dummy", "--kv-cache-bytes", "1000")
    assert "KV cache" in line and "--kv-cache-bytes" in line


@pytest.mark.parametrize("flag", ["--chat-template", "--tokenizer"])
def test_what_the_front_cannot_read(tiny: Path, flag: str) -> None:
    assert "/nowhere" in serve(tiny, "--load-format", "dummy", flag, "/nowhere")


QWEN3 = ("--chat-template", str(ROOT.parent / "shared" / "data" / "templates" / "Qwen-Qwen3-0.6B.jinja"))


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--tool-call-parser", "qwen3_coder"), ("does not fit", "get_weather", "What fits: ", "qwen25")),
        (("--reasoning-parser", "gpt-oss"), ("does not fit", "expected thought", "What fits: ", "qwen3")),
        (("--reasoning-parser", "frob"), ("no such parser", "auto, none", "qwen3")),
        (("--tool-call-parser", "frob"), ("no such parser", "auto, none", "hermes")),
    ],
)
def test_a_parser_that_cannot_be_right(tiny: Path, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    shared("templates")
    line = serve(tiny, "--load-format", "dummy", *QWEN3, *flags)
    assert all(word in line for word in (*flags, *words)) and ("--trust-parsers" in line) == ("frob" not in flags)


def test_sglangs_spelling_of_a_parser_that_cannot_be_right(tiny: Path) -> None:
    shared("templates")
    argv = ("--model-path", str(tiny), "--load-format", "dummy", "--port", "0", *QWEN3)
    command = [sys.executable, "-m", "radixmill.launch_server", *argv, "--tool-call-parser", "gpt-oss"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert result.returncode == 2 and "--tool-call-parser gpt-oss does not fit this model" in result.stderr


def test_a_parser_that_is_trusted_all_the_same(tiny: Path, tmp_path: Path) -> None:
    shared("templates")
    flags = ("--load-format", "dummy", *QWEN3, "--tool-call-parser", "qwen3_coder", "--trust-parsers")
    with serving(tiny, *flags, folder=tmp_path) as server:
        info = server.get("/model_info").json()
        log = server.log.read_text()
    assert (info["reasoning_parser"], info["reasoning_basis"]) == ("qwen3", "template")
    assert (info["tool_call_parser"], info["tool_call_basis"]) == ("qwen3_coder", "nothing")
    assert "thoughts: qwen3 (proved on the chat template) · tool calls: qwen3_coder (its proof failed)" in log
    assert "--tool-call-parser qwen3_coder does not fit this model: " in log


def test_a_page_of_no_tokens(tiny: Path) -> None:
    assert "page_size" in serve(tiny, "--load-format", "dummy", "--page-size", "0")


def test_more_context_than_the_model_has(tiny: Path) -> None:
    assert "4096" in serve(tiny, "--load-format", "dummy", "--context-length", "8192")


def test_settings_that_do_not_exist(tmp_path: Path, tiny: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("cache:\n  page_sizes: 3\n")
    assert "page_sizes" in serve(tiny, "--config", str(config))
