"""Records: of answers that were made here, and of files, checked against a model before an engine gets them."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec.structs import replace

from radixmill import __version__
from radixmill.core.config import Config
from radixmill.core.messages import TokenLogprob
from radixmill.core.record import (
    BadRecord,
    Reason,
    Record,
    RequestRecord,
    SequenceRecord,
    Settings,
    finite,
    json_hash,
)
from radixmill.core.request import GenerateRequest, choice_seed
from radixmill.core.spec import ModelSpec
from radixmill.front.session.choice import Choice
from radixmill.front.session.limits import RANGES, Range
from radixmill.store.digest import write_whole

log = logging.getLogger("radixmill.front")

Scores = Mapping[int, tuple[TokenLogprob, ...] | None]  # of prompts' tokens, by prompt: see generation.Generation
MOST_SAVED = 1000  # records that one front saves: a storm of failures must not fill a disk


class TokenBytes(Protocol):
    """What hashing a tokenizer needs of it."""

    def token_bytes(self, token: int, /) -> bytes: ...


class Told(Protocol):
    """What a record needs of an answer: see generation.Facts."""

    @property
    def id(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def requests(self) -> tuple[GenerateRequest, ...]: ...
    @property
    def template(self) -> str | None:
        """The request's own; None: the model's."""


class TextHashes:
    """Hashes of what turns text into ids and back. Made when first asked for: a second's work for the largest."""

    def __init__(self, text: TokenBytes, vocab_size: int, templates: Mapping[str, str] | None) -> None:
        """`templates`: source by name; None: the model has none."""
        self._text, self._vocab_size, self._templates = text, vocab_size, templates

    @cached_property
    def tokenizer(self) -> str:
        """SHA-256 over the bytes of all tokens by id, each behind its length as 4 bytes, little-endian; one that the
        tokenizer does not have is empty."""
        digest = hashlib.sha256()
        for token in range(self._vocab_size):
            spelled = self._spelled(token)
            digest.update(len(spelled).to_bytes(4, "little") + spelled)
        return digest.hexdigest()

    @cached_property
    def template(self) -> str | None:
        """See template_hash."""
        return template_hash(self._templates) if self._templates else None

    def _spelled(self, token: int) -> bytes:
        try:
            return self._text.token_bytes(token)
        except (ValueError, IndexError, KeyError):
            return b""


def template_hash(templates: Mapping[str, str]) -> str:
    """SHA-256 over the canonical JSON of `{name: source}`; most models have one, by the name of "default", as has a request
    that brings its own."""
    return json_hash(dict(templates))


