"""What a client has of an answer at its end, whatever API it spoke: what must not change when an engine dies in between."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

# Names, times and cache hits differ from run to run.
VOLATILE = frozenset(
    {
        "cache_creation_input_tokens", "cache_read_input_tokens", "cached_tokens", "call_id", "completed_at", "created",
        "created_at", "e2e_latency", "id", "input_tokens", "input_tokens_details", "item_id", "prompt_tokens_details",
        "queue_time", "response_id", "sequence_number",
    }
)  # fmt: skip


@dataclass
class Fold:
    """One answer. `said`: text by place."""

    said: defaultdict[str, str] = field(default_factory=lambda: defaultdict(str))
    ids: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    logprobs: defaultdict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))
    finish: dict[int, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    final: Any = None  # an answer given whole, or at the end of a stream
    done: bool = False  # it has ended as its API's answers end
    error: str = ""
    status: int = 0
    prompt: int = 0  # tokens of the prompt
    times: list[float] = field(default_factory=list)  # when something was said, by the monotonic clock

    def add(self, event: dict[str, Any] | None) -> None:
        """An event of a stream; None: [DONE]."""
        before = self._length
        self._add(event)
        if self._length > before:
            self.times.append(time.monotonic())

    @property
    def _length(self) -> int:
        return sum(map(len, self.ids.values())) + sum(map(len, self.said.values()))

    def _add(self, event: dict[str, Any] | None) -> None:
        match event:
            case None:
                self.done = True
            case {"error": error} if error:
                self.error = str(error)
            case {"type": "error"} | {"type": "response.failed"}:
                self.error = str(event)
            case {"choices": choices}:
                self._count(event.get("usage"))
                for choice in choices:
                    self._choice(choice)
            case {"meta_info": meta, "text": text, "output_ids": ids}:
                index = event.get("index", 0)
                self.said[f"{index}.text"], self.ids[index] = text, ids
                self.logprobs[index] = meta.get("output_token_logprobs") or []
                self.finish[index] = meta["finish_reason"]
                self.usage = {"completion_tokens": meta["completion_tokens"]}
            case {"type": str(kind)}:
                self._typed(kind, event)
            case _:
                self.error = f"an event of no shape we know: {event}"

    def whole(self, answer: Any) -> None:
        """An answer that was not streamed."""
        self.final, self.done = calm(answer), True
        self.times.append(time.monotonic())
        if isinstance(answer, dict):
            self.usage = counts(answer.get("usage"))
            for choice in answer.get("choices", ()):
                self.ids[choice["index"]] = choice.get("token_ids") or []

    def _choice(self, choice: dict[str, Any]) -> None:
        index, delta = choice["index"], choice.get("delta") or {}
        self.said[f"{index}.text"] += choice.get("text") or delta.get("content") or ""
        self.said[f"{index}.thoughts"] += delta.get("reasoning_content") or ""
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            self.said[f"{index}.call{call['index']}.name"] += function.get("name") or ""
            self.said[f"{index}.call{call['index']}.arguments"] += function.get("arguments") or ""
        self.ids[index] += choice.get("token_ids") or []
        self.prompt += len(choice.get("prompt_token_ids") or ())
        match choice.get("logprobs"):
            case {"content": list(entries)}:
                self.logprobs[index] += [calm(entry) for entry in entries]
            case {"token_logprobs": list(values)}:
                self.logprobs[index] += values
        if choice.get("finish_reason"):
            if index in self.finish:
                self.error = f"choice {index} ended twice"
            self.finish[index] = (choice["finish_reason"], choice.get("matched_stop"))

    def _typed(self, kind: str, event: dict[str, Any]) -> None:
        """Events of /v1/responses and /v1/messages."""
        place = f"{event.get('output_index', event.get('index', 0))}.{event.get('content_index', '')}"
        if kind in ("response.completed", "response.incomplete"):
            self.final, self.done = calm(event["response"]), True
            self.usage = counts(event["response"].get("usage"))
        elif kind.startswith("response.") and isinstance(event.get("delta"), str):
            self.said[f"{place}.{kind}"] += event["delta"]
            self.logprobs[0] += [calm(entry) for entry in event.get("logprobs") or ()]
        elif kind == "content_block_delta":
            for name, value in event["delta"].items():
                if name not in ("type", "signature"):
                    self.said[f"{place}.{name}"] += value
        elif kind == "message_delta":
            self.finish[0] = (event["delta"]["stop_reason"], event["delta"]["stop_sequence"])
            self._count(event.get("usage"))
        elif kind == "message_stop":
            self.done = True

    def _count(self, usage: dict[str, Any] | None) -> None:
        if usage:
            self.usage = counts(usage)

    @property
    def tokens(self) -> int:
        """Output tokens that have come, where they are told; else chunks."""
        return sum(map(len, self.ids.values())) or len(self.times)

    @property
    def prompt_tokens(self) -> int:
        """Of the prompt, as the server counted them."""
        return self.prompt or self.usage.get("prompt") or self.usage.get("prompt_tokens") or 0

    def essence(self) -> tuple[Any, ...]:
        said = {place: text for place, text in self.said.items() if text}
        ids = {index: each for index, each in self.ids.items() if each}
        logprobs = {index: each for index, each in self.logprobs.items() if each}
        return self.status, said, ids, logprobs, self.finish, self.usage, self.final, self.done, self.error

    def differs(self, twin: Fold) -> str:
        """Where the first difference is; "": nowhere."""
        names = ("status", "said", "ids", "logprobs", "finish", "usage", "final", "done", "error")
        for name, ours, other in zip(names, self.essence(), twin.essence(), strict=True):
            if ours != other:
                return f"{name}: {str(ours)[:400]} instead of {str(other)[:400]}"
        return ""

    def doubled(self, twin: Fold) -> int:
        """Tokens (or, where none are told, characters) that came once more."""
        found = sum(_repeated(ids, twin.ids.get(index, [])) for index, ids in self.ids.items())
        if any(self.ids.values()):
            told = self.usage.get("completion_tokens")
            return max(found, self.tokens - told if self.done and told is not None else 0)
        return sum(_repeated(text, twin.said.get(place, "")) for place, text in self.said.items())


def _repeated(got: Any, want: Any) -> int:
    """How much of `got`, from the first difference on, says again what stands right before it."""
    at = next((i for i, (one, two) in enumerate(zip(got, want, strict=False)) if one != two), min(len(got), len(want)))
    again = next((size for size in range(at, 0, -1) if got[at : at + size] == got[at - size : at]), 0)
    return max(again, len(got) - len(want), 0) if len(got) > at else 0


def calm(value: Any) -> Any:
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {name: calm(each) for name, each in value.items() if name not in VOLATILE}
    return [calm(each) for each in value] if isinstance(value, list) else value


def counts(usage: Any) -> dict[str, Any]:
    """Of tokens, those of the prompt summed over what was cached and what was not."""
    if not isinstance(usage, dict):
        return {}
    prompt = [
        usage.get(name) or 0 for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    ]
    return {**calm(usage), "prompt": sum(prompt)}
