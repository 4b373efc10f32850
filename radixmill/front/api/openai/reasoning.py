"""How much a model is to think, as clients say it → what a session understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from msgspec import Struct

from radixmill.core.errors import BadRequest
from radixmill.front.session.limits import bounds

Effort = (
    Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | Annotated[float, bounds("reasoning_effort")]
)
Budget = Annotated[int, bounds("max_thinking_tokens")]


class ReasoningOptions(Struct, kw_only=True):
    """SGLang's and OpenRouter's way to say it; `enabled: false` is effort "none"."""

    effort: Effort | None = None
    enabled: bool | None = None
    max_tokens: Budget | None = None


class CustomParams(Struct, kw_only=True):
    """SGLang's parameters of logit processors, as far as one of them is built in here."""

    thinking_budget: Budget | None = None


class Wish(NamedTuple):
    """None: nothing was said of it."""

    thinks: bool | None = None
    effort: Effort | None = None


def thinking_wish(effort: Effort | None, options: ReasoningOptions | None = None) -> Wish:
    """Whether to think, and how hard. Any effort but "none" asks for thoughts.

    Raises BadRequest where two fields say different things.
    """
    more = options or ReasoningOptions()
    if effort is not None and more.effort is not None and effort != more.effort:
        raise BadRequest("reasoning.effort and reasoning_effort differ: give one of them.", param="reasoning.effort")
    effort = more.effort if effort is None else effort
    if more.enabled and effort == "none":
        raise BadRequest('reasoning.enabled is true, but the effort is "none".', param="reasoning.enabled")
    if effort is None and more.enabled is None:
        return Wish()
    return Wish(effort != "none" and more.enabled is not False, effort)


def thinking_budget(given: Mapping[str, int | None]) -> int | None:
    """The one limit that fields give, by their names. Raises BadRequest where two differ."""
    said = {name: tokens for name, tokens in given.items() if tokens is not None}
    if len(set(said.values())) > 1:
        raise BadRequest(f"{' and '.join(said)} differ: give one of them.", param=next(reversed(said)))
    return next(iter(said.values()), None)
