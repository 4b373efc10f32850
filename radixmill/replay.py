"""`radixmill replay FILE`: a recorded request, computed again and compared: to the same bytes, or the first place that differs."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from tqdm import tqdm

from radixmill.cli import config_from
from radixmill.core.config import Config
from radixmill.core.errors import CannotStart, ServeError
from radixmill.core.messages import TokenDelta
from radixmill.core.record import BadRecord, Record, RequestRecord, SequenceRecord, finite, load_json, to_record
from radixmill.core.spec import ModelSpec
from radixmill.front.session.record import check_fits
from radixmill.link.remote import RemoteEngine
from radixmill.llm import Offline

SETTINGS = {  # section → fields of core.record.Settings
    "model": (
        "model",
        "tokenizer",
        "revision",
        "chat_template",
        "load_format",
        "allow_unknown_config",
        "context_length",
    ),
    "compute": ("compute", "quantization", "logprobs_mode", "backend", "isa"),
    "cache": ("page_size", "kv_cache_dtype"),
}


class Difference(Struct, frozen=True, kw_only=True):
    """A place where the new computation is not the recorded one. `index`: of the output, or of the prompt's scores."""

    request: int
    sequence: int
    index: int
    what: Literal["token", "logprob", "end", "prompt_logprobs"]
    recorded: Any
    computed: Any

    @property
    def place(self) -> tuple[int, int, int]:
        return self.request, self.sequence, self.index


class Outcome(Struct, frozen=True, kw_only=True):
    """`tokens`: compared, those that were given left out; `cut`: sequences whose end was the front's, not the engine's;
    `open`: those that the record does not see to an end. `differences`: the first of each sequence, in order."""

    sequences: int
    tokens: int
    cut: int
    open: int
    numerics: str
    differences: tuple[Difference, ...]


def main(args: argparse.Namespace) -> int:
    """The command; its exit code. Raises CannotStart."""
    record = to_record(part_of(read_file(args.file), "record"))
    if args.given < 0:
        raise CannotStart("--from must not be negative")
    with Offline(config_of(record, args)) as offline:
        outcome = run(offline, record, given=args.given)
        shown = json_of(outcome) if args.json else "\n".join(lines(outcome, offline))
    print(shown)
    return 1 if outcome.differences else 0


def read_file(name: str) -> Any:
    """The JSON of a file; of a saved stream of server-sent events, the list of its chunks. Raises CannotStart."""
    try:
        raw = Path(name).expanduser().read_bytes()
    except OSError as error:
        raise CannotStart(f"{name} cannot be read: {error.strerror or error}") from None
    if raw.startswith((b"data:", b"event:")):
        data = (line[5:].strip() for line in raw.splitlines() if line.startswith(b"data:"))
        return [load_json(line, name) for line in data if line != b"[DONE]"]
    return load_json(raw, name)


def part_of(value: Any, name: str) -> Any:
    """A record or receipt that stands alone, in an answer, or in a list of answers or chunks of which one has it."""
    if isinstance(value, list):
        found = [item[name] for item in value if isinstance(item, dict) and name in item]
        if len(found) > 1:
            raise BadRecord(
                f"the file has {len(found)} of them: which {name} is meant?", "Put it into a file of its own"
            )
        value = {name: found[0]} if found else {}
    if isinstance(value, dict) and "format" not in value:
        if name not in value:
            raise BadRecord(f"there is no {name} in the file", f'Ask for one: "{name}": true in the request')
        return value[name]
    return value


def config_of(record: Record, args: argparse.Namespace) -> Config:
    """The record's settings, under the command's flags. Raises CannotStart."""
    settings = {
        section: {name: getattr(record.settings, name) for name in names} for section, names in SETTINGS.items()
    }
    config = config_from(args, settings)
    return replace(config, server=replace(config.server, log_level="warning"))


def run(offline: Offline, record: Record, *, given: int = 0, progress: bool = True) -> Outcome:
    """Compute the record again; `given`: output tokens that are not computed but resumed from. Raises CannotStart for
    another numerics id, or a record that the model can't run."""
    check_numerics(record, offline.spec)
    check_fits(record, offline.spec)
    outputs = (sequence.output for part in record.requests for sequence in part.sequences)
    total = sum(max(len(output) - given, 0) for output in outputs)
    with tqdm(total=total, desc="Replaying", unit="tok", disable=not progress, dynamic_ncols=True) as bar:
        try:
            checks = offline.call(_replay(offline, record, given, bar))
        except ServeError as error:
            raise CannotStart(f"the engine refused the request: {error.message}") from None
    differences = sorted((check.found for check in checks if check.found), key=lambda found: found.place)
    return Outcome(
        sequences=len(checks),
        tokens=sum(check.compared for check in checks),
        cut=sum(check.record.by == "front" for check in checks),
        open=sum(not check.ends and check.record.by == "engine" for check in checks),
        numerics=offline.spec.numerics,
        differences=tuple(differences),
    )


def check_numerics(record: Record, spec: ModelSpec) -> None:
    if record.numerics != spec.numerics:
        raise CannotStart(
            f"the record has numerics id {record.numerics}, this model has {spec.numerics}: equal bytes are promised"
            " between equal ids only",
            "Name the model and the settings that the record was made with",
        )


async def _replay(offline: Offline, record: Record, given: int, bar: Any) -> list[_Check]:
    engine = offline.session.client
    assert isinstance(engine, RemoteEngine)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_run(engine, at, part, given, bar)) for at, part in enumerate(record.requests)]
    return [check for task in running for check in task.result()]


