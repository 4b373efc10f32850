"""SGLang's launch flags: each honoured, or refused with the reason. One table.

A flag either *sets* one of our settings, or is *inert* (what it asks for always holds here, or means nothing here), or is
*limited* to the values that we can keep; any other value ends the command with exit code 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from radixmill.cli import build, size
from radixmill.core.config import Config
from radixmill.core.errors import CannotStart


@dataclass(frozen=True)
class Flag:
    """One flag of SGLang's command line."""

    names: tuple[str, ...]
    why: str  # shown in --help, and as the reason of a refusal
    sets: str = ""  # dotted path of our setting
    kind: Callable[[str], Any] = str
    switch: bool = False
    many: bool = False
    value: Any = None  # what a switch sets
    allowed: tuple[Any, ...] | None = None  # None: any


def _sets(names: str, sets: str, kind: Callable[[str], Any] = str, **more: Any) -> Flag:
    return Flag(tuple(names.split()), f"sets {sets}", sets=sets, kind=kind, **more)


def _inert(names: str, why: str, kind: Callable[[str], Any] = str, **more: Any) -> Flag:
    return Flag(tuple(names.split()), why, kind=kind, **more)


def _limited(names: str, allowed: tuple[Any, ...], why: str, kind: Callable[[str], Any] = str, **more: Any) -> Flag:
    return Flag(tuple(names.split()), why, kind=kind, allowed=allowed, **more)


def _quantization(name: str) -> str:
    """Formats that a file itself says it has are our `auto`."""
    return "auto" if name in ("awq", "gptq", "gguf") else name


def _guesses(name: str) -> str:
    """Prompt lookup by our name."""
    return "ngram" if name == "NGRAM" else name


_ONE = "one process computes: parallelism over devices or nodes is not built"
_SPEC = "NGRAM alone is built: guesses from a sequence's own text, without a draft model"
_TIER = "the KV cache has one tier: memory"
_LORA = "adapters are not built"

