"""What a route asks of a session, in no API's words: chat, completions and every other dialect of HTTP make one of these."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class TextPrompt(Struct, frozen=True):
    """Text as its author templated it. `parse_special`: control tokens written in it count as such; `add_special`:
    begin and end tokens are put around it where the model wants them."""

    text: str
    parse_special: bool = True
    add_special: bool = True


class TokenPrompt(Struct, frozen=True):
    """Token ids."""

    ids: tuple[int, ...]


class ChatPrompt(Struct, frozen=True, kw_only=True):
    """Messages for the model's chat template. `messages` are plain dicts, their contents strings, null or text parts."""

    messages: tuple[dict[str, Any], ...]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: dict[str, Any] = {}


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
    seed: int | None = None
    tenant: str = ""
    priority: int = 0
