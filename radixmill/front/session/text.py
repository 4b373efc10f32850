"""What a session needs of a model's text, and the model's text stack in that shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from radixmill.core.errors import BadRequest
from radixmill.front.dialects import GENERIC, THINKING, Dialect
from radixmill.front.dialects.history import fitted
from radixmill.front.dialects.writer import HERMES, tells_of_tools, with_tools
from radixmill.front.session.ask import ChatPrompt
from radixmill.front.text import ChatTemplate, TemplateError, TextStack, encode_chat


class Text(Protocol):
    """Strings ⇄ token ids for one model. Encoding may be called from any thread; ValueError where text is no Unicode."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that skip_special_tokens leaves out."""

    @property
    def control(self) -> Mapping[str, int]:
        """Literals of control tokens, which are never made of a user's text → their ids."""

    @property
    def dialect(self) -> Dialect:
        """How the model writes thoughts and tool calls; without tags of thoughts if it has none."""

    def encode(self, text: str, *, parse_special: bool = True, add_special: bool = True) -> Sequence[int]: ...

    def encode_chat(self, chat: ChatPrompt) -> Sequence[int]:
        """Rendered through the chat template. Raises BadRequest or ValueError where the template says no."""

    @property
    def fill_ends(self) -> tuple[int, ...] | None:
        """Tokens that end the text in a gap; None: the model cannot fill any."""

    def encode_fill(self, before: str, after: str, *, parse_special: bool = True) -> Sequence[int]:
        """A prompt to fill the gap between two texts."""

    def token_bytes(self, token: int, /) -> bytes:
        """What a token stands for: perhaps a part of a character; a control token's literal."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str: ...


class Spelling:
    """A model's tokens as text, with `tags` in sight even where its tokenizer takes parts of them for control tokens.

    `marks`: control tokens that tags have in them → their literals.
    """

    def __init__(self, text: Text, tags: frozenset[str]) -> None:
        self.token_bytes = text.token_bytes
        self.marks = {id: literal for literal, id in text.control.items() if any(literal in tag for tag in tags)}
        self.special_ids = frozenset(text.special_ids - self.marks.keys())


class ModelText:
    """A model's own tokenizer and chat template."""

    def __init__(self, stack: TextStack) -> None:
        self.stack = stack
        self.dialect = THINKING if _thinks(stack) else GENERIC
        self.special_ids = stack.tokenizer.special_ids
        self.control = stack.tokenizer.control
        self.fill_ends = stack.tokenizer.fill.ends if stack.tokenizer.fill else None
        self.encode_fill = stack.tokenizer.encode_fill
        self.encode = stack.tokenizer.encode
        self.decode = stack.tokenizer.decode
        self.token_bytes = stack.tokenizer.token_bytes
        self._renames = _renames(stack.template)

    def encode_chat(self, chat: ChatPrompt) -> list[int]:
        template = self.stack.template
        if template is None:
            raise BadRequest("This model has no chat template; use /v1/completions.", param="messages")
        try:
            template.check_kwargs(chat.template_kwargs)
        except ValueError as error:
            raise BadRequest(f"{error}.", param="chat_template_kwargs") from None
        _check_effort(self.dialect, chat.template_kwargs.get("reasoning_effort"))
        messages, tools = self._told(template, chat)
        return encode_chat(
            self.stack,
            messages,
            tools=tools or None,
            add_generation_prompt=chat.add_generation_prompt,
            continue_final_message=chat.continue_final_message,
            **chat.template_kwargs,
        )

    def _told(self, template: ChatTemplate, chat: ChatPrompt) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Messages and tools for the template; all in the messages where it has no place for tools.
        A template that knows the roles of earlier calls keeps them if no tools are given now."""
        messages = fitted(self.dialect, [self._renamed(message) for message in chat.messages])
        tools = list(chat.tools)
        knows_roles = any("tool" in source for source in template.sources.values())
        if template.takes_tools or not (tools or (tells_of_tools(messages) and not knows_roles)):
            return messages, tools
        return with_tools(HERMES, messages, tools, system=self._takes_system), []

    @cached_property
    def _takes_system(self) -> bool:
        assert self.stack.template is not None, "only who has a template asks"
        probe = [{"role": "system", "content": "PROBE"}, {"role": "user", "content": "."}]
        try:
            return "PROBE" in self.stack.template.render(probe)
        except TemplateError:
            return False

    def _renamed(self, message: dict[str, Any]) -> dict[str, Any]:
        role = message["role"]
        return {**message, "role": self._renames.get(role, role)}


OPEN, CLOSE = "<think>", "</think>"


def _check_effort(dialect: Dialect, effort: Any) -> None:
    """Raise BadRequest for an effort that the family's templates don't know."""
    if dialect.efforts and effort is not None and effort not in dialect.efforts:
        known = f"{', '.join(dialect.efforts[:-1])} or {dialect.efforts[-1]}"
        raise BadRequest(
            f"reasoning_effort must be {known}: this model always thinks, and knows no other efforts than these.",
            param="reasoning_effort",
        )


def _thinks(stack: TextStack) -> bool:
    """Whether the template or the vocabulary has the tags of thoughts."""
    sources = stack.template.sources.values() if stack.template else ()
    literals = {added.literal for added in stack.tokenizer.added}
    return OPEN in literals or any(CLOSE in source for source in sources)


def _renames(template: ChatTemplate | None) -> dict[str, str]:
    """OpenAI's newer and older names of roles, for templates that never heard of them."""
    sources = " ".join(template.sources.values()) if template else ""
    return {"function": "tool"} if "developer" in sources else {"function": "tool", "developer": "system"}
