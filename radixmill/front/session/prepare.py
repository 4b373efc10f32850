"""What is done for a request before the engine hears of it: its prompts tokenised, its grammar looked at, within limits.

Knows no requests that run. Raises BadRequest in the words of the field at fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from radixmill.core.errors import BadRequest, PromptTooLong
from radixmill.core.request import Constraint
from radixmill.front.session.ask import Ask, ChatPrompt, Prompt, TextPrompt, TokenPrompt
from radixmill.front.session.guest import Guests
from radixmill.front.session.limits import CHARS_PER_TOKEN, SIZES, THREAD_CHARS
from radixmill.front.session.sampling import output_limit
from radixmill.front.session.speech import Speech
from radixmill.front.session.text import Text
from radixmill.front.text import Rendered
from radixmill.front.text.template import strings
from radixmill.link.client import EngineClient


class Preparer:
    """Of one session."""

    def __init__(self, text: Text, client: EngineClient, most: int | None, guests: Guests | None = None) -> None:
        """`most`: tokens that a prompt may have; None: what the context holds. `guests`: who renders templates of
        requests; None: nobody."""
        self.text, self.client, self.most, self.guests = text, client, most, guests

    async def within(self, ask: Ask, context: int, owner: str = "") -> tuple[tuple[int, ...], ...]:
        """Token ids of an Ask's prompts, none of more than the limit. What cannot have so few is not tokenised. Raises
        BadRequest; of the context's own limit, what checks the sampling parameters tells more."""
        for prompt in ask.prompts:
            if isinstance(prompt, TokenPrompt):
                self._check_length(ask, len(prompt.ids), context)
            else:
                await self._check_chars(prompt, min(context, self.most or context), ask.prompt_field)
        found = await self.tokenise(ask.prompts, ask.prompt_field, owner)
        if self.most is not None and (longest := max(map(len, found))) > self.most:
            raise PromptTooLong(longest, self.most, param=ask.prompt_field)
        return found

    def _check_length(self, ask: Ask, tokens: int, context: int) -> None:
        if self.most is not None and tokens > self.most:
            raise PromptTooLong(tokens, self.most, param=ask.prompt_field)
        if tokens > context:
            output_limit(ask, tokens, context)

    async def _check_chars(self, prompt: TextPrompt | ChatPrompt, most: int, field: str) -> None:
        await self._check_told(_told_chars(prompt), most, field)

    async def _check_told(self, told: int, most: int, field: str) -> None:
        if told <= most * CHARS_PER_TOKEN:
            return
        longest = await asyncio.to_thread(
            lambda: self.text.chars_per_token
        )  # it may look at the whole vocabulary, once
        if longest is not None and (least := told // max(longest, CHARS_PER_TOKEN)) > most:
            raise PromptTooLong(least, most, param=field, least=True)

    async def tokenise(self, prompts: Sequence[Prompt], field: str, owner: str = "") -> tuple[tuple[int, ...], ...]:
        """Token ids of each prompt; long texts off the event loop. `owner`: whose turn it takes. Raises BadRequest naming `field`."""
        ready = [await self._ready(prompt, field, owner) for prompt in prompts]
        if sum(map(_chars, ready)) <= THREAD_CHARS:
            return self._encode_all(ready, field)
        return await asyncio.to_thread(self._encode_all, ready, field)

    async def _ready(self, prompt: Prompt, field: str, owner: str) -> Prompt | Rendered:
        """With a template of its own rendered, elsewhere. Raises BadRequest."""
        if not isinstance(prompt, ChatPrompt) or prompt.template is None:
            return prompt
        if self.guests is None:
            raise BadRequest(
                f"{prompt.template_field} is refused: a template is a program, and this server runs only its own. Start it"
                " with --trust-request-chat-template to have it run those of requests.",
                param=prompt.template_field,
            )
        bare = replace(prompt, template=None)
        rendered = await self.guests.rendered(prompt.template, bare, field, prompt.template_field, owner)
        context = self.client.spec.context if self.client.spec else 0
        await self._check_told(len(rendered.text), min(context, self.most or context), field)
        return rendered

    def _encode_all(self, prompts: Sequence[Prompt | Rendered], field: str) -> tuple[tuple[int, ...], ...]:
        many = len(prompts) > 1
        return tuple(self._encode(prompt, f"{field}[{i}]" if many else field) for i, prompt in enumerate(prompts))

    def _encode(self, prompt: Prompt | Rendered, field: str) -> tuple[int, ...]:
        match prompt:
            case TokenPrompt(ids):
                self._check_ids(ids, field)
            case TextPrompt() | ChatPrompt() | Rendered():
                ids = self._encode_text(prompt, field)
        if not ids:
            raise BadRequest(f"{field} must not be empty: it has no tokens.", param=field)
        return ids

    def _encode_text(self, prompt: TextPrompt | ChatPrompt | Rendered, field: str) -> tuple[int, ...]:
        try:
            if isinstance(prompt, Rendered):
                assert self.guests is not None, "they have rendered it"
                return tuple(self.guests.encode(prompt))
            if isinstance(prompt, ChatPrompt):
                return tuple(self.text.encode_chat(prompt))
            if prompt.suffix:
                return tuple(self._encode_fill(prompt))
            return tuple(
                self.text.encode(prompt.text, parse_special=prompt.parse_special, add_special=prompt.add_special)
            )
        except ValueError as error:
            raise BadRequest(f"{field}: {error}.", param=field) from None

    def _encode_fill(self, prompt: TextPrompt) -> Sequence[int]:
        if self.text.fill_ends is None:
            raise BadRequest(
                "suffix needs a model that fills gaps: this one's tokenizer has no tokens for that.", param="suffix"
            )
        return self.text.encode_fill(prompt.text, prompt.suffix, parse_special=prompt.parse_special)

    def decode(self, ids: Sequence[int], *, skip_special: bool, field: str) -> str:
        """Text of token ids. Raises BadRequest naming `field`."""
        self._check_ids(ids, field)
        return self.text.decode(ids, skip_special=skip_special)

    def _check_ids(self, ids: Sequence[int], field: str) -> None:
        vocab_size = self._vocab_size()
        if not ids or (min(ids) >= 0 and max(ids) < vocab_size):
            return
        for i, token in enumerate(ids):
            if not 0 <= token < vocab_size:
                raise BadRequest(
                    f"{field} must hold token ids from 0 to {vocab_size - 1}; {token} is none.", param=f"{field}[{i}]"
                )

    async def check(self, speech: Speech) -> None:
        """Raise BadRequest where the engine can't have the grammar, naming the field whose part it is."""
        if speech.constraint is None or not (fault := await self._refusal(speech.constraint)):
            return
        field = speech.ask.constraint_field if speech.ask.constraint is not None else "tools"
        for part_field, part in speech.sources():
            if part_fault := await self._refusal(part):
                field, fault = part_field, part_fault
                break
        raise BadRequest(f"{field} can't be enforced: {fault}", param=field)

    async def _refusal(self, constraint: Constraint) -> str:
        """Why the engine refuses a constraint; "" if it does not."""
        if len(constraint.text) > (most := int(SIZES["constraint"].high or 0)):
            return f"it has {len(constraint.text)} characters, more than {most}"
        reply = await self.client.control("grammar", kind=constraint.kind, text=constraint.text)
        reason, place = str(reply.get("reason", "")), str(reply.get("place", ""))
        return f"{reason} (at {place})" if reason and place else reason

    def _vocab_size(self) -> int:
        spec = self.client.spec
        assert spec is not None, "nobody prepares anything before there was an engine"
        return spec.vocab_size


def check_number(ask: Ask) -> None:
    """Raise BadRequest for more sequences than one request may have."""
    if len(ask.prompts) * ask.width > (most := int(SIZES["sequences"].high or 0)):
        raise BadRequest(
            f"{len(ask.prompts)} prompts with {ask.width} choices each are more than {most} sequences.", param="n"
        )


def check_known(prompts: Sequence[Sequence[int]], vocab_size: int, field: str) -> None:
    """Raise BadRequest where the tokenizer made a token that the model has no row for: some know more than their model."""
    for i, ids in enumerate(prompts):
        if (highest := max(ids)) >= vocab_size:
            name = f"{field}[{i}]" if len(prompts) > 1 else field
            raise BadRequest(
                f"{name} has a token, {highest}, that the tokenizer knows but the model does not:"
                f" it has {vocab_size} tokens.",
                param=name,
            )


def _chars(prompt: Prompt | Rendered) -> int:
    match prompt:
        case TextPrompt(text) | Rendered(text):
            return len(text)
        case ChatPrompt(messages=messages, tools=tools):
            return sum(map(len, strings((messages, tools))))
        case TokenPrompt():
            return 0


def _told_chars(prompt: TextPrompt | ChatPrompt) -> int:
    """Characters that are in the prompt whatever a template does: of text contents. Templates may leave out parts of what
    the model itself said, its thoughts; those of requests may leave out anything."""
    if isinstance(prompt, TextPrompt):
        return len(prompt.text)
    if prompt.template is not None:
        return 0
    return sum(_content_chars(message) for message in prompt.messages if message.get("role") != "assistant")


def _content_chars(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    parts = content if isinstance(content, (list, tuple)) else ()
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return sum(len(text) for text in texts if isinstance(text, str))
