"""Every numeric limit of the API, in one table: the parser, the generated schema, the docs page and the tests read it."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Meta


class Range(NamedTuple):
    """What a number may be, both ends included; None leaves an end open."""

    low: float | None
    high: float | None


RANGES: dict[str, Range] = {
    "temperature": Range(0, 2),
    "temperature (messages)": Range(0, 1),
    "top_p": Range(0, 1),  # 0 is greedy
    "top_k": Range(-1, 1_000_000),  # -1 and 0: all
    "min_p": Range(0, 1),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "repetition_penalty": Range(0.01, 10),
    "logit_bias": Range(-100, 100),  # each value
    "n": Range(1, 128),
    "best_of": Range(1, 20),
    "max_tokens": Range(1, None),  # chat; the context is the upper end
    "max_tokens (completions)": Range(0, None),
    "max_completion_tokens": Range(1, None),
    "max_output_tokens": Range(16, None),  # responses
    "min_tokens": Range(0, None),
    "max_new_tokens": Range(0, None),
    "budget_tokens": Range(1024, None),
    "max_thinking_tokens": Range(0, None),
    "top_logprobs": Range(0, 20),
    "top_logprobs_num": Range(0, 128),
    "logprob_start_len": Range(-1, None),
    "logprobs (completions)": Range(0, 20),
    "seed": Range(-(2**63), 2**63 - 1),
    "reasoning_effort": Range(0, 0.99),  # as a number
    "priority": Range(-(2**31), 2**31 - 1),
    "timeout": Range(0.001, 604_800),  # seconds
    "token id": Range(0, None),  # the vocabulary is the upper end
}

SIZES: dict[str, Range] = {
    "messages": Range(1, 10_000),
    "stop": Range(0, 32),  # strings
    "stop string": Range(1, 4096),  # characters
    "stop_token_ids": Range(0, 1024),
    "token_ids_logprob": Range(0, 1024),
    "logit_bias": Range(0, 4096),  # entries
    "tools": Range(0, 1024),
    "choices": Range(1, 4096),  # of guided_choice
    "choice": Range(1, 4096),  # characters
    "prompts": Range(1, 2048),
    "prompts or ids": Range(1, None),
    "sequences": Range(1, 2048),  # prompts × choices of one request
    "constraint": Range(0, 1_000_000),  # characters of a schema or grammar; what is in it, the engine limits
    "safety_identifier": Range(0, 64),  # characters
    "chat_template": Range(1, 1 << 18),  # characters
    "metadata": Range(0, 64),  # pairs
    "rid": Range(1, 256),  # characters
    "request id header": Range(1, 128),  # characters
}

CHARS_PER_TOKEN = 256  # no token has more: a text beyond the context's worth of them is refused before it is tokenised

DEFAULT_COMPLETION_TOKENS = 16
DEFAULT_NATIVE_TOKENS = 128
THREAD_CHARS = 20_000  # texts longer than this are tokenised off the event loop


def bounds(name: str) -> Meta:
    """The limits of number `name` as msgspec reads them."""
    low, high = RANGES[name]
    return Meta(ge=low, le=high)


def size(name: str) -> Meta:
    """The limits of the length of `name` as msgspec reads them."""
    low, high = SIZES[name]
    return Meta(min_length=None if low is None else int(low), max_length=None if high is None else int(high))
