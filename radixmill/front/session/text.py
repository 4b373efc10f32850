"""What a session needs of a model's text, and the model's text stack in that shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from radixmill.core.errors import BadRequest
from radixmill.front.dialects import Dialect
from radixmill.front.dialects.calls.unread import Unread
from radixmill.front.dialects.history import fitted
from radixmill.front.dialects.messages import SYSTEM, Message
from radixmill.front.dialects.turns import Step, calls_apart, in_order, indexed_ids, led, nine_ids, thoughts_apart, ways
from radixmill.front.dialects.writer import HERMES, tells_of_tools, told_of, with_tools
from radixmill.front.session.ask import ChatPrompt
from radixmill.front.session.detect import Detected, detect_dialect
from radixmill.front.text import (
    ChatTemplate,
    Literals,
    Rendered,
    TemplateError,
    TextStack,
    encode_rendered,
    render_chat,
)


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

    @property
    def chars_per_token(self) -> int | None:
        """Characters that one token may stand for, at most; None where there is no saying. Slow the first time."""

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


class ChatText:
    """Conversations as one template writes them, in a model's dialect. Without a tokenizer: of that, it knows literals."""

    def __init__(
        self, template: ChatTemplate | None, literals: Literals, detected: Detected, template_kwargs: Mapping[str, Any]
    ) -> None:
        """`template_kwargs`: what the template is told where a request does not say otherwise. Raises ValueError where
        that is not for anybody to set."""
        self.template, self.literals, self.detected = template, literals, detected
        self.dialect, self.template_kwargs = detected.dialect, dict(template_kwargs)
        if template is not None:
            template.check_kwargs(self.template_kwargs)

    def rendered(self, chat: ChatPrompt) -> Rendered:
        """The text of a conversation. Raises BadRequest or ValueError where the template says no."""
        template = self.template
        if template is None:
            raise BadRequest("This model has no chat template; use /v1/completions.", param="messages")
        try:
            template.check_kwargs(chat.template_kwargs)
        except ValueError as error:
            raise BadRequest(f"{error}.", param="chat_template_kwargs") from None
        _check_effort(self.dialect, self._kwargs(chat).get("reasoning_effort"))
        if self.dialect.efforts and chat.thinks is False:
            raise BadRequest("This model always thinks: that can't be turned off.", param="reasoning")
        if chat.documents and not template.takes_documents:
            raise BadRequest(
                "This model's chat template has no place for documents: put their text into a message.",
                param="documents",
            )
        return self._in_some_way(template, chat)

    def _in_some_way(self, template: ChatTemplate, chat: ChatPrompt) -> Rendered:
        """As the conversation is, or in the first of the ways to tell it that the template does not refuse."""
        messages, refusal = self._history(chat.messages), None
        for change in ways(lambda: self._told(messages, list(chat.tools))[0]):
            try:
                return self._attempt(template, chat, messages, change)
            except TemplateError as error:
                refusal = refusal or error
        assert refusal is not None, "there is at least one way"
        raise refusal

    def _attempt(self, template: ChatTemplate, chat: ChatPrompt, messages: list[Message], change: Step) -> Rendered:
        def prepare(messages: list[Message], tools: list[Message] | None) -> tuple[list[Message], list[Message] | None]:
            told, kept = self._told(messages, tools or [])
            return change(told), kept or None

        think = self.dialect.think
        return render_chat(
            template,
            self.literals,
            messages,
            tools=list(chat.tools) or None,
            add_generation_prompt=chat.add_generation_prompt,
            continue_final_message=chat.continue_final_message,
            tags=(think.open, think.close) if think else None,
            prepare=prepare,
            **self._kwargs(chat),
        )

    def _kwargs(self, chat: ChatPrompt) -> dict[str, Any]:
        """The template's arguments: the server's, over them what the request says of thoughts, over that its own."""
        given = {**chat.template_kwargs, **({"documents": list(chat.documents)} if chat.documents else {})}
        own = self.dialect.think.switch if self.dialect.think else ""
        switches = (own,) if own else SWITCHES
        if chat.thinks is None or given.keys() & {*switches, *SWITCHES}:
            return {**self.template_kwargs, **given}
        return {**self.template_kwargs, **dict.fromkeys(switches, chat.thinks), **given}

    def _history(self, messages: Sequence[Message]) -> list[Message]:
        """With the template's names of roles and the family's turns, and thoughts apart from contents."""
        apart = [thoughts_apart(self.dialect, self._renamed(message), opened=self._opens) for message in messages]
        several = sum(message["role"] in SYSTEM for message in apart) > 1 and not self.dialect.one_call
        return fitted(self.dialect, in_order(led(apart) if several and self._drops_systems else apart))

    def _told(self, messages: Sequence[Message], tools: list[Message]) -> tuple[list[Message], list[Message]]:
        """Messages and tools for the template; all in the messages where it has no place for tools. Ids as the family has
        them. A template that writes calls keeps those of history."""
        template, messages = self.template, _with_ids(self.dialect, messages)
        assert template is not None, "only who has a template asks"
        written = not tells_of_tools(messages) or template.shows_calls(None)
        if written and not template.shows_calls("so"):
            messages = calls_apart(messages)
        if template.takes_tools or (written and not tools):
            return messages, tools
        form = HERMES if isinstance(self.dialect.calls, Unread) else self.dialect.calls
        tell = with_tools if self.detected.generic or not written else told_of
        return tell(form, led(messages) if tools else messages, tools, system=self._takes_system), []

    @cached_property
    def _opens(self) -> bool:
        """Whether prompts open thoughts, if they are asked to."""
        think, template = self.dialect.think, self.template
        if think is None or template is None:
            return False
        switches: dict[str, Any] = {think.switch: True} if think.switch else {}
        try:
            prompt = template.render([{"role": "user", "content": "."}], **switches)
        except TemplateError:
            return False
        return prompt.rstrip().endswith(think.open.rstrip())

    @cached_property
    def _takes_system(self) -> bool:
        return "PROBE" in (self._probed(("system", "PROBE"), ("user", ".")) or "")

    @cached_property
    def _drops_systems(self) -> bool:
        """Whether one of two system messages is silently left out."""
        text = self._probed(("system", "PROBE"), ("user", "."), ("assistant", "."), ("system", "PROBE"), ("user", "."))
        return text is not None and text.count("PROBE") < 2

    def _probed(self, *messages: tuple[str, str]) -> str | None:
        """The template's text of messages, each a role and a content; None where it refuses them."""
        assert self.template is not None, "only who has a template asks"
        try:
            return self.template.render([{"role": role, "content": content} for role, content in messages])
        except TemplateError:
            return None

    def _renamed(self, message: Message) -> Message:
        role = message["role"]
        return {**message, "role": self._renames.get(role, role)}

    @cached_property
    def _renames(self) -> dict[str, str]:
        """OpenAI's newer and older names of roles, for templates that never heard of them, or have nothing to say there."""
        sources = self.template.sources.values() if self.template else ()
        known = any("developer" in source for source in sources)
        if known and "PROBE" in (self._probed(("developer", "PROBE"), ("user", ".")) or ""):
            return {"function": "tool"}
        return {"function": "tool", "developer": "system"}