FLAGS = (
    _sets("--model-path --model", "model.model"),
    _sets("--tokenizer-path", "model.tokenizer"),
    _sets("--revision", "model.revision"),
    _limited(
        "--load-format",
        ("auto", "safetensors", "gguf", "dummy"),
        "pickled checkpoints are never loaded",
        sets="model.load_format",
    ),
    _limited(
        "--trust-remote-code", (), "weights are data: no code of a checkpoint is ever run", switch=True, value=True
    ),
    _sets("--context-length", "model.context_length", size),
    _limited("--is-embedding", (), "embeddings are not built", switch=True, value=True),
    _limited("--dtype", ("auto",), "the compute format follows the checkpoint; see --compute of `radixmill serve`"),
    _limited(
        "--quantization",
        ("auto", "w8", "w4"),
        "auto, awq, gptq, gguf: as the file says; w8, w4: quantised at load",
        _quantization,
        sets="compute.quantization",
    ),
    _limited(
        "--kv-cache-dtype",
        ("auto", "f16", "f32", "int8"),
        "keys and values are f16 (auto), f32, or int8 with a scale per token and head",
        sets="cache.kv_cache_dtype",
    ),
    _sets("--host", "server.host"),
    _sets("--port", "server.port", int),
    _sets("--api-key", "server.api_key", many=True),
    _sets("--admin-api-key", "server.admin_api_key", many=True),
    _sets("--served-model-name", "model.served_model_name", many=True),
    _inert("--skip-server-warmup", "there is no warm-up request", switch=True),
    _sets("--chat-template", "model.chat_template"),
    _sets("--reasoning-parser", "model.reasoning_parser"),
    _sets("--tool-call-parser", "model.tool_call_parser"),
    _sets("--trust-parsers", "model.trust_parsers", switch=True, value=True),
    _sets("--trust-request-chat-template", "server.trust_request_chat_template", switch=True, value=True),
    _sets("--default-chat-template-kwargs", "model.default_chat_template_kwargs"),
    _limited("--sampling-defaults", ("model", "openai"), "model or openai", sets="server.sampling_defaults"),
    _limited(
        "--preferred-sampling-params",
        ("{}",),
        "server-side sampling parameters are not built; send them with the request",
    ),
    _inert("--enable-cache-report", "cached_tokens are always reported", switch=True),
    _limited("--stream-interval", (1,), "every token is streamed as it comes", int),
    _sets("--incremental-streaming-output", "server.incremental_streaming_output", switch=True, value=True),
    _limited("--enable-custom-logit-processor", (), "requests never carry code", switch=True, value=True),
    _inert("--mem-fraction-static", "a GPU setting; on a CPU see --kv-cache-bytes of `radixmill serve`", float),
    _sets("--max-running-requests", "schedule.max_running_requests", int),
    _sets("--max-queued-requests", "server.max_queued_requests", int),
    _sets("--max-total-tokens", "cache.max_total_tokens", int),
    _sets("--chunked-prefill-size", "schedule.step_tokens", int),
    _limited("--schedule-policy", ("fcfs", "lpm"), "policies: fcfs, lpm", sets="schedule.schedule_policy"),
    _inert(
        "--schedule-conservativeness", "memory is never overcommitted by an estimate: preemption loses nothing", float
    ),
    _sets("--page-size", "cache.page_size", int),
    _sets("--enable-priority-scheduling", "server.trust_priority", switch=True, value=True),
    _limited("--schedule-low-priority-values-first", (), "higher priorities always go first", switch=True, value=True),
    _inert(
        "--priority-scheduling-preemption-threshold",
        "the lowest priority is preempted first, and only where memory is short or another key has had far less",
        int,
    ),
    _sets("--disable-radix-cache", "cache.prefix_cache", switch=True, value=False),
    _limited("--radix-eviction-policy", ("lru",), "eviction is least recently used first"),
    _inert("--enable-mixed-chunk", "prefill chunks and decode tokens always share a step", switch=True),
    _inert("--disable-overlap-schedule", "overlap is off unless asked for", switch=True),
    _inert("--random-seed", "a request without a seed gets one of its own, shown in its answer", int),
    _inert("--watchdog-timeout", "an engine that dies is restarted at once", float),
    _limited("--tp-size --tensor-parallel-size --tp", (1,), _ONE, int),
    _limited("--dp-size --data-parallel-size --dp", (1,), _ONE, int),
    _limited("--pp-size --pipeline-parallel-size --pp", (1,), _ONE, int),
    _limited("--ep-size --expert-parallel-size --ep", (1,), _ONE, int),
    _limited("--attn-dp-size", (1,), _ONE, int),
    _limited("--nnodes", (1,), _ONE, int),
    _limited("--node-rank", (0,), _ONE, int),
    _limited("--dist-init-addr --nccl-init-addr", (), _ONE),
    _limited("--device", ("auto", "cpu"), "kernels exist for CPUs only"),
    _limited("--attention-backend", ("auto", "torch_native", "intel_amx"), "there is one attention kernel per backend"),
    _limited(
        "--grammar-backend",
        ("auto", "llguidance", "xgrammar", "outlines"),
        "grammars are built by llguidance here, whichever is named, and can't be switched off",
    ),
    _inert("--moe-runner-backend", "no model of this server has experts"),
    _inert("--enable-deterministic-inference", "results never depend on the batch", switch=True),
    _inert("--cuda-graph-max-bs-decode", "no CUDA graphs on a CPU", int),
    _inert("--disable-cuda-graph", "no CUDA graphs on a CPU", switch=True),
    _limited("--speculative-algorithm", ("ngram",), _SPEC, _guesses, sets="schedule.speculation"),
    _limited("--speculative-draft-model-path --speculative-draft-model", (), _SPEC),
    _limited("--speculative-num-steps", (), _SPEC, int),
    _limited("--speculative-eagle-topk", (), _SPEC, int),
    _sets("--speculative-num-draft-tokens", "schedule.draft_tokens", int),
    _limited("--enable-hierarchical-cache --enable-hicache", (), _TIER, switch=True, value=True),
    _inert("--hicache-ratio", _TIER, float),
    _limited("--hicache-size", (0,), _TIER, int),
    _limited("--hicache-storage-backend", (), _TIER),
    _limited("--enable-lora", (), _LORA, switch=True, value=True),
    _limited("--lora-paths", (), _LORA, many=True),
    _limited("--max-lora-rank", (), _LORA, int),
    _limited("--max-loras-per-batch", (), _LORA, int),
    _limited(
        "--log-level", ("debug", "info", "warning", "error"), "debug, info, warning or error", sets="server.log_level"
    ),
    _limited("--log-requests", (), "request logging is not built", switch=True, value=True),
    _inert("--log-requests-level", "request logging is not built", int),
    _limited("--enable-metrics", (), "Prometheus metrics are not built", switch=True, value=True),
    _inert("--decode-log-interval", "there are no per-batch log lines", int),
    _limited("--disaggregation-mode", ("null",), "prefill and decode run in one process"),
)


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m radixmill.launch_server`; abbreviations work, as users of SGLang expect."""
    made = argparse.ArgumentParser(
        prog="python -m radixmill.launch_server",
        description="Serve a model, with SGLang's flags. Every flag is honoured or refused with a reason (exit code 2). "
        "`radixmill serve` has flags of our own.",
    )
    for flag in FLAGS:
        dest = flag.names[0]
        if flag.switch:
            made.add_argument(*flag.names, dest=dest, action="store_true", default=argparse.SUPPRESS, help=flag.why)
        else:
            made.add_argument(
                *flag.names,
                dest=dest,
                type=flag.kind,
                nargs="+" if flag.many else None,
                default=argparse.SUPPRESS,
                metavar="X",
                help=flag.why,
            )
    return made


def config_from(args: argparse.Namespace) -> Config:
    """Our config for these flags. Raises CannotStart for a value that we can't keep."""
    return build(tree_of(vars(args)))


def tree_of(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Our settings, by section, for these flags by their first names. Raises CannotStart for a value that we can't keep."""
    tree: dict[str, dict[str, Any]] = {}
    for flag in FLAGS:
        if flag.names[0] not in given:
            continue
        value = flag.value if flag.switch else given[flag.names[0]]
        if flag.allowed is not None and value not in flag.allowed:
            shown = "" if flag.switch else f" {value}"
            choice = f"It may be {' or '.join(map(str, flag.allowed))}" if flag.allowed else "Leave it out"
            raise CannotStart(f"{flag.names[0]}{shown}: {flag.why}", choice)
        if flag.sets:
            section, key = flag.sets.split(".")
            tree.setdefault(section, {})[key] = tuple(value) if flag.many else value
    if tree.get("schedule", {}).get("step_tokens") == -1:
        raise CannotStart("--chunked-prefill-size -1: a step's tokens are always bounded", "Leave it out")
    return tree
