"""A body → one Ask for each prompt of it, and what each wants in its answer. Raises BadRequest in the body's own words."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint, ConstraintKind
from radixmill.front.session.ask import Ask, Prompt, TextPrompt, TokenPrompt
from radixmill.front.session.batch import Batch
from radixmill.front.session.caller import ANYONE, Caller, salts
from radixmill.front.session.generation import Generation
from radixmill.front.session.limits import DEFAULT_NATIVE_TOKENS, SIZES
from radixmill.front.session.native.body import REFUSED, GenerateBody, SamplingBody
from radixmill.front.session.sampling import stop_strings, wished
from radixmill.front.session.session import Session

CONSTRAINTS: tuple[ConstraintKind, ...] = ("json_schema", "regex", "ebnf", "structural_tag")


class Item(Struct, frozen=True, kw_only=True):
    """One prompt. `params`: where its sampling_params stand in the body."""

    ask: Ask
    params: str
    logprobs: bool = False
    start: int = -1  # first prompt token whose logprob is wanted; -1: none
    top: int = 0
    named: bool = False  # logprobs of token_ids_logprob
    texts: bool = False
    prompt_ids: bool = False


def to_items(body: GenerateBody) -> list[Item]:
    """The prompts of a body, in order; whether they are a batch is `is_batch`'s to say."""
    _refuse(body)
    prompts = _prompts(body)
    rows = _Rows(body, len(prompts), is_batch(body))
    items = [_item(body, rows, i, field, prompt) for i, (field, prompt) in enumerate(prompts)]
    if len({item.ask.id for item in items}) < len(items):
        raise BadRequest("rid must name each prompt of a batch differently.", param="rid")
    if sum(item.ask.n for item in items) > (most := int(SIZES["sequences"].high or 0)):
        raise BadRequest(f"The batch asks for more than {most} sequences.", param="sampling_params")
    return items


def is_batch(body: GenerateBody) -> bool:
    """Whether the answer is a list, whatever n is."""
    return isinstance(body.text, list) or bool(body.input_ids and isinstance(body.input_ids[0], list))


async def start(session: Session, items: Sequence[Item], caller: Caller = ANYONE) -> Batch:
    """All of them, or none. Whoever gets the Batch must close it."""
    generations: list[Generation] = []
    try:
        for item in items:
            generations.append(await _start(session, item, caller, generations[0] if generations else None))
    except BaseException:
        Batch(generations).close()
        raise
    return Batch(generations)


async def _start(session: Session, item: Item, caller: Caller, beside: Generation | None) -> Generation:
    try:
        return await session.start(item.ask, caller, beside=beside)
    except BadRequest as error:
        raise _in_our_words(error, item.params) from None


class _Rows:
    """Fields that hold one value, or one for each prompt of a batch."""

    def __init__(self, body: GenerateBody, count: int, batch: bool) -> None:
        self.body, self.count, self.batch = body, count, batch

    def get(self, name: str, at: int, default: Any = None) -> Any:
        value = getattr(self.body, name)
        if isinstance(value, list):
            self._check(name, len(value))
            value = value[at]
        return default if value is None else value

    def named_ids(self, at: int) -> tuple[int, ...]:
        """token_ids_logprob: ids for all prompts, or a list of ids (or null) for each."""
        value = self.body.token_ids_logprob or []
        if all(isinstance(item, int) for item in value):
            return tuple(item for item in value if isinstance(item, int))
        self._check("token_ids_logprob", len(value))
        mine = value[at] or []
        if isinstance(mine, int):
            raise BadRequest(
                "token_ids_logprob must be token ids or a list of such lists, not a mixture.", param="token_ids_logprob"
            )
        return tuple(mine)

    def _check(self, name: str, have: int) -> None:
        if not self.batch:
            raise BadRequest(f"{name} must be a single value: there is one prompt, not a batch.", param=name)
        if have != self.count:
            raise BadRequest(f"{name} has {have} entries for {self.count} prompts.", param=name)


def _prompts(body: GenerateBody) -> list[tuple[str, Prompt]]:
    """Each with the name of its field."""
    if (body.text is None) == (body.input_ids is None):
        raise BadRequest("Give text or input_ids, one of the two.", param="text")
    special = body.parse_special is not False
    if isinstance(body.text, str):
        return [("text", TextPrompt(body.text, special))]
    if body.text is not None:
        return [(f"text[{i}]", TextPrompt(text, special)) for i, text in enumerate(body.text)]
    rows = body.input_ids or []
    if not is_batch(body):
        return [("input_ids", TokenPrompt(tuple(_ids(rows))))]
    if len(rows) > (most := int(SIZES["prompts"].high or 0)):
        raise BadRequest(f"input_ids must be at most {most} prompts, not {len(rows)}.", param="input_ids")
    return [(f"input_ids[{i}]", TokenPrompt(tuple(_row(row, i)))) for i, row in enumerate(rows)]


def _ids(row: Sequence[Any]) -> list[int]:
    if odd := next((i for i, item in enumerate(row) if not isinstance(item, int)), None):
        raise BadRequest(
            "input_ids must be token ids or a list of such lists, not a mixture.", param=f"input_ids[{odd}]"
        )
    return list(row)


