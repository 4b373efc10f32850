"""What a route asks of a session, in no API's words: chat, completions and every other dialect of HTTP make one of these."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from radixmill.core.request import Constraint


class TextPrompt(Struct, frozen=True):
    """Text as its author templated it. `parse_special`: control tokens written in it count as such; `add_special`:
    begin and end tokens are put around it where the model wants them. With a `suffix`, what is wanted is the text between
    the two."""

    text: str
    parse_special: bool = True
    add_special: bool = True
    suffix: str = ""


class TokenPrompt(Struct, frozen=True):
    """Token ids."""

    ids: tuple[int, ...]


class ChatPrompt(Struct, frozen=True, kw_only=True):
    """Messages for the model's chat template. `messages` are plain dicts, their contents strings, null or text parts.
    `tools`, as the template sees them: `{"type": "function", "function": {"name", "description", "parameters"}}`;
    `documents`: `{"title", "text"}`, to answer from. `thinks` is said to the template by whatever name it has for that.
    `template`: the request's own, instead of the model's; `template_field`: what errors about it name."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    documents: tuple[dict[str, str], ...] = ()
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: dict[str, Any] = {}
    thinks: bool | None = None  # whether thoughts are wanted; None: as template_kwargs or the template say
    template: str | None = None
    template_field: str = "chat_template"


Prompt = TextPrompt | TokenPrompt | ChatPrompt


class Sampling(Struct, frozen=True, kw_only=True):
    """How to draw, as far as the client said; None means the server's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] = {}  # token id in decimal → bias
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None  # None: none; k: the chosen token's, and the k most likely
    prompt_logprobs: int | None = None  # the same for tokens of the prompt
    prompt_logprobs_from: int = 0  # position of the first of them; nothing is known of what stands at 0
    logprob_ids: tuple[int, ...] = ()  # tokens whose log-probability is told besides, wherever any is


class Tool(Struct, frozen=True, kw_only=True):
    """A function that the model may call. `custom`: its input is free text, which `format` may bind, not JSON."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None  # JSON Schema of the arguments; None: there are none
    strict: bool = False  # the arguments match `parameters`, always
    custom: bool = False
    format: Constraint | None = None
    field: str = "tools"  # what errors about its parameters or format name


class ToolRule(Struct, frozen=True, kw_only=True):
    """Which tools may be called, and whether one must be. A choice by name is "required" with one allowed."""

    tools: tuple[Tool, ...]
    choice: Literal["auto", "required", "none"] = "auto"
    allowed: tuple[str, ...] | None = None  # names; None: all
    parallel: bool = True  # more than one call


class Ask(Struct, frozen=True, kw_only=True):
    """One API call. `width` sequences run for each prompt and the `n` best are returned (n = width: all of them)."""

    id: str  # unique among the live ones: the handle for abort
    model: str
    prompts: tuple[Prompt, ...]
    prompt_field: str = "prompt"  # what errors about the prompt name
    n: int = 1
    width: int = 1
    max_tokens: int | None = None  # None: to the end of the context
    max_tokens_field: str = "max_tokens"
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    keep_stop: bool = False  # leave what ended the text in the text
    skip_special_tokens: bool = True
    keep_tokens: bool = False  # events carry the tokens behind their text
    echo: bool = False  # the answer's facts have the prompts' texts
    record: bool = False  # the answer comes with its record
    receipt: bool = False  # and with a signed receipt
    proofs_apart: bool = False  # each choice has its own of them, instead of one for all
    constraint: Constraint | None = None  # what content must match; behind the thoughts, where there are any
    constraint_field: str = "response_format"  # what errors about it name
    tools: ToolRule | None = None
    separate_reasoning: bool = True  # False: thoughts stay in the content, with their tags
    stream_reasoning: bool = True  # False: thoughts come in one piece
    max_thinking_tokens: int | None = None  # None: thoughts may be as long as they like
    raw_thoughts: Literal["no", "may", "first"] = "no"  # in what follows a prompt that is no chat; first: it begins so
    seed: int | None = None
    salts: tuple[str, ...] = ()  # keep its cached prefixes apart: only equal salts share
    priority: int = 0
    detached: bool = False  # nobody waits on the line: it waits and runs for as long as it takes, but for `timeout`
    timeout: float | None = None  # seconds the whole request may take; None: as long as the server lets it
