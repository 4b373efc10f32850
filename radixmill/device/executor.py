"""The device's door: open a model on this machine, then run plans in the order they are launched."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from radixmill.core.config import Config, GroupFacts, Hardware, ModelFacts, Resolved, choose_compute, resolve
from radixmill.core.errors import CannotStart, ModelChanged, NoRoom
from radixmill.core.plan import Masks, StepPlan, StepResult
from radixmill.core.spec import FileMark, Identity, KVGroup, ModelSpec
from radixmill.device.kernels import open_backend
from radixmill.device.kernels.contract import KVType, Mode, Ops, kv_of_mode
from radixmill.device.layers import Build
from radixmill.device.loader import Checkpoint, DummyCheckpoint, open_checkpoint
from radixmill.device.models import Decoder, DecoderConfig, family, outline
from radixmill.device.room import check_room, give_back, weight_bytes
from radixmill.device.runner import PagedKV, Runner
from radixmill.device.sampling import VERSION as SAMPLER
from radixmill.device.sampling import Sampler
from radixmill.device.worker import detect
from radixmill.store.digest import marks, same_bytes
from radixmill.store.files import ModelFiles
from radixmill.store.texts import check_texts, text_marks, touched

BITS = {"auto": None, "w8": 8, "w4": 4}  # --quantization


@dataclass
class _Phases:
    """Start-up, by the clock."""

    done: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.done.append((name, time.perf_counter() - began))


@dataclass
class _Ticket:
    """A launched step: the forward pass has run, the tokens are drawn on `sample`."""

    executor: LocalExecutor
    plan: StepPlan
    logits: NDArray[np.float32]
    seconds: float
    drawn: StepResult | None = None

    def sample(self, masks: Masks | None) -> None:
        began = time.perf_counter()
        result = self.executor.runner.sample(self.plan, self.logits, masks)
        self.seconds += time.perf_counter() - began
        self.drawn = replace(result, seconds=self.seconds)
        self.executor.landed(self.plan, self.seconds)

    def result(self) -> StepResult:
        assert self.drawn is not None, "result() before sample()"
        return self.drawn


class LocalExecutor:
    """core.plan.Executor in this process. The forward pass runs inside `launch`."""

    def __init__(self, runner: Runner, spec: ModelSpec, config: Config, weight_bytes: int) -> None:
        """`weight_bytes`: of the packed weights."""
        self.runner, self.spec, self.config = runner, spec, config
        self.nbytes = weight_bytes + runner.kv.nbytes  # memory taken, touched or not
        self._steps, self._tokens, self._seconds = 0, 0, 0.0

    def launch(self, plan: StepPlan) -> _Ticket:
        """Run the plan up to its logits."""
        began = time.perf_counter()
        logits = self.runner.forward(plan)
        return _Ticket(self, plan, logits, time.perf_counter() - began)

    def landed(self, plan: StepPlan, seconds: float) -> None:
        self._steps += 1
        self._tokens += len(plan.tokens)
        self._seconds += seconds

    def stats(self) -> dict[str, Any]:
        """Counts since the start; bytes of the KV pool; bytes of weights that a step reads; how many weights, the
        head's aside, a token is multiplied with."""
        return {
            "device_steps": self._steps,
            "device_tokens": self._tokens,
            "device_seconds": self._seconds,
            "kv_bytes": self.runner.kv.nbytes,
            "weight_bytes_per_token": self.runner.model.bytes_per_token,
            "products_per_token": self.runner.model.products_per_token,
        }

    def close(self) -> None:
        """Nothing to release: buffers go with the object."""


