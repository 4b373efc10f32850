"""The server's settings: a frozen tree. Flags, their help and the docs page are generated from these dataclasses.

A field's metadata: `help` (one sentence), `flags` (other spellings on the command line), `choices`, `metavar`,
`low` and `high` (of a number, both included).
The value None (or "auto") means: let `resolve` choose; what it chose, and why, is in the resolved tree and its reasons.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, get_type_hints

from radixmill.core.errors import CannotStart, NoRoom

LAST_WORDS = 3.0  # seconds that a front has to tell its clients that their answers end early


def option(default: Any, help: str, *, flags: tuple[str, ...] = (), choices: tuple[str, ...] = (), **more: Any) -> Any:
    """A dataclass field that is also a command-line flag."""
    meta = {"help": help, "flags": flags, "choices": choices, **more}
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how its files are read."""

    model: str = option(
        "smollm2-135m-instruct",
        "a folder (Hugging Face layout), a .gguf file, a hub id, or a short name of the catalogue",
        flags=("--model-path",),
        positional=True,
    )
    tokenizer: str | None = option(
        None, "folder or file of the tokenizer, if not the model's own", flags=("--tokenizer-path",)
    )
    revision: str | None = option(None, "branch, tag or commit of a hub id")
    served_model_name: tuple[str, ...] = option((), "name(s) in the API; the first is the one shown")
    load_format: str = option(
        "auto", "where weights come from; dummy: random ones", choices=("auto", "safetensors", "gguf", "dummy")
    )
    context_length: int | None = option(
        None,
        "tokens a sequence may have, prompt and output together (8192, 32k, …)",
        flags=("--max-model-len",),
        size=True,
        low=2,
    )
    chat_template: str | None = option(
        None,
        "instead of the model's own chat template: a .jinja file, or a name: one of the model's named templates, chatml "
        "or lines",
        metavar="FILE|NAME",
    )
    reasoning_parser: str = option(
        "auto",
        "how the model marks thoughts: a parser's name, checked against its chat template; auto: found there; none: "
        "thoughts stay text",
        metavar="NAME",
    )
    tool_call_parser: str = option(
        "auto",
        "how the model writes tool calls: a parser's name, checked against its chat template; auto: found there; none: "
        "calls stay text",
        metavar="NAME",
    )
    trust_parsers: bool = option(False, "start although a named parser does not read what the chat template writes")
    default_chat_template_kwargs: str = option(
        "{}", "JSON: what the chat template is told where a request's own chat_template_kwargs do not say otherwise"
    )
    allow_unknown_config: bool = option(False, "load although config.json has keys that we do not know")


@dataclass(frozen=True)
class ComputeOptions:
    """How the numbers are computed."""

    compute: str = option(
        "fast",
        "fast: int8 activations on quantised weights, f16 KV, latents as integers of 11 to 13 bits; exact: f32 activations "
        "and KV over the same weights",
        choices=("fast", "exact"),
    )
    quantization: str = option(
        "auto",
        "auto: weights as their file has them; w8, w4: f32, f16 and bf16 matrices are quantised at load, to 8 bits or to 4 "
        "(the embedding and the head to 8); what the file has quantised stays as it is",
        choices=("auto", "w8", "w4"),
    )
    logprobs_mode: str = option(
        "raw",
        "log-probabilities of output tokens: raw: the model's own; processed: after penalties, bias, mask and temperature",
        choices=("raw", "processed"),
    )
    backend: str = option("auto", "who computes; reference is plain NumPy", choices=("auto", "cpu", "reference"))
    threads: int | None = option(None, "compute threads; default: the cores this process may use", low=1)
    isa: str = option(
        "auto",
        "instruction set of the C++ kernels",
        choices=("auto", "avx512bf16", "avx512", "avxvnni", "avx2", "neon-dotprod", "neon", "portable"),
    )


