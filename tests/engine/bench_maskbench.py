"""JSON schemas from the field: how many pass, what a grammar costs to make, what a mask costs.

Run by hand: python -m tests.engine.bench_maskbench [ours] [llguidance] [xgrammar] [xgrammar-open]

For each schema: made into a grammar or refused; then each instance, as `json.dumps` writes it and the tokenizer cuts
it, is taken token by token, with a mask filled before each. A schema passes if it takes all valid instances to their
ends and no invalid one. `llguidance`: the library on schemas as they are. `xgrammar`: that library, from the test
environment, on the same sample (with open objects some 15 minutes).
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from llguidance import LLMatcher

from radixmill.core.request import Constraint
from radixmill.engine.grammar import GrammarError
from radixmill.engine.grammar.compile import HEAD, to_grammar
from radixmill.engine.grammar.matcher import compiled
from radixmill.engine.grammar.vocabulary import Vocabulary
from radixmill.front.text import Tokenizer
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.store.gguf import GGUFFile
from tests.data import shared

VOCABULARY = "ggml-vocab-qwen2.gguf"
WIDTH = 151_936  # of Qwen2.5's logits: its tokens and padding


class Run(Protocol):
    """One text under one grammar."""

    def mask(self) -> None: ...
    def take(self, token: int) -> bool: ...
    def done(self) -> bool: ...


Make = Callable[[str], Callable[[], Run]]  # a schema's text → how to begin a text; raises Refused


class Refused(Exception):
    """The library takes no such schema."""


@dataclass
class Report:
    """Seconds, and what became of each schema."""

    verdicts: dict[str, str] = field(default_factory=dict)  # schema's name → pass, refused, lets through, rejects
    reasons: dict[str, str] = field(default_factory=dict)  # refused schema's name → why
    make: list[float] = field(default_factory=list)  # schema text → first mask filled
    masks: list[float] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.verdicts.values())

    @property
    def passing(self) -> float:
        return self.counts["pass"] / len(self.verdicts)

    def rows(self) -> Iterator[tuple[str, str]]:
        total = len(self.verdicts)
        for verdict in ("pass", "refused", "lets through", "rejects"):
            count = self.counts[verdict]
            yield verdict, f"{count} of {total}, {100 * count / total:.1f} %"
        yield "compile + first mask", _percentiles(self.make, 1e3, "ms", (50, 95, 100))
        yield f"mask ({len(self.masks)})", _percentiles(self.masks, 1e6, "µs", (50, 99, 100))


def _percentiles(seconds: list[float], scale: float, unit: str, which: tuple[int, ...]) -> str:
    values = np.percentile(seconds, which) * scale
    return ", ".join(f"p{at} {value:.1f} {unit}" for at, value in zip(which, values, strict=True))


def samples() -> list[Path]:
    return sorted(shared("maskbench").glob("*.json"))


def tokenizer() -> Tokenizer:
    return Tokenizer(gguf_vocabulary(GGUFFile(shared("vocab", VOCABULARY)).metadata))


def vocabulary(cut: Tokenizer) -> Vocabulary:
    ids = range(cut.vocab_size)
    return Vocabulary(
        tokens=tuple(map(cut.token_bytes, ids)),
        control=frozenset(filter(cut.is_control, ids)),
        eos_ids=(cut.eos_id,) if cut.eos_id is not None else (),
        size=WIDTH,
    )


class Ours:
    """A normalised schema under llguidance."""

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        self.matcher, self.words = matcher, np.zeros(words, np.int32)

    def mask(self) -> None:
        self.matcher.unsafe_compute_mask_ptr(self.words.ctypes.data, self.words.nbytes)

    def take(self, token: int) -> bool:
        return bool(self.matcher.try_consume_tokens([token]) == 1)

    def done(self) -> bool:
        return bool(self.matcher.is_accepting())


def ours(vocab: Vocabulary) -> Make:
    table = vocab.tokenizer()

    def make(schema: str) -> Callable[[], Run]:
        try:
            matcher = compiled(table, to_grammar(Constraint(kind="json_schema", text=schema), vocab))
        except GrammarError as error:
            raise Refused(error.reason) from None
        return lambda: Ours(matcher.deep_copy(), vocab.words)

    return make


def llguidance(vocab: Vocabulary) -> Make:
    """The library alone: schemas as they are."""
    table = vocab.tokenizer()

    def make(schema: str) -> Callable[[], Run]:
        try:
            matcher = compiled(table, f"{HEAD}start: %json {schema}\n")
        except GrammarError as error:
            raise Refused(error.reason) from None
        return lambda: Ours(matcher.deep_copy(), vocab.words)

    return make


def xgrammar(vocab: Vocabulary, *, strict: bool = True, threads: int = 8) -> Make:
    """The other library, as its defaults have it: `strict` closes all objects. It needs torch, and stands in no server."""
    import torch
    import xgrammar as xgr

    tokens = [*vocab.tokens, *[b""] * (vocab.size - len(vocab.tokens))]
    table = xgr.TokenizerInfo(tokens, vocab_size=vocab.size, stop_token_ids=list(vocab.eos_ids))
    compiler = xgr.GrammarCompiler(table, max_threads=threads)

    class Theirs:
        def __init__(self, built: Any) -> None:
            self.matcher = xgr.GrammarMatcher(built, terminate_without_stop_token=False)
            self.words = torch.zeros((1, vocab.words), dtype=torch.int32)

        def mask(self) -> None:
            self.matcher.fill_next_token_bitmask(self.words)

        def take(self, token: int) -> bool:
            return bool(self.matcher.accept_token(token))

        def done(self) -> bool:
            return bool(self.matcher.accept_token(vocab.eos_ids[0]))

    def make(schema: str) -> Callable[[], Run]:
        try:
            built = compiler.compile_json_schema(schema, strict_mode=strict)
        except Exception as error:
            raise Refused(str(error)) from None
        return lambda: Theirs(built)

    return make


def xgrammar_open(vocab: Vocabulary) -> Make:
    """... as the standard has it: objects are open where the schema doesn't say; one thread, as ours."""
    return xgrammar(vocab, strict=False, threads=1)


