"""What can't start says so in one line, with what to do, and exit code 2."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.e2e.kit import TINY, run_cli, tiny_model


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


def test_a_page_of_no_tokens(tiny: Path) -> None:
    assert "page_size" in serve(tiny, "--load-format", "dummy", "--page-size", "0")


def test_more_context_than_the_model_has(tiny: Path) -> None:
    assert "4096" in serve(tiny, "--load-format", "dummy", "--context-length", "8192")


def test_settings_that_do_not_exist(tmp_path: Path, tiny: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("cache:\n  page_sizes: 3\n")
    assert "page_sizes" in serve(tiny, "--config", str(config))
