"""How much a model is to think, as clients say it → what chat templates read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Struct

from radixmill.core.errors import BadRequest
from radixmill.front.session.limits import bounds

Effort = (
    Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | Annotated[float, bounds("reasoning_effort")]
)

SWITCHES = ("enable_thinking", "thinking")


class ReasoningOptions(Struct, kw_only=True):
    """SGLang's and OpenRouter's way to say it; `enabled: false` is effort "none"."""

    effort: Effort | None = None
    enabled: bool | None = None


def reasoning_kwargs(
    effort: Effort | None, options: ReasoningOptions | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The effort, and the switches that templates have for it. Families call them differently, so all are set, unless
    the client sets one itself among the template's own arguments, `given`.

    Raises BadRequest where two fields say different things.
    """
    more = options or ReasoningOptions()
    if effort is not None and more.effort is not None and effort != more.effort:
        raise BadRequest("reasoning.effort and reasoning_effort differ: give one of them.", param="reasoning.effort")
    effort = more.effort if effort is None else effort
    if more.enabled and effort == "none":
        raise BadRequest('reasoning.enabled is true, but the effort is "none".', param="reasoning.enabled")
    if effort is None and more.enabled is None:
        return {}
    thinks = effort != "none" and more.enabled is not False
    switches = {} if given.keys() & set(SWITCHES) else dict.fromkeys(SWITCHES, thinks)
    return {"reasoning_effort": effort, **switches}
