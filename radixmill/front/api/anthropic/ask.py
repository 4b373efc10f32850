"""A body of the Messages API → what a session understands. Raises BadRequest naming the place."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint
from radixmill.front.api.anthropic.body import REFUSED, CountBody, JsonFormat, MessagesBody, Thinking
from radixmill.front.api.anthropic.errors import NO_THREADS
from radixmill.front.api.anthropic.history import to_history
from radixmill.front.api.anthropic.tools import to_tools
from radixmill.front.api.openai.fields import check_rid, template_kwargs
from radixmill.front.session import Ask, ChatPrompt, ToolRule, salts
from radixmill.front.session.sampling import wished


def to_ask(body: MessagesBody, id: str, *, drop_tools: bool = False) -> Ask:
    check_rid(body.rid)
    prompt, rule = to_prompt(body, drop_tools=drop_tools)
    _check_budget(body.thinking, body.max_tokens)
    format = _format(body)
    return Ask(
        id=id,
        model=body.model,
        prompts=(prompt,),
        prompt_field="messages",
        max_tokens=body.max_tokens,
        sampling=wished(body, min_tokens=body.min_tokens),
        stop=tuple(dict.fromkeys(body.stop_sequences or ())),
        keep_stop=bool(body.no_stop_trim),
        skip_special_tokens=body.skip_special_tokens is not False,
        constraint=format.constraint if format else None,
        constraint_field=format.field if format else "output_config.format",
        tools=rule,
        max_thinking_tokens=body.thinking.budget_tokens if body.thinking else None,
        seed=body.seed,
        salts=salts(body.cache_salt),
        priority=body.priority or 0,
        record=bool(body.record),
        receipt=bool(body.receipt),
        timeout=body.timeout,
    )


class Prompted(NamedTuple):
    prompt: ChatPrompt
    rule: ToolRule | None


def to_prompt(body: CountBody, *, drop_tools: bool = False) -> Prompted:
    """The prompt alone, which is also what is counted."""
    refuse(body)
    history = to_history(body.system, body.messages)
    tools = to_tools(body.tools, body.tool_choice, drop=drop_tools)
    prompt = ChatPrompt(
        messages=history.messages,
        tools=tools.shown,
        add_generation_prompt=not history.goes_on,
        continue_final_message=history.goes_on,
        template_kwargs=template_kwargs(body.chat_template_kwargs or {}, **_toggles(body)),
        thinks=None if body.thinking is None else body.thinking.type != "disabled",
    )
    return Prompted(prompt, tools.rule)


def refuse(body: CountBody) -> None:
    """Raise BadRequest for a field that asks for what this server does not do."""
    for name, neutral in REFUSED.items():
        if (value := getattr(body, name)) is not None and value not in neutral:
            code = NO_THREADS if name == "thread" else None
            raise BadRequest(f"{name} is not supported.", param=name, code=code)


def _toggles(body: CountBody) -> dict[str, Any]:
    """What templates know by name: how long to think, how hard."""
    made: dict[str, Any] = {}
    if body.thinking is not None:
        made["thinking_budget"] = body.thinking.budget_tokens
    if body.output_config is not None and body.output_config.effort is not None:
        made["reasoning_effort"] = "max" if body.output_config.effort == "xhigh" else body.output_config.effort
    return made


def _check_budget(thinking: Thinking | None, max_tokens: int) -> None:
    if thinking is None:
        return
    field, budget = "thinking.budget_tokens", thinking.budget_tokens
    if thinking.type != "enabled":
        if budget is not None:
            raise BadRequest(f'{field} is only for the type "enabled".', param=field)
        return
    if budget is None:
        raise BadRequest(f'{field} is required for the type "enabled": it must be an integer.', param=field)
    if budget >= max_tokens:
        raise BadRequest(f"{field} ({budget}) must be less than max_tokens ({max_tokens}).", param=field)


class _Format(NamedTuple):
    constraint: Constraint
    field: str


def _format(body: MessagesBody) -> _Format | None:
    """The schema of the answer, and the field it stands in: `output_config.format`, or its older name."""
    newer = body.output_config.format if body.output_config else None
    if newer and body.output_format:
        raise BadRequest("output_format is output_config.format by its older name: give one.", param="output_format")
    if newer:
        return _Format(_schema(newer), "output_config.format.schema")
    return _Format(_schema(body.output_format), "output_format.schema") if body.output_format else None


def _schema(format: JsonFormat) -> Constraint:
    return Constraint(kind="json_schema", text=msgspec.json.encode(format.schema).decode())
