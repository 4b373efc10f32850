"""`radixmill doctor`: what this machine can do, which kernel serves which op, and what the last bench made of it; of a
model, how its thoughts and tool calls are read, and the proof."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from radixmill import __version__
from radixmill.core.config import Config, GroupFacts, Hardware, ModelFacts, ModelOptions, Resolved, resolve
from radixmill.device.kernels import Peaks, measure, native_isa, open_backend
from radixmill.device.worker import detect
from radixmill.front.dialects.proof import Subject
from radixmill.front.session.detect import Detected, detect_dialect
from radixmill.front.text import load_text
from radixmill.store import find
from radixmill.store.files import bench_record


class Line(Struct):
    """One workload of the last bench."""

    workload: str
    output_per_second: float
    prompt_per_second: float
    errors: int = 0
    read_per_second: float | None = None  # bytes of weights
    operations_per_second: float | None = None


class Record(Struct):
    """The last bench of a server on this machine, as bench/keep.py writes it."""

    time: str
    model: str
    workloads: list[Line]


def main(model: ModelOptions | None = None) -> int:
    """Print the report, that of a model at its end; 0 when the machine can serve, and named parsers read the model."""
    hardware = detect()
    resolved = resolve(Config(), hardware, ModelFacts(context=8192, kv_groups=(GroupFacts(23040),)))
    compute = resolved.config.compute
    backend = open_backend(compute.backend, "fast", hardware.cores, compute.isa)
    peaks = measure(compute.isa, hardware.cores, hardware.free_bytes)
    for line in _machine(hardware, peaks):
        print(line)
    print("\nop               served by")
    for op, implementation in backend.table().items():
        print(f"{op:<16} {implementation}")
    print()
    for line in last_bench(bench_record(), peaks):
        print(line)
    print(f"\n{_pages(resolved)}")
    return 0 if model is None else _examine(model)


def _examine(model: ModelOptions) -> int:
    """Print how a model's answers are read. Raises CannotStart where it can't be found."""
    files = find(model.model, revision=model.revision)
    stack = load_text(files, chat_template=model.chat_template, tokenizer=model.tokenizer)
    detected = detect_dialect(stack, model.reasoning_parser, model.tool_call_parser, trust=True)
    print(f"\nmodel            {files.name}")
    for line in dialect_lines(detected):
        print(line)
    return 0 if all(proof.passed for proof in detected.proofs) else 1


def dialect_lines(detected: Detected) -> Iterator[str]:
    """Thoughts and tool calls: who reads them, on what ground, and what came out."""
    names = (detected.reasoning_parser, detected.tool_call_parser)
    subjects: tuple[tuple[Subject, str], ...] = (("thoughts", "thoughts"), ("calls", "tool calls"))
    for (subject, title), name, family, fits in zip(subjects, names, detected.families, detected.fits, strict=True):
        yield f"{title:<16} {name}" + (f", of the family {family}" if family else "")
        if subject == "calls" and detected.generic:
            yield "  told           the chat template knows no calls: the generic dialect, in the system message"
        for proof in (proof for proof in detected.proofs if proof.subject == subject):
            yield f"  proof          on {_GROUNDS[proof.basis]}: {'passed' if proof.passed else 'FAILED'}"
            yield f"  text           {json.dumps(proof.text, ensure_ascii=False)}"
            yield f"  result         {proof.explanation}"
        yield f"  names that fit {', '.join(fits) or 'none'}"


_GROUNDS = {
    "template": "what the chat template writes",
    "tags": "tags in vocabulary and chat template",
    "text": "a text written by its form, or by hand from its vendor's documentation",
}


def _machine(hardware: Hardware, peaks: Peaks | None) -> Iterator[str]:
    yield f"radixmill {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield f"cores      {hardware.cores}"
    yield f"free       {hardware.free_bytes / (1 << 30):.1f} GiB"
    none = "not compiled: NumPy serves every op, correct but slow. Install a C++17 compiler and reinstall"
    yield f"kernels    {native_isa() or none}"
    if peaks:
        yield f"memory     {_giga(peaks.read)} GB/s read, by all threads, measured just now"
        yield f"arithmetic {_giga(peaks.floats)} GFLOP/s float32, {_giga(peaks.int8)} GOP/s int8, with {peaks.isa}"


def _pages(resolved: Resolved) -> str:
    [why] = (reason for reason in resolved.reasons if reason.startswith("KV cache"))
    return f"the default model would get {resolved.pages[0]} KV pages: {why}"


def last_bench(path: Path, peaks: Peaks | None) -> Iterator[str]:
    """What the record says, beside what the memory could give; a sentence where there is no record to be read."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        yield "no bench of a server on this machine yet: `radixmill bench` makes one"
        return
    except (OSError, msgspec.MsgspecError) as error:
        yield f"the last bench's figures in {path} cannot be read: {error}"
        return
    yield f"last bench       {record.model}, {record.time}"
    for line in record.workloads:
        yield f"{line.workload:<16} {_reached(line, peaks)}"


def _reached(line: Line, peaks: Peaks | None) -> str:
    rates = f"{_short(line.output_per_second)} tok/s out, {_short(line.prompt_per_second)} tok/s in"
    failed = f", {line.errors} requests failed" if line.errors else ""
    if line.read_per_second is None or line.operations_per_second is None:
        return rates + failed
    read, operations = _giga(line.read_per_second), _giga(line.operations_per_second)
    of = (f" of {_giga(peaks.read)}", f" of {_giga(peaks.int8)}") if peaks else ("", "")
    return f"{rates}: weights at {read}{of[0]} GB/s, {operations}{of[1]} GOP/s{failed}"


def _giga(value: float) -> str:
    return f"{value / 1e9:.1f}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


if __name__ == "__main__":
    sys.exit(main())
