"""A conversation's items → the prompt, cut where it must be; a body → what a session is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint
from radixmill.front.api.openai.reasoning import thinking_wish
from radixmill.front.api.openai.responses.body import Format, PromptBody, ResponseBody, kwargs
from radixmill.front.api.openai.responses.items import (
    CustomCallItem,
    CustomOutputItem,
    FunctionCallItem,
    FunctionOutputItem,
    Item,
    MessageItem,
    ThoughtItem,
    to_messages,
)
from radixmill.front.api.openai.responses.tools import Tools
from radixmill.front.session import Ask, ChatPrompt, Session, salts
from radixmill.front.session.limits import RANGES
from radixmill.front.session.sampling import stop_strings, wished

LEAST_ANSWER = int(RANGES["max_output_tokens"].low or 0)  # tokens kept free where the client names no number


def to_prompt(body: PromptBody, items: Sequence[Item], tools: Tools) -> ChatPrompt:
    """Instructions stand before everything, in one message with what a system says at the very beginning: many chat
    templates know one such message only."""
    if body.reasoning and body.reasoning.context == "current_turn":
        items = _without_earlier_thoughts(items)
    messages = to_messages(items)
    if body.instructions is not None:
        messages = _instructed(body.instructions, messages)
    wish = thinking_wish(body.reasoning.effort if body.reasoning else None)
    return ChatPrompt(messages=tuple(messages), tools=tools.template, template_kwargs=kwargs(body), thinks=wish.thinks)


def to_ask(body: ResponseBody, id: str, prompt: ChatPrompt, tools: Tools) -> Ask:
    return Ask(
        id=id,
        model=body.model or "default",
        prompts=(prompt,),
        prompt_field="input",
        max_tokens=body.max_output_tokens,
        max_tokens_field="max_output_tokens",
        sampling=wished(
            body, min_tokens=body.min_tokens, logprobs=(body.top_logprobs or 0) if body.wants_logprobs else None
        ),
        stop=stop_strings(body.stop),
        keep_tokens=body.wants_logprobs,
        max_thinking_tokens=body.max_thinking_tokens,
        constraint=constraint(body.text.format if body.text else None),
        constraint_field="text.format",
        tools=tools.rule,
        seed=body.seed,
        salts=salts(body.cache_salt),
        priority=body.priority or 0,
        detached=bool(body.background),
        record=bool(body.record),
        receipt=bool(body.receipt),
        timeout=body.timeout,
    )


def constraint(format: Format | None) -> Constraint | None:
    """What the text must match. Raises BadRequest."""
    if format is None or format.type == "text":
        return None
    if format.type == "json_object":
        return Constraint(kind="json_object")
    for name in ("name", "schema"):
        if getattr(format, name) is None:
            raise BadRequest(f"text.format.{name} is required.", param=f"text.format.{name}")
    return Constraint(kind="json_schema", text=msgspec.json.encode(format.schema).decode())


async def fitted(
    session: Session, body: PromptBody, items: Sequence[Item], tools: Tools, room: int | None
) -> ChatPrompt:
    """The prompt; with truncation "auto" the oldest turns are left out until `room` more tokens fit behind it. What a
    system says at the very beginning stays, and the last turn: if that does not fit, the session will say so."""
    whole = to_prompt(body, items, tools)
    if body.truncation != "auto":
        return whole
    most = session.spec().context - (LEAST_ANSWER if room is None else room)
    head = _opening(items)
    starts = [i for i in range(head, len(items)) if _begins_turn(items[i])]
    prompts = [whole, *(to_prompt(body, _cut(items, head, start), tools) for start in starts if start > head)]
    low, high = 0, len(prompts) - 1
    while low < high:  # the first that fits lies in [low, high], or none does
        middle = (low + high) // 2
        if len((await session.tokenise((prompts[middle],), "input"))[0]) <= most:
            high = middle
        else:
            low = middle + 1
    return prompts[low]


def _instructed(instructions: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first = messages[0] if messages else {}
    if first.get("role") in ("system", "developer") and isinstance(first["content"], str):
        return [{**first, "content": f"{instructions}\n\n{first['content']}"}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _without_earlier_thoughts(items: Sequence[Item]) -> list[Item]:
    """Thoughts of the turn that is going on are kept: those behind the last message of a user."""
    last = max((i for i, item in enumerate(items) if _begins_turn(item)), default=-1)
    return [item for i, item in enumerate(items) if i > last or not isinstance(item, ThoughtItem)]


def _begins_turn(item: Item) -> bool:
    return isinstance(item, MessageItem) and item.role == "user"


def _opening(items: Sequence[Item]) -> int:
    """How many messages of a system, or developer, stand at the beginning."""
    for i, item in enumerate(items):
        if not (isinstance(item, MessageItem) and item.role in ("system", "developer")):
            return i
    return len(items)


def _cut(items: Sequence[Item], head: int, start: int) -> list[Item]:
    """The opening and what comes from `start` on, without outputs whose calls are gone."""
    kept = [*items[:head], *items[start:]]
    calls = {item.call_id for item in kept if isinstance(item, FunctionCallItem | CustomCallItem)}
    return [
        item for item in kept if not isinstance(item, FunctionOutputItem | CustomOutputItem) or item.call_id in calls
    ]