def _row(row: Any, at: int) -> list[int]:
    if not isinstance(row, list):
        raise BadRequest(
            "input_ids must be token ids or a list of such lists, not a mixture.", param=f"input_ids[{at}]"
        )
    return row


def _item(body: GenerateBody, rows: _Rows, at: int, field: str, prompt: Prompt) -> Item:
    params: SamplingBody = rows.get("sampling_params", at, SamplingBody())
    place = f"sampling_params[{at}]" if isinstance(body.sampling_params, list) else "sampling_params"
    _refuse(params, "sampling_params.", f"{place}.")
    wanted = bool(rows.get("return_logprob", at, False))
    named, top = rows.named_ids(at), rows.get("top_logprobs_num", at, 0)
    begin = rows.get("logprob_start_len", at, -1)
    sampling = wished(params, min_tokens=params.min_new_tokens)
    if wanted:
        sampling = replace(sampling, logprobs=top, logprob_ids=named)
    if wanted and begin >= 0:
        sampling = replace(sampling, prompt_logprobs=top, prompt_logprobs_from=begin)
    constraint, kind = constraint_of(params, f"{place}.")
    budget = _budget(rows.get("max_thinking_tokens", at), params, f"{place}.custom_params.thinking_budget")
    n = params.n or 1
    ask = Ask(
        id=_id(body.rid, rows, at),
        model="default",
        prompts=(prompt,),
        prompt_field=field,
        n=n,
        width=n,
        max_tokens=DEFAULT_NATIVE_TOKENS if params.max_new_tokens is UNSET else params.max_new_tokens,
        max_tokens_field=f"{place}.max_new_tokens",
        sampling=sampling,
        stop=stop_strings(params.stop),
        keep_stop=bool(params.no_stop_trim),
        skip_special_tokens=params.skip_special_tokens is not False,
        keep_tokens=True,
        constraint=constraint,
        constraint_field=f"{place}.{kind}",
        separate_reasoning=False,
        max_thinking_tokens=budget,
        raw_thoughts="first" if rows.get("require_reasoning", at, False) else "no" if budget is None else "may",
        seed=params.sampling_seed if params.seed is None else params.seed,
        salts=salts(rows.get("cache_salt", at), rows.get("extra_key", at)),
        priority=body.priority or 0,
        record=bool(body.record),
        receipt=bool(body.receipt),
        proofs_apart=True,
        timeout=body.timeout,
    )
    return Item(
        ask=ask,
        params=place,
        logprobs=wanted,
        start=begin if wanted else -1,
        top=top,
        named=wanted and bool(named),
        texts=bool(body.return_text_in_logprobs),
        prompt_ids=bool(body.return_prompt_token_ids),
    )


def constraint_of(params: Any, place: str = "") -> tuple[Constraint | None, str]:
    """The one that `params` has under a name of CONSTRAINTS, and that name. `place` stands before it in errors."""
    given = [kind for kind in CONSTRAINTS if getattr(params, kind) is not None]
    if len(given) > 1:
        raise BadRequest(
            f"At most one of {', '.join(CONSTRAINTS)} may be given, not {' and '.join(given)}.",
            param=f"{place}{given[1]}",
        )
    if not given:
        return None, ""
    value = getattr(params, given[0])
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Constraint(kind=given[0], text=text), given[0]


def _budget(tokens: int | None, params: SamplingBody, field: str) -> int | None:
    """Of both fields that may give it. Raises BadRequest where they differ."""
    custom = params.custom_params.thinking_budget if params.custom_params else None
    if tokens is not None and custom is not None and tokens != custom:
        raise BadRequest(f"{field} and max_thinking_tokens differ: give one of them.", param=field)
    return custom if tokens is None else tokens


def _id(rid: str | list[str] | None, rows: _Rows, at: int) -> str:
    if rid is None:
        return uuid.uuid4().hex
    name: str = rows.get("rid", at)
    if not re.fullmatch(r"[!-~]+", name):
        raise BadRequest("rid must be printable ASCII without spaces.", param="rid")
    return f"{name}_{at}" if isinstance(rid, str) and rows.batch else name


def _refuse(body: GenerateBody | SamplingBody, listed: str = "", shown: str = "") -> None:
    """`listed`: where the body stands in REFUSED; `shown`: where, in the error."""
    for name in body.__struct_fields__:
        neutral, value = REFUSED.get(listed + name), getattr(body, name)
        if neutral is None or value is None or any(value == known and type(value) is type(known) for known in neutral):
            continue
        raise BadRequest(f"{shown}{name} is not supported.", param=f"{shown}{name}")


def _in_our_words(error: BadRequest, place: str) -> BadRequest:
    """What a session says of fields by OpenAI's names, by SGLang's."""
    named = (error.param or "").split(".")[0].split("[")[0]
    if named == "min_tokens":
        error.message = error.message.replace("min_tokens", "min_new_tokens")
        error.param = f"{place}.min_new_tokens"
    elif named in SamplingBody.__struct_fields__:
        error.param = f"{place}.{error.param}"
    return error