class Scribe:
    """Writes the records of one model's answers."""

    def __init__(self, config: Config, spec: ModelSpec, hashes: TextHashes) -> None:
        self.spec, self.hashes, self.settings = spec, hashes, settings_of(config, spec)

    def record(self, facts: Told, choices: Sequence[Choice], scores: Scores) -> Record:
        """Of these choices, in their order, with their prompts."""
        by_prompt: dict[int, list[Choice]] = {}
        for choice in choices:
            by_prompt.setdefault(choice.index // facts.width, []).append(choice)
        return Record(
            format="radixmill.record.1",
            version=__version__,
            created=facts.created,
            numerics=self.spec.numerics,
            settings=self.settings,
            tokenizer=self.hashes.tokenizer,
            template=self.hashes.template if facts.template is None else template_hash({"default": facts.template}),
            requests=tuple(
                RequestRecord(
                    request=bare(facts.requests[prompt]),
                    sequences=tuple(_sequence(facts, facts.requests[prompt], choice) for choice in its),
                    prompt_logprobs=None if (known := scores.get(prompt)) is None else tuple(map(finite, known)),
                )
                for prompt, its in by_prompt.items()
            ),
        )


def settings_of(config: Config, spec: ModelSpec) -> Settings:
    model, compute = config.model, config.compute
    reference = spec.isa == "numpy"
    return Settings(
        model=model.model,
        tokenizer=model.tokenizer,
        revision=model.revision,
        chat_template=model.chat_template,
        load_format=model.load_format,
        allow_unknown_config=model.allow_unknown_config,
        context_length=spec.context,
        compute=spec.compute,
        quantization=compute.quantization,
        logprobs_mode=compute.logprobs_mode,
        backend="reference" if reference else "cpu",
        isa="auto" if reference else spec.isa or "auto",
        page_size=spec.page_size,
        kv_cache_dtype=spec.kv_dtype or "auto",
    )


def bare(request: GenerateRequest) -> GenerateRequest:
    """What of a request its tokens depend on. Who asked, and how urgently, is nobody's business."""
    told = replace(request, tenant="", account="", wait=None, numerics=None, arrived=0.0, trace=None)
    return replace(told, priority=0, trusted=True)


def _sequence(facts: Told, request: GenerateRequest, choice: Choice) -> SequenceRecord:
    trace = choice.trace
    assert trace is not None, "whoever wants a record has had it traced"
    reason: Reason = "unfinished"
    if trace.end is not None:
        reason = trace.end.reason
    elif choice.ended:
        reason = "stop"
    elif request.sampling.max_tokens == 0:
        reason = "length"
    return SequenceRecord(
        seed=str(choice_seed(facts.seed, choice.index)),
        output=tuple(trace.ids),
        reason=reason,
        by="front" if choice.ended and trace.end is None else "engine",
        token=trace.end.token if trace.end else None,
        detail=trace.end.detail if trace.end else "",
        logprobs=None if request.sampling.logprobs is None else tuple(map(finite, trace.logprobs)),
    )


class RecordFolder:
    """Saves records of failed requests, one file each, off the event loop. A disk that is full disturbs nobody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved = 0
        self._complained = False
        self._lock = threading.Lock()

    def save(self, id: str, record: Callable[[], Record]) -> threading.Thread | None:
        """`record` is called on the thread that is returned; None: there are enough."""
        with self._lock:
            if self.saved >= MOST_SAVED:
                return None
            self.saved += 1
        thread = threading.Thread(target=self._save, args=(id, record), name="radixmill-record", daemon=True)
        thread.start()
        return thread

    def _save(self, id: str, record: Callable[[], Record]) -> None:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", id)[:100]  # ids are their clients' own words
        path = self.folder / f"{time.time_ns()}-{name}.json"
        try:
            write_whole(path, msgspec.json.encode(record()))
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.error("records of failed requests cannot be saved in %s: %s", self.folder, error)
        else:
            log.warning("the record of request %s is saved as %s", id, path)


def check_fits(record: Record, spec: ModelSpec) -> None:
    """Raise BadRecord where a model can't run the record: an engine checks nothing again."""
    for at, part in enumerate(record.requests):
        if fault := next(_misfits(part, spec), ""):
            raise BadRecord(f"the record does not fit the model: requests[{at}].{fault}")


def _misfits(part: RequestRecord, spec: ModelSpec) -> Iterator[str]:
    request, sampling = part.request, part.request.sampling
    if request.adapter is not None:
        yield "request.adapter: there are none here"
    if len(request.prompt) + sampling.max_tokens > spec.context:
        yield f"request has {len(request.prompt)} and up to {sampling.max_tokens} tokens; the context is {spec.context}"
    ids = {
        "prompt": request.prompt,
        "sampling.stop_token_ids": sampling.stop_token_ids,
        "sampling.logprob_ids": sampling.logprob_ids,
        "sampling.logit_bias": tuple(id for id, _ in sampling.logit_bias),
        "thinking.close": request.thinking.close if request.thinking else (0,),
        "output": tuple(token for sequence in part.sequences for token in sequence.output),
    }
    for name, tokens in ids.items():
        if tokens and not 0 <= min(tokens) <= max(tokens) < spec.vocab_size:
            yield f"{name} has a token that is none: the model has {spec.vocab_size}"
    if request.thinking is not None and not (request.thinking.close and request.thinking.tokens >= 0):
        yield "request.thinking says nothing that can be kept"
    for name, limits in _LIMITS.items():
        if (value := getattr(sampling, name)) is not None and not _within(value, limits):
            yield f"request.sampling.{name} is {value}"
    if not all(_within(bias, RANGES["logit_bias"]) for _, bias in sampling.logit_bias):
        yield "request.sampling.logit_bias is out of its range"
    if sampling.prompt_logprobs_from > len(request.prompt):
        yield "request.sampling.prompt_logprobs_from is behind the prompt"


_NAMES = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens")
_LIMITS = {
    **{name: RANGES[name] for name in _NAMES},
    "max_tokens": Range(0, None),
    "top_k": Range(0, RANGES["top_k"].high),
    "logprobs": RANGES["top_logprobs_num"],
    "prompt_logprobs": RANGES["top_logprobs_num"],
    "prompt_logprobs_from": Range(0, None),
}


def _within(value: float, limits: Range) -> bool:
    return (limits.low is None or value >= limits.low) and (limits.high is None or value <= limits.high)