def open_executor(
    config: Config,
    files: ModelFiles,
    hardware: Hardware | None = None,
    *,
    beats: memoryview | None = None,
    beside: bool = False,
    promised: int = 0,
    earlier: Identity | None = None,
) -> LocalExecutor:
    """Load a model and make it ready to run.

    `beats`: a 64-bit word that is counted up as loading and computing get on, see observe.pulse. `promised`: bytes that
    count as free but are other engines'. `beside`: look for room before anything is loaded, because another one serves
    meanwhile. `earlier`: what this engine takes over from others, and must serve to the same bytes. Raises CannotStart
    (BadModel for the files, NoRoom, ModelChanged) with one clear line.
    """
    hardware = hardware or detect()
    hardware = replace(hardware, free_bytes=max(hardware.free_bytes - promised, 0))
    phases = _Phases()
    with phases("open files"):
        loaded = _marks(config, files)  # before they are opened: what replaces them from now on is seen to differ
        texts = text_marks(files, config.model)
        earlier = _renewed(earlier, Identity("", loaded or (), texts), files, beats)
        _check_marks(earlier, loaded)
        check_texts(earlier.text_marks if earlier else (), texts)
        checkpoint = open_checkpoint(files, load_format=config.model.load_format)
    with closing(checkpoint):
        kind = family(checkpoint.config)
        asked = kind.config.from_hf(checkpoint.config, allow_unknown=config.model.allow_unknown_config)
        if isinstance(checkpoint, DummyCheckpoint):
            checkpoint = checkpoint.shaped(outline(kind, asked))
        ops = _open_backend(config, hardware)
        resolved = _resolve(config, hardware, asked, ops)
        model_config = asked.settled(resolved.context)
        ops.beats = None if beats is None else np.frombuffer(beats, np.uint64)
        if beside:
            weights = weight_bytes(checkpoint, ops, BITS[config.compute.quantization])
            check_room(weights, _kv_bytes(ops, model_config, resolved), hardware.free_bytes)
        with phases("pack weights"):
            build = Build(ops, checkpoint, resolved.context, BITS[config.compute.quantization])
            model = Decoder(build, kind, model_config, checkpoint.names)
            give_back()
        with phases("allocate KV cache"):
            kv = _allocate(model, resolved, hardware.free_bytes - build.nbytes)
        processed = config.compute.logprobs_mode == "processed"
        sampler = f"{SAMPLER} processed" if processed else SAMPLER
        pages = resolved.config.cache.page_size
        # A window that is never full changes no bit: whether it is depends on the memory there is.
        same = replace(model.config, windows=asked.windows, local=asked.local)
        numerics = numerics_id(checkpoint, same, ops, pages, build.quantised_to, sampler)
        notes = (*resolved.reasons, *build.notes)
        spec = _spec(files, checkpoint, model, resolved, numerics, notes, tuple(phases.done))
        now, texts_now = _marks(config, files), text_marks(files, config.model)
        known = earlier or Identity(numerics)  # if files were replaced while we read, nobody knows what we have
        spec = msgspec.structs.replace(
            spec,
            weight_marks=loaded if loaded and loaded == now else known.weight_marks,
            text_marks=texts if texts == texts_now and all(mark.print for mark in texts) else known.text_marks,
        )
        _check_marks(earlier, now)
        check_texts(earlier.text_marks if earlier else (), texts_now)
        _check_numerics(earlier, numerics)
    runner = Runner(model, kv, Sampler(model_config.vocab, spec.slots, ops.sampling, processed=processed))
    return LocalExecutor(runner, spec, resolved.config, build.nbytes)


def _marks(config: Config, files: ModelFiles) -> tuple[FileMark, ...] | None:
    """Of the weights' files, if they are to be read. None: they can't be looked at now, which may pass."""
    if config.model.load_format == "dummy":
        return ()
    try:
        return marks(files)
    except (CannotStart, OSError):  # whoever opens them says it better
        return None


def _renewed(earlier: Identity | None, now: Identity, files: ModelFiles, beats: memoryview | None) -> Identity | None:
    """With the marks that files have now, if they only were touched: their bytes are known to be the same."""

    def beat() -> None:
        if beats is not None:
            beats[0] = (beats[0] + 1) & ((1 << 64) - 1)

    with suppress(OSError):
        if earlier and earlier.weight_marks and same_bytes(files, earlier.weight_marks, now.weight_marks, beat):
            texts = touched(earlier.text_marks, now.text_marks, {mark.name for mark in now.weight_marks})
            return msgspec.structs.replace(earlier, weight_marks=now.weight_marks, text_marks=texts)
    return earlier


def _check_marks(earlier: Identity | None, seen: tuple[FileMark, ...] | None) -> None:
    """Raises ModelChanged if the weights' files are seen to be others than those `earlier`."""
    if earlier is None or not earlier.weight_marks or seen is None:
        return
    before, now = ({mark.name: mark for mark in marks} for marks in (earlier.weight_marks, seen))
    both = {name for name in before.keys() & now if before[name].same_as(now[name])}
    if changed := sorted((before.keys() | now) - both):
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ModelChanged(f"{changed[0]}{more} changed on disk after the model had been loaded")


def _check_numerics(earlier: Identity | None, numerics: str) -> None:
    """Raises ModelChanged if what was loaded does not give the same bytes as `earlier`."""
    if earlier and earlier.numerics != numerics:
        what = f"numerics id {earlier.numerics} became {numerics}"
        raise ModelChanged(f"the model changed after it had been loaded: {what}")