@dataclass(frozen=True)
class CacheOptions:
    """The KV cache."""

    page_size: int = option(64, "positions in a page of the KV cache", low=1)
    kv_cache_dtype: str = option(
        "auto",
        "what keys and values are kept as; auto: f16 in fast mode, f32 in exact mode; int8: half the memory of f16, with"
        " a scale per token and head",
        choices=("auto", "f16", "f32", "int8"),
    )
    kv_cache_bytes: int | None = option(
        None, "bytes for the KV cache (512m, 4g, …); default: a quarter of free memory, at most 1g", size=True
    )
    max_total_tokens: int | None = option(None, "tokens the KV cache holds; overrides --kv-cache-bytes", size=True)
    prefix_cache_bytes: int | None = option(
        None,
        "bytes of KV kept for reuse that no running request holds; default: a fifth of the KV cache, and at least one whole"
        " context; running requests may use all of it",
        size=True,
    )
    prefix_cache: bool = option(
        True,
        "keep the KV of finished prompts and outputs for reuse",
        off=("--no-prefix-cache", "--disable-radix-cache"),
    )
    shared_prefix_cache: bool = option(
        False,
        "requests with different API keys share cached prefixes; faster, but whoever has a key can find out by timing what"
        " others have sent",
    )


@dataclass(frozen=True)
class ScheduleOptions:
    """Who runs next."""

    max_running_requests: int = option(64, "sequences that run at once", low=1)
    schedule_policy: str = option(
        "fcfs",
        "order of the queue: first come first served, or longest cached prefix first with ageing",
        choices=("fcfs", "lpm"),
    )
    step_tokens: int = option(
        512,
        "most tokens computed in one step; adapts downwards so that a step takes at most a second",
        flags=("--chunked-prefill-size",),
        low=1,
    )
    step_seconds: float = option(
        1.0, "how long a step may take; the token budget follows what was measured", low=0.001, high=3600.0
    )
    overlap: bool = option(
        False, "schedule the next step while the device computes this one; there is no speculation then"
    )
    speculation: str = option(
        "auto",
        "check several guessed tokens in one step, guesses being what followed the same words before; never changes a"
        " result. auto: where it is measured to pay; ngram: wherever there is a guess",
        choices=("auto", "off", "ngram"),
    )
    draft_tokens: int = option(7, "most guessed tokens that a step checks for one sequence", low=1, high=64)