class ModelText(ChatText):
    """A model's own tokenizer and chat template, and the dialect that was found for them."""

    def __init__(
        self, stack: TextStack, detected: Detected | None = None, template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(stack.template, stack.tokenizer, detected or detect_dialect(stack), template_kwargs or {})
        self.stack = stack
        self.special_ids = stack.tokenizer.special_ids
        self.control = stack.tokenizer.control
        self.fill_ends = stack.tokenizer.fill.ends if stack.tokenizer.fill else None
        self.encode_fill = stack.tokenizer.encode_fill
        self.encode = stack.tokenizer.encode
        self.decode = stack.tokenizer.decode
        self.token_bytes = stack.tokenizer.token_bytes

    @cached_property
    def chars_per_token(self) -> int | None:
        return self.stack.tokenizer.longest()

    def encode_chat(self, chat: ChatPrompt) -> list[int]:
        return self.encode_rendered(self.rendered(chat))

    def encode_rendered(self, rendered: Rendered) -> list[int]:
        """Of a conversation that a template has written: the model's own, or another."""
        return encode_rendered(self.stack.tokenizer, rendered)


SWITCHES = ("enable_thinking", "thinking")  # what templates call it; all are set where the family's is not known


def _with_ids(dialect: Dialect, messages: Sequence[Message]) -> list[Message]:
    if not tells_of_tools(messages) or dialect.call_ids == "ours":
        return list(messages)
    return nine_ids(messages) if dialect.call_ids == "nine" else indexed_ids(messages)


def _check_effort(dialect: Dialect, effort: Any) -> None:
    """Raise BadRequest for an effort that the family's templates don't know."""
    if dialect.efforts and effort is not None and effort not in dialect.efforts:
        known = f"{', '.join(dialect.efforts[:-1])} or {dialect.efforts[-1]}"
        raise BadRequest(
            f"reasoning_effort must be {known}: this model always thinks, and knows no other efforts than these.",
            param="reasoning_effort",
        )
