"""Fakes for tests without weights: a tokenizer of bytes, and an engine that says what a script tells it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from radixmill.core.messages import End, TokenDelta, TokenLogprob, Usage
from radixmill.core.request import GenerateRequest
from radixmill.core.spec import ModelSpec
from radixmill.front.dialects import GENERIC, Dialect
from radixmill.front.session.ask import ChatPrompt
from radixmill.front.session.detect import Detected
from radixmill.link.client import Health

EOS, BOS, USER, REPLY = 256, 257, 258, 259
CONTROL = {EOS: b"<|eos|>", BOS: b"<|bos|>", USER: b"<|user|>", REPLY: b"<|reply|>"}
SPEC = ModelSpec(
    name="echo",
    architecture="echo",
    vocab_size=260,
    context=512,
    context_reason="512: the fake's own",
    eos_ids=(EOS,),
    numerics="n-echo",
)


class ByteText:
    """Token i < 256 is byte i; the others are control tokens. `begun`: what the prompt of a chat ends with. `marks`:
    literals of further control tokens, from 260 on."""

    fill_ends: tuple[int, ...] | None = None  # some tests give it marks of a gap

    def encode_fill(self, before: str, after: str, *, parse_special: bool = True) -> list[int]:
        return [USER, *before.encode(), REPLY, *after.encode(), BOS]

    def __init__(self, dialect: Dialect = GENERIC, begun: str = "", marks: Sequence[str] = ()) -> None:
        self.dialect, self.begun = dialect, begun
        self.control = {literal.decode(): id for id, literal in CONTROL.items()}
        self.control |= {literal: SPEC.vocab_size + i for i, literal in enumerate(marks)}
        self.special_ids = frozenset(self.control.values())
        self._literals = {id: literal.encode() for literal, id in self.control.items()}
        self.detected = Detected(dialect, "qwen3" if dialect.think else "none", "hermes")
        self.chats: list[ChatPrompt] = []

    chars_per_token = 1

    def encode(self, text: str, *, parse_special: bool = True, add_special: bool = True) -> list[int]:
        return list(text.encode())

    def encode_chat(self, chat: ChatPrompt) -> list[int]:
        self.chats.append(chat)
        turns = [(USER, *str(message["content"]).encode()) for message in chat.messages]
        return [token for turn in turns for token in turn] + [REPLY, *self.begun.encode()] * chat.add_generation_prompt

    def token_bytes(self, token: int) -> bytes:
        return self._literals.get(token) or bytes((token,))

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        kept = (i for i in ids if not (skip_special and i in self.special_ids))
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")

    def spelled(self, text: str) -> list[int]:
        """What a model would write: control tokens where their literals stand, else bytes."""
        cut = re.split(f"({'|'.join(map(re.escape, self.control))})", text)
        return [id for part in cut for id in ([self.control[part]] if part in self.control else part.encode())]


class Turnstile(asyncio.Event):
    """A gate that lets so many deltas through and then none, until it is set."""

    def __init__(self, deltas: int) -> None:
        super().__init__()
        self.deltas = deltas

    def is_set(self) -> bool:
        self.deltas -= 1
        return self.deltas >= 0 or super().is_set()


@dataclass
class EchoClient:
    """An EngineClient in memory. `script(request, choice)` gives a sequence's tokens, EOS included or not.

    A sequence ends at the first end token, or at max_tokens, or where the script ends.
    `cuts` are the sizes of its deltas, over and over. `pause` seconds, or `gate`, come before each delta.
    `refuse(kind, text)` gives its answer to a constraint: {}, or a reason and a place.
    """

    script: Callable[[GenerateRequest, int], Iterable[int]] = lambda request, choice: [*b"Hello", EOS]
    cuts: Sequence[int] = (1,)
    spec: ModelSpec | None = SPEC
    pause: float = 0.0
    gate: asyncio.Event | None = None
    broken: Any = ""  # why it ends where its script does: failed, grammar; by itself: length
    cached: int = 0
    state: Any = "ready"
    refuse: Callable[[str, str], dict[str, str]] = lambda kind, text: {}
    requests: list[GenerateRequest] = field(default_factory=list)
    seeds: list[tuple[int, ...]] = field(default_factory=list)
    live: set[int] = field(default_factory=set)
    cancelled: list[int] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)
    streams: dict[int, EchoStream] = field(default_factory=dict)
    counter: int = 0

    def submit(self, request: GenerateRequest, seeds: Sequence[int]) -> EchoStream:
        self.requests.append(request)
        self.seeds.append(tuple(seeds))
        seqs = tuple(range(self.counter, self.counter + len(seeds)))
        self.counter += len(seeds)
        self.live.update(seqs)
        stream = EchoStream(self, request, seqs)
        self.streams.update((seq, stream) for seq in seqs)
        return stream

    def cancel(self, seq: int) -> None:
        if seq in self.live:
            self.live.discard(seq)
            self.cancelled.append(seq)

    async def control(self, verb: str, **args: Any) -> dict[str, Any]:
        self.controls.append(verb)
        return self.refuse(args["kind"], args["text"]) if verb == "grammar" else {}

    def health(self) -> Health:
        return Health(self.state, "", 1, len(self.live))


class EchoStream:
    """Its sequences take turns, delta by delta."""

    def __init__(self, client: EchoClient, request: GenerateRequest, seqs: tuple[int, ...]) -> None:
        self.client, self.request, self.seqs = client, request, seqs
        self._queues = {seq: list(self._deltas(seq, choice)) for choice, seq in enumerate(seqs)}
        self._turns = list(seqs)

    def __aiter__(self) -> EchoStream:
        return self

    async def __anext__(self) -> TokenDelta:
        if not self._turns:
            raise StopAsyncIteration
        await self._turn()
        seq = next((seq for seq in self._turns if seq in self.client.cancelled), self._turns[0])
        self._turns.remove(seq)
        delta = self._queues[seq].pop(0)
        if seq in self.client.cancelled:
            return TokenDelta(seq, delta.at, end=End("cancelled", Usage(len(self.request.prompt), delta.at, 0)))
        if delta.end is None:
            self._turns.append(seq)
        else:
            self.client.live.discard(seq)
        return delta

    async def _turn(self) -> None:
        """Until the next delta may come; the end of one that is cancelled comes at once."""
        gate = self.client.gate
        while gate and not gate.is_set() and not any(seq in self.client.cancelled for seq in self._turns):
            await asyncio.sleep(0.001)
        if not gate:
            await asyncio.sleep(self.client.pause)

    def cancel(self, seq: int | None = None) -> None:
        for one in self.seqs if seq is None else (seq,):
            self.client.cancel(one)

    def _deltas(self, seq: int, choice: int) -> Iterable[TokenDelta]:
        tokens, end = self._whole(choice)
        at, turn = 0, 0
        while True:
            size = self.client.cuts[turn % len(self.client.cuts)]
            part = tokens[at : at + size]
            last = at + len(part) >= len(tokens)
            yield TokenDelta(
                seq,
                at,
                tuple(part),
                self._logprobs(part),
                end if last else None,
                self.client.cached if at == 0 else None,
                self._scores() if at == 0 and choice == 0 else None,
            )
            if last:
                return
            at, turn = at + size, turn + 1

    def _whole(self, choice: int) -> tuple[list[int], End]:
        sampling, said = self.request.sampling, []
        if sampling.max_tokens == 0:
            return said, self._end("length", said, None)
        ends = self.client.spec.eos_ids if self.client.spec else (EOS,)
        stops = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else set(ends))
        for token in self.client.script(self.request, choice):
            said.append(token)
            if token in stops and len(said) > sampling.min_tokens:
                return said, self._end("stop", said, token)
            if len(said) == sampling.max_tokens:
                return said, self._end("length", said, None)
        return said, self._end(self.client.broken or "length", said, None)

    def _end(self, reason: Any, said: list[int], token: int | None) -> End:
        return End(reason, Usage(len(self.request.prompt), len(said), self.client.cached), token, "kernel 7 exploded")

    def _logprobs(self, tokens: Sequence[int]) -> tuple[TokenLogprob, ...] | None:
        wanted = self.request.sampling.logprobs
        if wanted is None:
            return None
        return tuple(self._logprob(token, wanted) for token in tokens)

    def _scores(self) -> tuple[TokenLogprob, ...] | None:
        sampling = self.request.sampling
        if sampling.prompt_logprobs is None:
            return None
        first = max(sampling.prompt_logprobs_from, 1)
        return tuple(self._logprob(token, sampling.prompt_logprobs) for token in self.request.prompt[first:])

    def _logprob(self, token: int, wanted: int) -> TokenLogprob:
        top = tuple(((token + i) % 260, -0.25 - i) for i in range(wanted))
        return TokenLogprob(-0.5 - token / 512, top, tuple((i, -3.0 - i) for i in self.request.sampling.logprob_ids))