@dataclass(frozen=True)
class ServerOptions:
    """The HTTP side."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 opens the server to the network")
    port: int = option(30000, "port to listen on; 0 picks a free one", low=0, high=65535)
    api_key: tuple[str, ...] = option(
        (),
        "key(s), one of which clients must send as a bearer token or as x-api-key. Others on the machine can see them in the"
        " list of processes: a file, or the variable RADIXMILL_API_KEY, shows them to nobody",
        secret=True,
    )
    api_key_file: str | None = option(
        None, "file of more keys, one a line (# begins a comment); read again when it changes", metavar="FILE"
    )
    admin_api_key: tuple[str, ...] = option(
        (),
        "key(s) that orders about the whole server need (/admin/…, /flush_cache, /abort_request); good for everything else"
        " too. Also RADIXMILL_ADMIN_API_KEY",
        secret=True,
    )
    admin_api_key_file: str | None = option(
        None, "file of more admin keys, one a line; read again when it changes", metavar="FILE"
    )
    sampling_defaults: str = option(
        "model",
        "model: defaults from generation_config.json; openai: temperature 1, top_p 1",
        choices=("model", "openai"),
    )
    strict_fields: bool = option(
        False, "answer 400 to request fields we have never heard of instead of naming them in X-RadixMill-Ignored"
    )
    incremental_streaming_output: bool = option(
        False, "streams of /generate tell what is new, instead of all that has been said so far"
    )
    unsupported_tools: str = option(
        "refuse",
        "tools of /v1/responses and /v1/messages that a server would have to run itself (web_search, …). refuse: 400; drop:"
        " leave them out and name them in X-RadixMill-Ignored",
        choices=("refuse", "drop"),
    )
    store_ttl: float = option(
        86400.0, "seconds that responses, and chat completions with store, are kept in memory", low=0.0, high=31536000.0
    )
    store_entries: int = option(1024, "most of them kept; the oldest go first", low=0)
    store_bytes: int = option(64 << 20, "most bytes of them kept, as JSON", size=True, low=0)
    max_body_bytes: int = option(32 << 20, "largest request body", size=True, low=1)
    max_prompt_tokens: int | None = option(
        None, "most tokens of a prompt; more get 400. Default: what the context holds", size=True, low=1
    )
    max_header_bytes: int = option(32 << 10, "most bytes of a request's head", size=True, low=256)
    max_headers: int = option(128, "most header fields of a request", low=8)
    max_url_bytes: int = option(8 << 10, "longest path and query of a request", size=True, low=64)
    header_timeout: float = option(
        10.0, "seconds in which a request's head must be complete, from its first byte or the connection on", low=0.01
    )
    body_timeout: float = option(
        30.0, "seconds for a request's body, and one more for each --body-rate bytes of it", low=0.01
    )
    body_rate: int = option(16 << 10, "bytes a second of a body that is being sent, at the least", size=True, low=1)
    keep_alive_timeout: float = option(
        75.0, "seconds that a connection without a request is kept; longer than proxies keep theirs", low=0.01
    )
    write_timeout: float = option(
        60.0, "seconds after which a client that does not read its answer is dropped", low=0.01
    )
    max_connections: int = option(
        4096, "connections of one HTTP process, of which --fronts are so many; more get 503", low=1
    )
    max_connections_per_address: int = option(
        2048, "connections from one address (of IPv6: one /64 network); more get 429; 0: any number", low=0
    )
    max_requests_per_key: int = option(
        1024, "requests that one API key may have open at once at each front; more get 429; 0: any number", low=0
    )
    max_queued_requests: int = option(
        1024, "requests that may be in flight or waiting; more get 429. Each front has an equal share", low=1
    )
    max_queued_sequences: int = option(
        16_384,
        "sequences (prompts × choices) of the requests in flight or waiting; more get 429, but for a request that is alone."
        " Each front has an equal share",
        low=1,
    )
    trust_request_chat_template: bool = option(
        False,
        "take `chat_template` from requests: a program of whoever asks, run in a sandbox, in a process with limits of time"
        " and memory; with it, clients write any control token into their prompts",
    )
    trust_priority: bool = option(
        False,
        "a request's `priority` counts over other keys' requests too, not only its own key's; an admin key's always does",
    )
    max_queued_tokens: int = option(
        1 << 20,
        "tokens of prompts that may wait for their answers to begin; more get 429, but for a prompt that waits alone. Each"
        " front has an equal share",
        size=True,
        low=1,
    )
    max_queue_time: float = option(
        600.0,
        "seconds a request may wait for its first step, then 429; 0: for ever. Official clients wait no longer",
        low=0.0,
        high=86400.0,
    )
    max_running_time: float = option(
        3600.0,
        "seconds a request may take from its arrival to its end, then 408; its own `timeout` may be shorter. 0: for ever",
        flags=("--request-timeout",),
        low=0.0,
        high=604800.0,
    )
    fronts: int = option(
        1,
        "HTTP processes; one more for each core that tokenising and streaming fill. Each keeps what it stored itself",
        low=1,
        high=64,
    )
    stall_timeout: float = option(
        5.0,
        "seconds without progress, while there is work, after which the engine is killed and its work resumed by another",
        low=0.1,
        high=86400.0,
    )
    record_dir: str | None = option(
        None,
        "folder that gets the record of every request that the engine failed, for `radixmill replay`",
        metavar="DIR",
    )
    receipt_key: str | None = option(
        None,
        "Ed25519 key (PEM, PKCS8) that signs receipts; made if it is not there; default: receipt-key.pem in the cache"
        " folder",
        metavar="FILE",
    )
    drain_timeout: float = option(30.0, "seconds to finish live requests after SIGTERM", low=0.0, high=86400.0)
    log_requests: bool = option(
        False,
        "a line for each request: its id, route, status, seconds and tokens, and the first digits of its key's digest",
    )
    log_prompts: bool = option(False, "what was asked and answered, in the log; and errors there may quote it")
    log_level: str = option("info", "what is logged", choices=("debug", "info", "warning", "error"))


@dataclass(frozen=True)
class Config:
    """All settings of one server."""

    model: ModelOptions = field(default_factory=ModelOptions)
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    cache: CacheOptions = field(default_factory=CacheOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    server: ServerOptions = field(default_factory=ServerOptions)


@dataclass(frozen=True)
class Hardware:
    """What the machine has, as far as settings depend on it."""

    cores: int
    free_bytes: int
    isa: str  # best instruction set that a compiled kernel and this machine share; "" without compiled kernels


@dataclass(frozen=True)
class GroupFacts:
    """Layers whose keys and values live and die together. The first group has no window, and perhaps no bytes."""

    bytes_per_token: int  # as the backend lays them out in pages of the size asked for
    window: int | None = None  # positions a query looks back, itself included; None: all


@dataclass(frozen=True)
class ModelFacts:
    """What settings need to know of the model."""

    context: int
    kv_groups: tuple[GroupFacts, ...]
    kv_dtype: str = "f16"  # what keys and values are kept as

    @property
    def kv_bytes_per_token(self) -> int:
        """Of all layers together."""
        return sum(group.bytes_per_token for group in self.kv_groups)


@dataclass(frozen=True)
class Resolved:
    """Settings with every "auto" replaced, the sizes that follow from them, and a sentence for each choice."""

    config: Config
    pages: tuple[int, ...]  # per KV group
    context: int
    context_reason: str
    reasons: tuple[str, ...]


def with_model(config: Config, model: str) -> Config:
    """The settings for another model, or for the same one read again. What names files of the old one falls away."""
    options = config.model
    if model != options.model:
        options = replace(options, model=model, revision=None, tokenizer=None)
    return replace(config, model=options)


# A lone sequence may need two pages more than its tokens fill: the copy of a partly matched page, and its own prompt's
# ragged tail, which the tree adopts.
SPARE_PAGES = 2
PREFIXES = 64  # that are kept by a model with nothing but windows, whose other pages have no bytes
USUAL = 1024  # tokens of a sequence, where memory is divided between layers with and without a window
SMALL_STEP = 16  # tokens that a step may have, besides one for each decoding row, whatever --step-tokens says


def resolve(config: Config, hardware: Hardware, model: ModelFacts) -> Resolved:
    """Choose what was left open. Pure: the same arguments give the same answer."""
    compute, chosen = choose_compute(config.compute, hardware)
    reasons, cache = list(chosen), config.cache
    sizes, why = _kv_pages(config, hardware, model)
    pages = sizes[0]
    context, context_reason = _context(config, model, (pages - SPARE_PAGES) * cache.page_size, why)
    form = "" if cache.kv_cache_dtype == "auto" else f" as {model.kv_dtype}"
    windows = (f", {n} for windows of {g.window}" for g, n in zip(model.kv_groups, sizes, strict=True) if g.window)
    reasons.append(f"KV cache {pages} pages of {cache.page_size} tokens{form}{''.join(windows)}: {why}")
    if cache.prefix_cache and cache.prefix_cache_bytes is None:
        part = max(pages // 5, -(-context // cache.page_size))
        kept = -(-part * _bytes(sizes, model) * cache.page_size // pages)
        cache = replace(cache, prefix_cache_bytes=kept)
        reasons.append(f"{kept >> 20} MiB of it for prefixes that no request holds; running ones may use all of it")
    reasons.append(f"context {context_reason}")
    cache = replace(cache, kv_cache_dtype=model.kv_dtype)
    return Resolved(
        replace(config, compute=compute, cache=cache),
        sizes,
        context,
        context_reason,
        tuple(reasons),
    )


def choose_compute(compute: ComputeOptions, hardware: Hardware) -> tuple[ComputeOptions, tuple[str, ...]]:
    """Who computes, on how many threads, with which instruction set; and why. `resolve` chooses the same."""
    reasons = []
    if compute.backend == "auto":
        compute = replace(compute, backend="cpu" if hardware.isa else "reference")
        reasons.append(
            f"backend {compute.backend}: "
            + ("compiled kernels found" if hardware.isa else "no compiled kernels, NumPy instead (slow)")
        )
    if compute.backend == "cpu" and not hardware.isa:
        raise CannotStart(
            "--backend cpu needs the compiled kernels, which are not installed",
            "Install a C++17 compiler and reinstall, or use --backend reference",
        )
    if compute.backend == "reference" and compute.isa not in ("auto", "numpy"):
        raise CannotStart(
            f"--isa {compute.isa} is for the compiled kernels, not for --backend reference", "Leave one out"
        )
    if compute.isa == "auto":
        compute = replace(compute, isa=hardware.isa if compute.backend == "cpu" else "numpy")
    if compute.threads is None:
        compute = replace(compute, threads=hardware.cores)
        reasons.append(f"threads {hardware.cores}: the cores this process may use")
    return compute, tuple(reasons)


def _context(config: Config, model: ModelFacts, room: int, why: str) -> tuple[int, str]:
    """Tokens a sequence may have, and the reason; `room`: what the KV cache holds, because of `why`."""
    asked = config.model.context_length
    wanted = asked or model.context
    if wanted > model.context:
        raise CannotStart(f"--context-length {wanted} is more than the model's {model.context} tokens", "Lower it")
    if room < min(wanted, config.cache.page_size):
        raise NoRoom(
            f"too little memory for the KV cache: {why} gives {max(room, 0)} tokens at {_each(model)}",
            "Free memory, or raise --kv-cache-bytes",
        )
    if asked and room < wanted:
        raise CannotStart(
            f"the KV cache holds {room} tokens ({why}), fewer than --context-length {wanted}",
            "Raise --kv-cache-bytes or lower --context-length",
        )
    if wanted <= room:
        return wanted, f"{wanted}: " + ("--context-length" if asked else "the model's own")
    return room, f"{room}: what the KV cache holds ({why}); the model takes {wanted}"


def _each(model: ModelFacts) -> str:
    """What a token takes."""
    first, *windows = model.kv_groups
    beside = " and ".join(f"{group.bytes_per_token} for each in windows of {group.window}" for group in windows)
    return f"{first.bytes_per_token} bytes each" + (f", beside {beside}" if beside else "")


def _kv_pages(config: Config, hardware: Hardware, model: ModelFacts) -> tuple[tuple[int, ...], str]:
    """Pages of each KV group, and the reason."""
    cache = config.cache
    if cache.max_total_tokens is not None:
        return _sizes(max(cache.max_total_tokens // cache.page_size, 0), config, model), "--max-total-tokens"
    budget, why = cache.kv_cache_bytes, "--kv-cache-bytes"
    if budget is None:
        budget = min(1 << 30, hardware.free_bytes // 4)
        why = f"{budget >> 20} MiB, the lesser of 1 GiB and a quarter of free memory"
    room = budget // cache.page_size
    most = range(1, 1 + (room if model.kv_groups[0].bytes_per_token else min(room, _useful(config, model))))
    pages = bisect_right(most, room, key=lambda pages: _bytes(_sizes(pages, config, model), model))
    return _sizes(pages, config, model), why


def _useful(config: Config, model: ModelFacts) -> int:
    """Pages that all that run may use at once, and PREFIXES prefixes beside, each as long as may be."""
    longest = -(-min(config.model.context_length or model.context, model.context) // config.cache.page_size)
    return (config.schedule.max_running_requests + PREFIXES) * (longest + SPARE_PAGES)


def _sizes(pages: int, config: Config, model: ModelFacts) -> tuple[int, ...]:
    """Pages of each group, of so many that forget nothing."""
    return tuple(_window_pages(group.window, pages, config) if group.window else pages for group in model.kv_groups)


def _window_pages(window: int, pages: int, config: Config) -> int:
    """Pages of a group with a window, beside so many that forget nothing.

    As many as all that can run at once hold, and an eighth for the tails of prefixes. Where that is too much: what one
    sequence needs, and so many more that sequences of USUAL tokens use up both kinds at once, but at most half of the
    others. Never more than of the others, and never fewer than one sequence needs.
    """
    size, slots = config.cache.page_size, config.schedule.max_running_requests
    step = -(-max(config.schedule.step_tokens, slots + SMALL_STEP) // size)
    tail = -(-window // size) + SPARE_PAGES
    usual = min(pages * tail * size // USUAL, pages // 2)
    return min(pages, tail + 2 * step + usual, slots * tail + 2 * step + pages // 8)


def _bytes(sizes: tuple[int, ...], model: ModelFacts) -> int:
    """Of a position in all those pages."""
    return sum(pages * group.bytes_per_token for pages, group in zip(sizes, model.kv_groups, strict=True))


def walk(cls: type, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type, Any]]:
    """Every leaf of a tree of option dataclasses: (path, type, dataclass field)."""
    hints = get_type_hints(cls)
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            yield from walk(hints[f.name], (*prefix, f.name))
        else:
            yield (*prefix, f.name), hints[f.name], f
