"""What the client said, the server's defaults, the model's vocabulary → SamplingParams. Raises BadRequest by field name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from radixmill.core.errors import BadRequest, ContextTooLong
from radixmill.core.request import SamplingParams
from radixmill.front.session.ask import Ask, Sampling
from radixmill.front.session.limits import RANGES

NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class Wishes(Protocol):
    """The fields of a body that say how to draw, under the names that all routes give them. None: not given."""

    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def min_p(self) -> float | None: ...
    @property
    def repetition_penalty(self) -> float | None: ...
    @property
    def presence_penalty(self) -> float | None: ...
    @property
    def frequency_penalty(self) -> float | None: ...
    @property
    def logit_bias(self) -> Mapping[str, float] | None: ...
    @property
    def stop_token_ids(self) -> Sequence[int] | None: ...
    @property
    def ignore_eos(self) -> bool | None: ...


def wished(body: Wishes, *, min_tokens: int | None, logprobs: int | None = None) -> Sampling:
    """What a body says of sampling."""
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=dict(body.logit_bias or {}),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=min_tokens or 0,
        logprobs=logprobs,
    )


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The different ones, in order."""
    return (stop,) if isinstance(stop, str) else tuple(dict.fromkeys(stop or ()))


def to_params(
    ask: Ask,
    prompt_tokens: int,
    context: int,
    vocab_size: int,
    defaults: Mapping[str, float],
    stops: tuple[int, ...] = (),
) -> SamplingParams:
    """The parameters of one prompt's sequences. `stops`: tokens that end it besides those the client names."""
    wish = ask.sampling
    max_tokens = output_limit(ask, prompt_tokens, context)
    if wish.min_tokens > max_tokens:
        raise BadRequest(
            f"min_tokens ({wish.min_tokens}) must not be more than the tokens that may be generated ({max_tokens}).",
            param="min_tokens",
        )
    drawn = {name: _chosen(wish, name, defaults) for name in NEUTRAL}
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=wish.min_tokens,
        temperature=float(drawn["temperature"]),
        top_k=max(int(drawn["top_k"]), 0),
        top_p=float(drawn["top_p"]),
        min_p=float(drawn["min_p"]),
        repetition_penalty=float(drawn["repetition_penalty"]),
        presence_penalty=wish.presence_penalty,
        frequency_penalty=wish.frequency_penalty,
        logit_bias=_bias(wish.logit_bias, vocab_size),
        stop_token_ids=(
            *_token_ids(wish.stop_token_ids, vocab_size, "stop_token_ids"),
            *(() if wish.ignore_eos else stops),
        ),
        ignore_eos=wish.ignore_eos,
        logprobs=0 if wish.logprobs is None and ask.width > ask.n else wish.logprobs,
        prompt_logprobs=wish.prompt_logprobs,
        prompt_logprobs_from=_start(wish.prompt_logprobs_from, prompt_tokens),
        logprob_ids=_token_ids(wish.logprob_ids, vocab_size, "token_ids_logprob"),
    )


def output_limit(ask: Ask, prompt_tokens: int, context: int) -> int:
    """How many tokens may be generated. Raises ContextTooLong where prompt and output do not fit together."""
    wanted = ask.max_tokens
    if wanted is None:
        if prompt_tokens >= context:
            least = 0 if prompt_tokens > context else 1
            raise ContextTooLong(prompt_tokens, least, context, param=ask.prompt_field, limited_by=ask.max_tokens_field)
        return context - prompt_tokens
    if prompt_tokens + wanted > context:
        at_fault = ask.max_tokens_field if prompt_tokens < context else ask.prompt_field
        raise ContextTooLong(prompt_tokens, wanted, context, param=at_fault, limited_by=ask.max_tokens_field)
    return wanted


def check_defaults(defaults: Mapping[str, float]) -> dict[str, float]:
    """The server's sampling defaults that are sane; a model's file may say anything."""
    sane = {}
    for name, value in defaults.items():
        low, high = RANGES[name] if name in NEUTRAL else (0.0, -1.0)
        if (low is None or value >= low) and (high is None or value <= high):
            sane[name] = value
    return sane


def _chosen(wish: Sampling, name: str, defaults: Mapping[str, float]) -> float:
    value = getattr(wish, name)
    return defaults.get(name, NEUTRAL[name]) if value is None else value


def _bias(bias: Mapping[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((_bias_id(key, vocab_size), float(value)) for key, value in bias.items()))


def _bias_id(key: str, vocab_size: int) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size):
        raise BadRequest(
            f"logit_bias maps token ids to numbers; {key[:40]!r} is not a token id from 0 to {vocab_size - 1}.",
            param=f"logit_bias.{key[:40]}",
        )
    return int(key)


def _start(position: int, prompt_tokens: int) -> int:
    if position > prompt_tokens:
        raise BadRequest(
            f"logprob_start_len ({position}) must not be more than the prompt's {prompt_tokens} tokens.",
            param="logprob_start_len",
        )
    return position


def _token_ids(ids: tuple[int, ...], vocab_size: int, field: str) -> tuple[int, ...]:
    for i, token in enumerate(ids):
        if not 0 <= token < vocab_size:
            raise BadRequest(
                f"{field} must hold token ids from 0 to {vocab_size - 1}; {token} is none.", param=f"{field}[{i}]"
            )
    return tuple(dict.fromkeys(ids))