def numerics_id(
    checkpoint: Checkpoint, model: DecoderConfig, ops: Ops, page_size: int, bits: int | None, sampler: str = SAMPLER
) -> str:
    """A hash of everything that an answer's bits depend on; equal ids promise equal bytes. `bits`: Build.quantised_to;
    `sampler`: its version, and what its log-probabilities are of if not of the model's own logits."""
    facts = {
        "weights": checkpoint.fingerprint,
        "adapter": None,
        "model": _plain(asdict(model)),
        "architecture": checkpoint.config.get("architectures"),
        "compute": ops.mode,
        "quantised": bits,
        "kv": ops.kv_type,
        "page_size": page_size,
        "kernels": [ops.name, ops.version, ops.isa],
        "sampler": sampler,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _resolve(config: Config, hardware: Hardware, model: DecoderConfig, ops: Ops) -> Resolved:
    """For the groups that the model has once it is settled for the context that comes out.

    A window that this context never fills goes, and its layers join those without. That takes no context away: such a
    window had room for a sequence of the whole context.
    """
    while True:
        groups = _groups(model, ops, config.cache.page_size)
        resolved = resolve(config, hardware, ModelFacts(model.context, groups, ops.kv_type))
        settled = model.settled(resolved.context)
        if settled.groups == model.groups:
            return resolved
        model = settled


def _groups(model: DecoderConfig, ops: Ops, page_size: int) -> tuple[GroupFacts, ...]:
    return tuple(
        GroupFacts(sum(ops.kv_bytes_per_token(model.kv(layer), page_size) for layer in group.layers), group.window)
        for group in model.groups
    )


def _mode(config: Config) -> Mode:
    return "exact" if config.compute.compute == "exact" else "fast"


def _kv_type(config: Config) -> KVType:
    """What was asked for, or what suits the mode."""
    asked = next((kv for kv in get_args(KVType) if kv == config.cache.kv_cache_dtype), None)
    return asked or kv_of_mode(_mode(config))


def _open_backend(config: Config, hardware: Hardware) -> Ops:
    compute, _ = choose_compute(config.compute, hardware)
    try:
        return open_backend(compute.backend, _mode(config), compute.threads or 1, compute.isa, _kv_type(config))
    except ValueError as error:
        raise CannotStart(str(error), "Choose another --backend or --isa; `radixmill doctor` lists them") from error


def _allocate(model: Decoder, resolved: Resolved, room: int) -> PagedKV:
    """The KV pool, if it fits into the `room` bytes that the weights left."""
    wanted = _kv_bytes(model.ops, model.config, resolved)
    refusal = NoRoom(
        f"the KV cache needs {wanted >> 20} MiB, but only {max(room, 0) >> 20} MiB of memory are free beside the weights",
        "Free memory, or lower --kv-cache-bytes or --max-total-tokens",
    )
    if wanted > room:
        raise refusal
    try:
        return PagedKV.allocate(model, resolved.pages, resolved.config.cache.page_size)
    except MemoryError as error:
        raise refusal from error


def _kv_bytes(ops: Ops, model: DecoderConfig, resolved: Resolved) -> int:
    size = resolved.config.cache.page_size
    groups = zip(_groups(model, ops, size), resolved.pages, strict=True)
    return sum(group.bytes_per_token * pages for group, pages in groups) * size


def _spec(
    files: ModelFiles,
    checkpoint: Checkpoint,
    model: Decoder,
    resolved: Resolved,
    numerics: str,
    notes: tuple[str, ...],
    phases: tuple[tuple[str, float], ...],
) -> ModelSpec:
    config, ops, chosen = model.config, model.ops, resolved.config
    facts = zip(config.groups, _groups(config, ops, chosen.cache.page_size), resolved.pages, strict=True)
    return ModelSpec(
        name=files.name,
        architecture=checkpoint.config["architectures"][0],
        vocab_size=config.vocab,
        context=resolved.context,
        context_reason=resolved.context_reason,
        eos_ids=checkpoint.eos_ids,
        page_size=chosen.cache.page_size,
        slots=chosen.schedule.max_running_requests,
        kv_groups=tuple(KVGroup(group.layers, fact.bytes_per_token, n, group.window) for group, fact, n in facts),
        numerics=numerics,
        compute=ops.mode,
        kv_dtype=ops.kv_type,
        isa=ops.isa,
        notes=notes,
        phases=phases,
    )


def _plain(value: Any) -> Any:
    """JSON has no sets."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return value