async def _run(engine: RemoteEngine, at: int, part: RequestRecord, given: int, bar: Any) -> list[_Check]:
    """One request's sequences, all at once, as they were."""
    checks = [_Check(at, i, sequence, given) for i, sequence in enumerate(part.sequences)]
    wanted = [check for check in checks if not check.over]
    scored = part.prompt_logprobs is not None and part.request.sampling.prompt_logprobs is not None
    if not scored and (not wanted or not part.request.sampling.max_tokens):
        return checks
    if not wanted:
        wanted = checks[:1]
    if (constraint := part.request.constraint) is not None:
        reply = await engine.control("grammar", kind=constraint.kind, text=constraint.text)
        if reply.get("reason"):
            raise CannotStart(f"the record's constraint is refused: {reply['reason']}")
    stream = engine.submit(part.request, [int(check.record.seed) for check in wanted], [check.said for check in wanted])
    by_seq = dict(zip(stream.seqs, wanted, strict=True))
    async for delta in stream:
        check = by_seq[delta.seq]
        if delta.prompt_logprobs is not None and scored:
            check.score(part.prompt_logprobs or (), delta)
        if not check.over:
            before = check.compared
            check.push(delta)
            bar.update(check.compared - before)
        if check.over and delta.end is None:
            stream.cancel(delta.seq)
    return checks


@dataclass
class _Check:
    """One sequence: what the record says of it, held against what comes."""

    request: int
    sequence: int
    record: SequenceRecord
    given: int

    def __post_init__(self) -> None:
        # The engine's own end is a part of the answer; any other tells nothing of what would have come next.
        self.ends = self.record.by == "engine" and self.record.reason in ("stop", "length")
        last = len(self.record.output) - (1 if self.ends else 0)  # something is left to be computed
        self.said = self.record.output[: max(min(self.given, last), 0)]
        self.at, self.compared = len(self.said), 0
        self.found: Difference | None = None
        self.over = False
        self._close()

    def push(self, delta: TokenDelta) -> None:
        """Raises nothing: what differs is `found`, and then it is over."""
        for i, token in enumerate(delta.tokens):
            self._token(token, delta, i)
            if self.over:
                return
        if delta.end is not None:
            self._end(delta)

    def score(self, recorded: Sequence[Any], delta: TokenDelta) -> None:
        """The prompt's log-probabilities; a difference of theirs comes before any other."""
        computed = tuple(map(finite, delta.prompt_logprobs or ()))
        if tuple(recorded) != computed:
            pairs = list(zip(recorded, computed, strict=False))
            at = next((i for i, (one, two) in enumerate(pairs) if one != two), len(pairs))
            shown = [side[at] if at < len(side) else None for side in (recorded, computed)]
            self._differs("prompt_logprobs", shown[0], shown[1], at)

    def _token(self, token: int, delta: TokenDelta, i: int) -> None:
        known = self.record
        if self.at == len(known.output):
            self._differs("end", known.reason, "it goes on")
        elif token != known.output[self.at]:
            self._differs("token", known.output[self.at], token)
        elif (
            known.logprobs is not None
            and delta.logprobs
            and (new := finite(delta.logprobs[i])) != known.logprobs[self.at]
        ):
            self._differs("logprob", known.logprobs[self.at], new)
        else:
            self.at += 1
            self.compared += 1
            self._close()

    def _end(self, delta: TokenDelta) -> None:
        assert delta.end is not None
        new, known = delta.end, self.record
        if self.at < len(known.output):
            self._differs("end", "it goes on", f"{new.reason} {new.detail}".strip())
        elif (new.reason, new.token) != (known.reason, known.token):
            self._differs("end", [known.reason, known.token], [new.reason, new.token])
        self.over = True

    def _close(self) -> None:
        """Without an end to compare, it is over with the last recorded token."""
        self.over = self.over or (not self.ends and self.at == len(self.record.output))

    def _differs(self, what: Any, recorded: Any, computed: Any, index: int | None = None) -> None:
        at = self.at if index is None else index
        self.found = Difference(
            request=self.request, sequence=self.sequence, index=at, what=what, recorded=recorded, computed=computed
        )
        self.over = True


def json_of(outcome: Outcome) -> str:
    return json.dumps({"same": not outcome.differences, **msgspec.to_builtins(outcome)})


def lines(outcome: Outcome, offline: Offline) -> list[str]:
    """The outcome for people."""
    if not outcome.differences:
        said = [f"same bytes: {outcome.tokens} tokens in {_count(outcome.sequences)}"]
    else:
        first, more = outcome.differences[0], len(outcome.differences) - 1
        said = [f"differs: {_shown(first, offline)}"]
        said += [f"{more} more of {_count(outcome.sequences)} differ"] if more else []
    if outcome.cut:
        said.append(f"{outcome.cut} ended at a stop string or a call, which the front found: compared up to there")
    if outcome.open:
        said.append(f"{outcome.open} have no end in the record: compared as far as it goes")
    return said


def _shown(found: Difference, offline: Offline) -> str:
    recorded, computed = found.recorded, found.computed
    if found.what == "token":
        recorded, computed = (f"{id} {_text(offline, id)}" for id in (recorded, computed))
    what = "prompt token" if found.what == "prompt_logprobs" else "token"
    kind = "" if found.what == "token" else f" ({found.what})"
    place = f"request {found.request}, sequence {found.sequence}, {what} {found.index}{kind}"
    return f"{place}: recorded {recorded}, now {computed}"


def _text(offline: Offline, token: int) -> str:
    return json.dumps(offline.session.text.decode((token,), skip_special=False), ensure_ascii=False)


def _count(sequences: int) -> str:
    return f"{sequences} sequence{'' if sequences == 1 else 's'}"
