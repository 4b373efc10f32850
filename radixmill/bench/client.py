"""What the load generator says to a server, and the clock on each answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from radixmill.bench.http import HttpError, Origin, Response, fetch, send
from radixmill.core.errors import CannotStart


class _Choice(Struct):
    text: str | None = None


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


@dataclass
class Answer:
    """One request as the client saw it. Times are seconds since `sent`; on an error only what came before it counts."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    arrivals: list[float] = field(default_factory=list)  # of each chunk that carried text
    seconds: float = 0.0
    error: str = ""

    @property
    def first(self) -> float | None:
        """Time to first token."""
        return self.arrivals[0] if self.arrivals else None

    @property
    def per_token(self) -> float | None:
        """Mean time per output token after the first."""
        if len(self.arrivals) < 2 or self.output_tokens < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.output_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Times between successive chunks."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server and the model asked of it."""

    origin: Origin
    model: str
    key: str | None = None

    async def complete(self, prompt: str, max_tokens: int) -> Answer:
        """Stream one greedy completion of exactly `max_tokens` tokens. Never raises: what went wrong stands in `error`."""
        answer, start = Answer(), time.perf_counter()
        try:
            async with send(
                self.origin, "POST", "/v1/completions", json=self._body(prompt, max_tokens), key=self.key
            ) as response:
                await _read(response, answer, start)
        except HttpError as error:
            answer.error = str(error)
        finally:
            answer.seconds = time.perf_counter() - start
        return answer

    def _body(self, prompt: str, max_tokens: int) -> dict[str, object]:
        return {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def count(self, text: str) -> int | None:
        """Tokens of a text, by the server's own /tokenize; None where it has none."""
        json = {"model": self.model, "prompt": text, "content": text}  # the last is llama.cpp's name for it
        status, body = await fetch(self.origin, "POST", "/tokenize", json=json, key=self.key)
        if status != 200:
            return None
        try:
            tokens = msgspec.json.decode(body).get("tokens")
        except (msgspec.DecodeError, AttributeError):
            return None
        return len(tokens) if isinstance(tokens, list) else None


async def connect(url: str, model: str | None, key: str | None) -> Server:
    """The server at `url`, with its first model unless one is named. Raises CannotStart where it does not answer."""
    try:
        origin = Origin.parse(url)
    except ValueError as error:
        raise CannotStart(str(error), "Give a URL such as http://127.0.0.1:30000") from error
    try:
        status, body = await fetch(origin, "GET", "/v1/models", key=key)
    except HttpError as error:
        raise CannotStart(str(error), "Start a server first (radixmill serve), or give its URL") from error
    if status == 401:
        raise CannotStart(f"{origin} wants an API key", "Give it with --api-key")
    if model:
        return Server(origin, model, key)
    return Server(origin, _first_model(origin, status, body), key)


def _first_model(origin: Origin, status: int, body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["data"][0]["id"])
    except (msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
        raise CannotStart(
            f"{origin}/v1/models answered {status} and named no model", "Is it ready? Else give --model"
        ) from error


async def _read(response: Response, answer: Answer, start: float) -> None:
    """Fill the answer from a stream of completion chunks."""
    if response.status != 200:
        text = (await response.body()).decode("utf-8", "replace")
        raise HttpError(f"HTTP {response.status}: {text[:300]}", response.status)
    silent = 0  # chunks without text: half a character, or a token that has none
    at = 0.0
    async for data in response.events():
        if data == b"[DONE]":
            break
        chunk = _parse(data)
        if chunk.choices:
            at = time.perf_counter() - start
            if chunk.choices[0].text:
                answer.arrivals.append(at)
            else:
                silent += 1
        if chunk.usage is not None:
            _note_usage(answer, chunk.usage)
    if not answer.arrivals and silent:
        answer.arrivals.append(at)
    if not answer.arrivals:
        raise HttpError("the stream ended without a token")
    answer.output_tokens = answer.output_tokens or len(answer.arrivals)


def _parse(data: bytes) -> _Chunk:
    try:
        chunk = _decode(data)
    except msgspec.DecodeError as error:
        raise HttpError(f"not a completion chunk: {data[:200]!r}") from error
    if chunk.error is not None:
        raise HttpError(f"error in the stream: {bytes(chunk.error).decode()[:300]}")
    return chunk


def _note_usage(answer: Answer, usage: _Usage) -> None:
    answer.prompt_tokens = usage.prompt_tokens
    answer.output_tokens = usage.completion_tokens or 0
    if usage.prompt_tokens_details is not None:
        answer.cached_tokens = usage.prompt_tokens_details.cached_tokens or 0
