"""Requests of every kind that a server is asked for, each with a seed: asked twice, the same answer is due."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CHAT, TEXT, RESPONSES, MESSAGES, NATIVE = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/generate",
)  # fmt: skip
# A model that has never heard of thoughts thinks, until its budget ends, where its template opens them.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is true %}<think>\n{% endif %}{% endif %}"
)
WORDS = (
    "river",
    "mill",
    "stone",
    "wheel",
    "water",
    "baker",
    "flour",
    "bread",
    "winter",
    "summer",
    "road",
    "market",
    "wagon",
    "horse",
    "barrel",
    "apple",
    "harvest",
    "lantern",
    "bridge",
    "village",
    "teacher",
    "window",
    "garden",
    "thunder",
    "copper",
    "needle",
    "thread",
    "candle",
    "sailor",
    "island",
    "harbour",
    "compass",
    "feather",
)
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 16}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 3, "maxItems": 6},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Wish:
    """One request."""

    kind: str
    route: str
    body: dict[str, Any]

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


def chat(rng: random.Random, tokens: int, **more: Any) -> dict[str, Any]:
    question = f"Write about the {words(rng, 3)}. " + words(rng, rng.randint(0, 60))
    return _streamed(tokens, rng, messages=[{"role": "user", "content": question}], logprobs=True, **more)


def text(rng: random.Random, tokens: int, **more: Any) -> dict[str, Any]:
    prompt = f"Once there was a {words(rng, rng.randint(4, 80))}"
    return _streamed(tokens, rng, **{"prompt": prompt, **more})


def _streamed(tokens: int, rng: random.Random, **more: Any) -> dict[str, Any]:
    return {
        "model": "default",
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "max_tokens": tokens,
        "seed": rng.randrange(1 << 40),
        **more,
    }


def _tools(flat: bool = False) -> dict[str, Any]:
    one = {"name": "weather", "description": "The weather of a city", "parameters": CITY}
    return {
        "tools": [{"type": "function", **one} if flat else {"type": "function", "function": one}],
        "tool_choice": "required",
    }


def _schema() -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}}}


def _responses(rng: random.Random, tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "default",
        "input": f"Write about the {words(rng, 4)}.",
        "max_output_tokens": tokens,
        "seed": rng.randrange(1 << 40),
        "stream": True,
        **more,
    }


def _messages(rng: random.Random, tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "default",
        "messages": [{"role": "user", "content": f"Write about the {words(rng, 4)}."}],
        "max_tokens": tokens,
        "seed": rng.randrange(1 << 40),
        "stream": True,
        **more,
    }


def _native(rng: random.Random, tokens: int) -> dict[str, Any]:
    sampling = {
        "max_new_tokens": tokens,
        "temperature": 0.9,
        "sampling_seed": rng.randrange(1 << 40),
        "ignore_eos": True,
    }
    return {"text": words(rng, 12), "sampling_params": sampling, "return_logprob": True, "stream": True}


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in ("stream", "stream_options")}


Make = Callable[[random.Random, int], dict[str, Any]]
PENALTIES = {"frequency_penalty": 0.4, "presence_penalty": 0.3, "repetition_penalty": 1.1, "logit_bias": {"20": 2}}
KINDS: dict[str, tuple[str, Make]] = {
    "greedy": (TEXT, lambda rng, n: text(rng, n, temperature=0, ignore_eos=True)),
    "sampled": (TEXT, lambda rng, n: text(rng, n, temperature=1.0, top_p=0.9, logprobs=2, ignore_eos=True)),
    "chat": (CHAT, lambda rng, n: chat(rng, n, temperature=0.8, top_logprobs=2, ignore_eos=True)),
    "json": (CHAT, lambda rng, n: chat(rng, n, temperature=1.0, **_schema())),
    "tools": (CHAT, lambda rng, n: chat(rng, n, temperature=1.0, **_tools())),
    "several": (TEXT, lambda rng, n: text(rng, n, n=3, temperature=0.9, logprobs=1, ignore_eos=True)),
    "penalties": (TEXT, lambda rng, n: text(rng, n, temperature=0.9, ignore_eos=True, **PENALTIES)),
    "thoughts": (CHAT, lambda rng, n: chat(rng, n, max_thinking_tokens=n // 2, chat_template_kwargs={"enable_thinking": True})),
    "stops": (TEXT, lambda rng, n: text(rng, n, temperature=1.0, stop=["e", "the"], min_tokens=n // 3)),
    "responses": (RESPONSES, _responses),
    "responses with tools": (RESPONSES, lambda rng, n: _responses(rng, n, **_tools(flat=True))),
    "messages": (MESSAGES, _messages),
    "native": (NATIVE, _native),
    "not streamed": (CHAT, lambda rng, n: _whole(chat(rng, n, temperature=0.8, n=2, ignore_eos=True))),
    "regex": (TEXT, lambda rng, n: text(rng, n, temperature=1.0, regex=r"([a-z]{2,9} ){20,40}")),
}  # fmt: skip


def mixed(count: int, seed: int, tokens: tuple[int, int] = (20, 120)) -> list[Wish]:
    """Requests of all kinds in turn; from `tokens[0]` to `tokens[1]` output tokens."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        route, make = KINDS[kind]
        found.append(Wish(kind, route, make(rng, rng.randint(*tokens))))
    return found


def prompt_of(count: int, rng: random.Random, per_word: float = 1.0) -> str:
    """A text of about so many tokens that nobody has sent before. `per_word`: tokens of a word."""
    return f"{rng.getrandbits(32):x} " + words(rng, int((count - 8) / per_word))
