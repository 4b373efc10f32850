"""What a session needs of a model's text, and the model's text stack in that shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from radixmill.core.errors import BadRequest
from radixmill.front.dialects import Dialect
from radixmill.front.dialects.calls.unread import Unread
from radixmill.front.dialects.history import fitted
from radixmill.front.dialects.writer import HERMES, tells_of_tools, told_of, with_tools
from radixmill.front.session.ask import ChatPrompt
from radixmill.front.session.detect import Detected, detect_dialect
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

    @property
    def detected(self) -> Detected:
        """Where that comes from."""

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
    """A model's own tokenizer and chat template, and the dialect that was found for them."""

    def __init__(
        self, stack: TextStack, detected: Detected | None = None, template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """`template_kwargs`: what its chat template is told where a request does not say otherwise. Raises ValueError
        where that is not for anybody to set."""
        self.stack, self.detected = stack, detected or detect_dialect(stack)
        self.dialect, self.template_kwargs = self.detected.dialect, dict(template_kwargs or {})
        if stack.template is not None:
            stack.template.check_kwargs(self.template_kwargs)
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
        kwargs = self._kwargs(chat)
        _check_effort(self.dialect, kwargs.get("reasoning_effort"))
        messages, tools = self._told(template, chat)
        return encode_chat(
            self.stack,
            messages,
            tools=tools or None,
            add_generation_prompt=chat.add_generation_prompt,
            continue_final_message=chat.continue_final_message,
            **kwargs,
        )

    def _kwargs(self, chat: ChatPrompt) -> dict[str, Any]:
        """The template's arguments: the server's, over them what the request says of thoughts, over that its own."""
        given = chat.template_kwargs
        own = self.dialect.think.switch if self.dialect.think else ""
        switches = (own,) if own else SWITCHES
        if chat.thinks is None or given.keys() & {*switches, *SWITCHES}:
            return {**self.template_kwargs, **given}
        return {**self.template_kwargs, **dict.fromkeys(switches, chat.thinks), **given}

    def _told(self, template: ChatTemplate, chat: ChatPrompt) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Messages and tools for the template; all in the messages where it has no place for tools.
        A template that knows the roles of earlier calls keeps them if no tools are given now, or if it writes calls."""
        messages = fitted(self.dialect, [self._renamed(message) for message in chat.messages])
        tools = list(chat.tools)
        knows_roles = any("tool" in source for source in template.sources.values())
        if template.takes_tools or not (tools or (tells_of_tools(messages) and not knows_roles)):
            return messages, tools
        form = HERMES if isinstance(self.dialect.calls, Unread) else self.dialect.calls
        tell = with_tools if self.detected.generic else told_of
        return tell(form, messages, tools, system=self._takes_system), []

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


SWITCHES = ("enable_thinking", "thinking")  # what templates call it; all are set where the family's is not known


def _check_effort(dialect: Dialect, effort: Any) -> None:
    """Raise BadRequest for an effort that the family's templates don't know."""
    if dialect.efforts and effort is not None and effort not in dialect.efforts:
        known = f"{', '.join(dialect.efforts[:-1])} or {dialect.efforts[-1]}"
        raise BadRequest(
            f"reasoning_effort must be {known}: this model always thinks, and knows no other efforts than these.",
            param="reasoning_effort",
        )


def _renames(template: ChatTemplate | None) -> dict[str, str]:
    """OpenAI's newer and older names of roles, for templates that never heard of them."""
    sources = " ".join(template.sources.values()) if template else ""
    return {"function": "tool"} if "developer" in sources else {"function": "tool", "developer": "system"}