def measure(make: Make, cut: Tokenizer) -> Report:
    report = Report()
    for path in samples():
        sample = json.loads(path.read_text())
        try:
            report.verdicts[path.name] = _judge(make, cut, sample, report)
        except Refused as error:
            report.verdicts[path.name], report.reasons[path.name] = "refused", str(error)
    return report


def _judge(make: Make, cut: Tokenizer, sample: dict[str, Any], report: Report) -> str:
    schema = json.dumps(sample["schema"], ensure_ascii=False)
    began = time.perf_counter()
    begin = make(schema)
    begin().mask()
    report.make.append(time.perf_counter() - began)
    wrong = set()
    for test in sample["tests"]:
        tokens = cut.encode(json.dumps(test["data"], ensure_ascii=False), parse_special=False, add_special=False)
        if _taken(begin(), tokens, report) != test["valid"]:
            wrong.add(test["valid"])
    return "lets through" if False in wrong else "rejects" if True in wrong else "pass"


def _taken(run: Run, tokens: list[int], report: Report) -> bool:
    for token in tokens:
        began = time.perf_counter()
        run.mask()
        report.masks.append(time.perf_counter() - began)
        if not run.take(token):
            return False
    return run.done()


def main(names: list[str]) -> None:
    cut = tokenizer()
    vocab = vocabulary(cut)
    makers = {"ours": ours, "llguidance": llguidance, "xgrammar": xgrammar, "xgrammar-open": xgrammar_open}
    for name in names or ["ours"]:
        report = measure(makers[name](vocab), cut)
        print(f"\n{name}")
        for row in report.rows():
            print(f"  {row[0]:24s} {row[1]}")
        for sample, reason in report.reasons.items():
            print(f"    {sample}: {reason[:120]}")


if __name__ == "__main__":
    main(sys.argv[1:])
