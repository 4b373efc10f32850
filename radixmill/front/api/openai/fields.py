"""Fields that chat and text completions share: their types, which are hints, which are refused, and what they become.

docs/api.md lists the three kinds; a test compares it with these tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from msgspec import Struct

from radixmill.core.errors import BadRequest
from radixmill.front.api.openai.formats import Choices, ResponseFormat, Schema, StructuredOutputs
from radixmill.front.session.limits import SIZES, bounds, size

StopString = Annotated[str, size("stop string")]
TokenId = Annotated[int, bounds("token id")]
Timeout = Annotated[float, bounds("timeout")]
Template = Annotated[str, size("chat_template")]


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # a hint


class GenerateBody(Struct, kw_only=True):
    """What every route that generates takes, whichever API it is of. null means: not given."""

    model: str = "default"
    stream: bool | None = None
    rid: Annotated[str, size("rid")] | None = None


class CommonBody(GenerateBody, kw_only=True):
    """What both routes take."""

    n: Annotated[int, bounds("n")] | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, bounds("temperature")] | None = None
    top_p: Annotated[float, bounds("top_p")] | None = None
    top_k: Annotated[int, bounds("top_k")] | None = None
    min_p: Annotated[float, bounds("min_p")] | None = None
    presence_penalty: Annotated[float, bounds("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, bounds("frequency_penalty")] | None = None
    repetition_penalty: Annotated[float, bounds("repetition_penalty")] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, bounds("logit_bias")]], size("logit_bias")] | None = None
    seed: Annotated[int, bounds("seed")] | None = None
    stop: StopString | Annotated[list[StopString], size("stop")] | None = None
    stop_token_ids: Annotated[list[TokenId], size("stop_token_ids")] | None = None
    min_tokens: Annotated[int, bounds("min_tokens")] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    return_token_ids: bool | None = None
    priority: Annotated[int, bounds("priority")] | None = None
    timeout: Timeout | None = None
    cache_salt: str | None = None
    record: bool | None = None
    receipt: bool | None = None
    response_format: ResponseFormat | None = None
    regex: str | None = None
    ebnf: str | None = None
    json_schema: str | Schema | None = None
    guided_json: str | Schema | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    # hints
    user: str | None = None
    safety_identifier: Annotated[str, size("safety_identifier")] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prediction: Any = None
    service_tier: str | None = None
    metadata: Annotated[dict[str, str], size("metadata")] | None = None
    # refused
    stop_regex: Any = None
    lora_path: Any = None
    moderation: Any = None


HINTS = frozenset(
    {
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "prediction",
        "service_tier",
        "metadata",
        "stream_options.include_obfuscation",
    }
)

# Fields refused with a 400, and the values (besides null) that ask for nothing and are let through.
NEVER: dict[str, tuple[Any, ...]] = {"audio": (), "web_search_options": (), "moderation": ()}
NOT_YET: dict[str, tuple[Any, ...]] = {
    "stop_regex": ([], ""),
    "lora_path": (),
}


def refuse(body: Struct) -> None:
    """Raise BadRequest for the first field that asks for what this server does not do."""
    for table, verdict in ((NEVER, "is not supported"), (NOT_YET, "is not supported yet")):
        for name in body.__struct_fields__:
            if name in table and (value := getattr(body, name)) is not None and not _asks_nothing(value, table[name]):
                raise BadRequest(f"{name} {verdict}{_instead(table[name])}.", param=name)


def _asks_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(value == known and type(value) is type(known) for known in neutral)


def _instead(neutral: tuple[Any, ...]) -> str:
    return f"; the only value taken is {neutral[-1]!r}" if neutral and neutral[-1] not in ([], "") else ""


def check_stream_options(body: CommonBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise BadRequest(
            "stream_options is only for streams: set stream to true, or leave it out.", param="stream_options"
        )


def check_rid(rid: str | None) -> None:
    """An id travels in a header."""
    if rid is not None and not re.fullmatch(r"[!-~]+", rid):
        raise BadRequest("rid must be printable ASCII without spaces.", param="rid")


class OwnTemplate(NamedTuple):
    """A chat template that comes with a request, and the field that has it."""

    source: str | None
    field: str = "chat_template"


def own_template(given: str | None, extra: Mapping[str, Any]) -> OwnTemplate:
    """It may come as a field, as vLLM has it, or among the template's own arguments, as SGLang has it."""
    inner = extra.get("chat_template")
    if inner is None:
        return OwnTemplate(given)
    if given is not None:
        raise BadRequest("chat_template stands in chat_template_kwargs, too: give it once.", param="chat_template")
    low, high = SIZES["chat_template"]
    if not isinstance(inner, str) or not (low or 0) <= len(inner) <= (high or 0):
        raise BadRequest(
            f"{_INNER} must be a string of {low} to {high} characters.",
            param=_INNER,
        )
    return OwnTemplate(inner, _INNER)


_INNER = "chat_template_kwargs.chat_template"


def template_kwargs(extra: Mapping[str, Any], *, brings: bool = False, **own: Any) -> dict[str, Any]:
    """chat_template_kwargs over the fields that templates know by name. `brings`: one among them may replace the template."""
    if "chat_template" in extra and not brings:
        raise BadRequest(
            "chat_template_kwargs must not replace the chat template here; /v1/chat/completions and /tokenize take another"
            " where the server was started with --trust-request-chat-template.",
            param=_INNER,
        )
    extra = {name: value for name, value in extra.items() if name != "chat_template"}
    return {**{name: value for name, value in own.items() if value is not None}, **extra}


def documents(given: list[dict[str, str]] | None, extra: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    """The documents to answer from, which may come among the template's own arguments, too."""
    if given and extra.get("documents"):
        raise BadRequest("documents stand in chat_template_kwargs, too: give them once.", param="documents")
    return tuple(given or ())
