"""Settings: what was left open is chosen with a reason; what cannot be is refused; flags and docs are generated."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from radixmill import cli, compat
from radixmill.core.config import (
    SPARE_PAGES,
    CacheOptions,
    ComputeOptions,
    Config,
    GroupFacts,
    Hardware,
    ModelFacts,
    ModelOptions,
    ScheduleOptions,
    resolve,
    walk,
)
from radixmill.core.errors import CannotStart
from radixmill.core.spec import KVGroup, ModelSpec
from tests.data import ROOT, shared

LAPTOP = Hardware(cores=2, free_bytes=8 << 30, isa="avx2")
MODEL = ModelFacts(context=8192, kv_groups=(GroupFacts(23040),))


def parsed(*argv: str) -> Config:
    parser = argparse.ArgumentParser()
    cli.add_flags(parser)
    return cli.config_from(parser.parse_args(argv))


def sglang(*argv: str) -> Config:
    return compat.config_from(compat.parser().parse_args(argv))


def test_a_bare_laptop_gets_the_models_context() -> None:
    resolved = resolve(Config(), LAPTOP, MODEL)
    assert resolved.context == 8192
    assert resolved.pages[0] == (1 << 30) // 23040 // 64
    assert (resolved.config.compute.backend, resolved.config.compute.isa, resolved.config.compute.threads) == (
        "cpu",
        "avx2",
        2,
    )
    assert len(resolved.reasons) >= 4


def test_a_fifth_of_the_pool_is_for_prefixes_that_nobody_holds_but_no_less_than_a_context() -> None:
    resolved = resolve(Config(), LAPTOP, MODEL)
    assert resolved.config.cache.prefix_cache_bytes == resolved.pages[0] // 5 * 64 * 23040
    assert any("for prefixes" in reason for reason in resolved.reasons)
    large = resolve(Config(), LAPTOP, replace(MODEL, context=40_000))
    assert large.config.cache.prefix_cache_bytes == 625 * 64 * 23040
    without = resolve(Config(cache=CacheOptions(prefix_cache=False)), LAPTOP, MODEL)
    assert not any("for prefixes" in reason for reason in without.reasons)
    chosen = resolve(Config(cache=CacheOptions(prefix_cache_bytes=0)), LAPTOP, MODEL)
    assert chosen.config.cache.prefix_cache_bytes == 0


WINDOWED = replace(MODEL, context=32768, kv_groups=(GroupFacts(4096), GroupFacts(22528, 512)))


def test_a_window_leaves_more_of_the_same_bytes_for_what_forgets_nothing() -> None:
    resolved = resolve(Config(), LAPTOP, WINDOWED)
    full, window = resolved.pages
    assert 1 << 30 >= (full * 4096 + window * 22528) * 64 > (1 << 30) - 2 * 26624 * 64
    assert full > 1.5 * (1 << 30) // 26624 // 64 and resolved.context == 32768
    assert window == 512 // 64 + SPARE_PAGES + 2 * 8 + full // 2
    assert f"KV cache {full} pages of 64 tokens, {window} for windows of 512: 1024 MiB" in "\n".join(resolved.reasons)
    kept = resolved.config.cache.prefix_cache_bytes
    assert kept and 0 <= kept - max(full // 5, 512) * (full * 4096 + window * 22528) * 64 / full < 1
    assert resolve(resolved.config, LAPTOP, WINDOWED).config == resolved.config


def test_a_short_window_leaves_yet_more() -> None:
    short = replace(WINDOWED, kv_groups=(GroupFacts(24576), GroupFacts(24576, 128)))
    full, window = resolve(Config(), LAPTOP, short).pages
    assert window == 128 // 64 + SPARE_PAGES + 2 * 8 + full // 4
    assert full > 1.5 * (1 << 30) // 49152 // 64


def test_with_room_enough_a_window_has_what_all_that_run_can_hold() -> None:
    config = Config(cache=CacheOptions(max_total_tokens=1 << 20))
    full, window = resolve(config, LAPTOP, WINDOWED).pages
    assert full == (1 << 20) // 64
    assert window == 64 * (512 // 64 + SPARE_PAGES) + 2 * 8 + full // 8


def test_a_window_never_has_fewer_pages_than_one_sequence_needs_nor_more_than_are_of_use() -> None:
    for tokens in (256, 512, 1024, 4096, 16384):
        for step in (1, 512, 8192):
            config = Config(cache=CacheOptions(max_total_tokens=tokens), schedule=ScheduleOptions(step_tokens=step))
            full, window = resolve(config, LAPTOP, WINDOWED).pages
            lone = -(-(512 + max(step, 64 + 16)) // 64) + SPARE_PAGES
            assert min(full, lone) <= window <= full


def test_a_model_of_windows_alone_has_context_as_its_windows_allow() -> None:
    model = replace(WINDOWED, kv_groups=(GroupFacts(0), GroupFacts(22528, 128)))
    full, window = resolve(Config(cache=CacheOptions(kv_cache_bytes=256 << 20)), LAPTOP, model).pages
    assert window * 22528 * 64 <= 256 << 20 and full > 2 * window


def test_pages_that_cost_nothing_are_as_many_as_can_be_of_use() -> None:
    """Of those that run and as many prefixes as the default runs, each as long as the context."""
    model = ModelFacts(2048, (GroupFacts(0), GroupFacts(64, 128)))
    full, window = resolve(Config(), LAPTOP, model).pages
    assert full == (64 + 64) * (2048 // 64 + SPARE_PAGES) > window > 64 * (128 // 64 + SPARE_PAGES)
    asked = Config(model=ModelOptions(context_length=1024), schedule=ScheduleOptions(max_running_requests=1))
    assert resolve(asked, LAPTOP, model).pages[0] == (1 + 64) * (1024 // 64 + SPARE_PAGES)
    same = Config(cache=CacheOptions(max_total_tokens=full * 64))
    assert resolve(same, LAPTOP, model).pages == (full, window), "as an engine is started anew"


def test_tokens_that_a_cache_is_said_to_hold() -> None:
    def told(*groups: KVGroup) -> int:
        return ModelSpec(
            name="", architecture="", vocab_size=1, context=1, eos_ids=(), page_size=64, kv_groups=groups
        ).kv_tokens

    window, other = KVGroup((0,), 8, 50, 128), KVGroup((1,), 8, 70, 256)
    assert told(KVGroup((2,), 8, 400)) == told(KVGroup((2,), 8, 400), window) == 400 * 64
    assert told(KVGroup((), 0, 400), other, window) == 50 * 64, "what is nobody's keys is no memory"


def test_too_little_memory_is_told_of_each_group() -> None:
    tiny = Config(cache=CacheOptions(kv_cache_bytes=1 << 20))
    with pytest.raises(CannotStart, match="gives 0 tokens at 23040 bytes each"):
        resolve(tiny, LAPTOP, MODEL)
    with pytest.raises(CannotStart, match="at 4096 bytes each, beside 22528 for each in windows of 512"):
        resolve(tiny, LAPTOP, WINDOWED)


def test_little_memory_lowers_the_context_and_says_why() -> None:
    resolved = resolve(Config(), replace(LAPTOP, free_bytes=256 << 20), MODEL)
    assert resolved.context == (resolved.pages[0] - SPARE_PAGES) * 64 < 8192
    assert "KV cache" in resolved.context_reason and "8192" in resolved.context_reason


def test_without_compiled_kernels_numpy_serves() -> None:
    resolved = resolve(Config(), replace(LAPTOP, isa=""), MODEL)
    assert resolved.config.compute.backend == "reference"
    with pytest.raises(CannotStart, match="compiler"):
        resolve(Config(compute=ComputeOptions(backend="cpu")), replace(LAPTOP, isa=""), MODEL)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Config(cache=CacheOptions(kv_cache_bytes=1000)), "--kv-cache-bytes"),
        (Config(cache=CacheOptions(max_total_tokens=64)), "--max-total-tokens"),
        (Config(model=ModelOptions(context_length=9000)), "8192"),
        (
            Config(model=ModelOptions(context_length=4096), cache=CacheOptions(max_total_tokens=1000)),
            "--context-length 4096",
        ),
    ],
)
def test_what_does_not_fit_is_refused(config: Config, words: str) -> None:
    with pytest.raises(CannotStart, match=words):
        resolve(config, LAPTOP, MODEL)


@pytest.mark.parametrize(
    "argv",
    [
        ("--page-size", "0"),
        ("--max-running-requests", "0"),
        ("--threads", "-1"),
        ("--step-tokens", "0"),
        ("--step-seconds", "nan"),
        ("--context-length", "0"),
        ("--port", "70000"),
        ("--drain-timeout", "inf"),
        ("--max-queued-requests", "0"),
    ],
)
def test_numbers_out_of_bounds_are_refused_by_name(argv: tuple[str, str]) -> None:
    with pytest.raises(CannotStart, match=argv[0].removeprefix("--").replace("-", "_")):
        parsed(*argv)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("compute: {compute: fst}", "compute.compute must be one of fast, exact"),
        ("server: {api_key: 5}", "server.api_key"),
        ("server: 5", "mapping"),
        ("- server", "mapping"),
    ],
)
def test_values_of_a_config_file_that_a_setting_cannot_have(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(CannotStart, match=words):
        parsed("--config", str(tmp_path / "c.yaml"), "--port", "0")


def test_an_empty_section_of_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("server:\n")
    assert parsed("--config", str(tmp_path / "c.yaml"), "--port", "1").server.port == 1


def test_an_instruction_set_for_numpy_is_refused() -> None:
    with pytest.raises(CannotStart, match="--isa avx2"):
        resolve(Config(compute=ComputeOptions(backend="reference", isa="avx2")), LAPTOP, MODEL)


def test_resolving_is_idempotent() -> None:
    once = resolve(Config(), LAPTOP, MODEL)
    assert resolve(once.config, LAPTOP, MODEL).config == once.config


def test_every_leaf_has_help_and_a_name_of_its_own() -> None:
    leaves = [leaf for _, _, leaf in walk(Config)]
    assert all(leaf.metadata["help"] for leaf in leaves)
    assert len({leaf.name for leaf in leaves}) == len(leaves)


def test_flags_become_settings(tmp_path: Path) -> None:
    config = parsed(
        "some/model",
        "--port",
        "0",
        "--context-length",
        "32k",
        "--kv-cache-bytes",
        "512m",
        "--disable-radix-cache",
        "--api-key",
        "a",
        "b",
    )
    assert (config.model.model, config.server.port, config.model.context_length) == ("some/model", 0, 32768)
    assert (config.cache.kv_cache_bytes, config.cache.prefix_cache, config.server.api_key) == (
        512 << 20,
        False,
        ("a", "b"),
    )
    assert parsed() == Config()


@pytest.mark.parametrize("suffix", [".yaml", ".toml", ".json"])
def test_a_config_file_and_flags_that_win_over_it(tmp_path: Path, suffix: str) -> None:
    text = {
        ".yaml": "model: {model: m, context_length: 2k}\nserver: {port: 1, api_key: x}\n",
        ".toml": '[model]\nmodel = "m"\ncontext_length = "2k"\n[server]\nport = 1\napi_key = "x"\n',
        ".json": json.dumps({"model": {"model": "m", "context_length": "2k"}, "server": {"port": 1, "api_key": ["x"]}}),
    }[suffix]
    path = tmp_path / f"c{suffix}"
    path.write_text(text)
    config = parsed("--config", str(path), "--port", "2")
    assert (config.model.model, config.model.context_length, config.server.port, config.server.api_key) == (
        "m",
        2048,
        2,
        ("x",),
    )


@pytest.mark.parametrize(
    "tree",
    [
        {"modle": {}},
        {"cache": {"page": 1}},
        {"server": {"port": "x"}},
        {"server": {"port": True}},
        {"server": {"host": 3}},
    ],
)
def test_a_wrong_config_file_is_refused_by_name(tree: dict[str, object]) -> None:
    with pytest.raises(CannotStart):
        cli.build(tree)  # type: ignore[arg-type]


def test_the_flags_page_is_current() -> None:
    assert (ROOT / "docs" / "flags.md").read_text() == cli.flags_page(), "run python -m radixmill.cli > docs/flags.md"


def test_sglangs_flags_set_ours() -> None:
    config = sglang(
        "--model-path",
        "m",
        "--host",
        "0.0.0.0",
        "--port",
        "1",
        "--max-total-tokens",
        "4096",
        "--tp",
        "1",
        "--disable-radix-cache",
    )
    assert (config.model.model, config.server.host, config.server.port, config.cache.max_total_tokens) == (
        "m",
        "0.0.0.0",
        1,
        4096,
    )
    assert not config.cache.prefix_cache
    assert sglang("--enable-mixed-chunk", "--skip-server-warmup", "--mem-fraction-static", "0.8") == Config()


def test_quantisation_is_the_files_own_or_asked_for() -> None:
    for own in ("awq", "gptq", "gguf", "auto"):
        assert sglang("--quantization", own) == Config()
    assert sglang("--quantization", "w4").compute.quantization == "w4"


@pytest.mark.parametrize(
    "argv",
    [
        ("--tp-size", "2"),
        ("--trust-remote-code",),
        ("--enable-lora",),
        ("--quantization", "fp8"),
        ("--device", "cuda"),
        ("--dtype", "float16"),
        ("--kv-cache-dtype", "fp8_e5m2"),
        ("--grammar-backend", "none"),
    ],
)
def test_what_we_cannot_keep_is_refused_with_a_reason(argv: tuple[str, ...]) -> None:
    with pytest.raises(CannotStart, match=argv[0]):
        sglang(*argv)


@pytest.mark.parametrize(
    "argv",
    [
        *(("--grammar-backend", name) for name in ("auto", "llguidance", "xgrammar", "outlines")),
        ("--tool-call-parser", "auto"),
        ("--reasoning-parser", "auto"),
    ],
)
def test_what_holds_anyway_may_be_asked_for(argv: tuple[str, ...]) -> None:
    assert sglang(*argv) == Config()


def test_no_flag_denies_what_is_there() -> None:
    reasons = [flag.why for flag in compat.FLAGS if "grammar" in flag.names[0] or "parser" in flag.names[0]]
    assert len(reasons) == 4 and not any("not built" in reason for reason in reasons)


def test_what_keys_and_values_are_kept_as() -> None:
    assert parsed("--kv-cache-dtype", "int8").cache.kv_cache_dtype == "int8"
    assert sglang("--kv-cache-dtype", "int8").cache.kv_cache_dtype == "int8"
    with pytest.raises(SystemExit) as refused:
        parsed("--kv-cache-dtype", "fp8_e4m3")
    assert refused.value.code == 2
    assert resolve(Config(), LAPTOP, MODEL).config.cache.kv_cache_dtype == "f16"
    asked = resolve(Config(cache=CacheOptions(kv_cache_dtype="int8")), LAPTOP, replace(MODEL, kv_dtype="int8"))
    assert any("as int8" in reason for reason in asked.reasons)


def test_every_starred_flag_of_sglang_is_known() -> None:
    text = shared("..", "reference", "sglang-flags.md").read_text()
    starred = set(re.findall(r"★`(--[a-z0-9-]+)`", text))
    known = {name for flag in compat.FLAGS for name in flag.names}
    missing = starred - known
    assert not missing
    assert len(starred) > 60
