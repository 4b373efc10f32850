"""Thinking budgets in a session: what the engine is asked, what comes back from one that keeps them, and the switch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.config import Config, ModelOptions
from radixmill.core.errors import BadRequest, CannotStart
from radixmill.core.request import Constraint, GenerateRequest, ThinkingBudget
from radixmill.engine.grammar import Thinking, Vocabulary
from radixmill.front.dialects import GENERIC, THINKING, Dialect, Thoughts
from radixmill.front.session import Ask, ChatPrompt, ModelText, Session, TextPrompt, Tool, ToolRule, gather
from radixmill.front.session.detect import Detected
from radixmill.front.session.open import open_text
from radixmill.front.session.speech import spelled
from radixmill.front.text import ChatTemplate, TextStack
from radixmill.store import ModelFiles
from tests.data import shared
from tests.fakes import CONTROL, EOS, SPEC, ByteText, EchoClient
from tests.front.kit import CHAT, HELLO, answer, error, make_app, post
from tests.front.text_kit import byte_level, stack

OPEN, CLOSE = 260, 261
TAGS = {OPEN: b"<think>", CLOSE: b"</think>"}
HI = ChatPrompt(messages=({"role": "user", "content": "hi"},))
F = ToolRule(tools=(Tool(name="f"),))
INTERLEAVED = Dialect(think=Thoughts(interleaved=True))
ENDED_BY_CALL = Dialect(think=Thoughts(ended_by_call=True))


class TagText(ByteText):
    """The same, with control tokens for the tags of thoughts."""

    special_ids = frozenset({*CONTROL, *TAGS})
    control = {literal.decode(): id for id, literal in {**CONTROL, **TAGS}.items()}

    def encode(self, text: str, *, parse_special: bool = True, add_special: bool = True) -> list[int]:
        raw = text.encode()
        for id, literal in TAGS.items():
            raw = raw.replace(literal, bytes((200 + id - OPEN,)))  # no byte of UTF-8 that the tests use
        return [byte + 60 if byte in (200, 201) else byte for byte in raw]

    def encode_chat(self, chat: ChatPrompt) -> list[int]:
        return [*super().encode_chat(chat)[: -len(self.begun.encode()) or None], *self.encode(self.begun)]

    def token_bytes(self, token: int) -> bytes:
        return TAGS[token] if token in TAGS else super().token_bytes(token)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        kept = [id for id in ids if not (skip_special and id in self.special_ids)]
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")


def keeping(text: ByteText, said: Sequence[int]) -> Callable[[GenerateRequest, int], list[int]]:
    """An engine that keeps budgets: a model that would say this, and goes on where the tag was forced."""
    known = (text.token_bytes(id) for id in range(262 if isinstance(text, TagText) else 260))
    vocabulary = Vocabulary(tokens=tuple(known), control=frozenset(text.control.values()), eos_ids=(EOS,), size=262)

    def script(request: GenerateRequest, choice: int) -> list[int]:
        match = Thinking(vocabulary, request.thinking) if request.thinking else None
        output: list[int] = []
        for token in said:
            while match and (forced := match.forced()) is not None:
                output.append(forced)
                match.push(forced)
            output.append(token)
            if match:
                match.push(token)
        return output

    return script


def made(text: ByteText, said: str = "", cuts: Sequence[int] = (1,)) -> tuple[Session, EchoClient]:
    tokens = [*text.encode(said), EOS]
    client = EchoClient(keeping(text, tokens), cuts, msgspec.structs.replace(SPEC, vocab_size=262))
    return Session(text, client, ("echo",)), client


def ask(**fields: Any) -> Ask:
    return Ask(**{"id": "q", "model": "echo", "prompts": (HI,), "seed": 1, **fields})


def run(session: Session, asked: Ask) -> tuple[Any, Any]:
    """The whole answer, and usage."""

    async def go() -> tuple[Any, Any]:
        generation = await session.start(asked)
        try:
            return (await gather(generation))[0], generation.usage()
        finally:
            generation.close()

    return asyncio.run(go())


def budget(text: ByteText, **fields: Any) -> ThinkingBudget | None:
    session, client = made(text)
    run(session, ask(max_thinking_tokens=5, **fields))
    return client.requests[0].thinking


# --- what the engine is asked


def test_the_tag_is_the_family_s() -> None:
    letters, token = tuple(b"</think>"), (CLOSE,)
    assert budget(ByteText(THINKING)) == ThinkingBudget(tokens=5, close=letters)
    assert budget(TagText(THINKING)) == ThinkingBudget(tokens=5, close=token)
    assert budget(TagText(THINKING, "<think>\n")) == ThinkingBudget(tokens=5, close=token, opened=True)
    assert budget(TagText(THINKING, "<think></think>")) == ThinkingBudget(tokens=5, close=token)
    assert budget(TagText(INTERLEAVED)) == ThinkingBudget(tokens=5, close=token, again=True)
    other = Dialect(think=Thoughts(open="[a]", close="[/a]", assumed=True))
    assert budget(ByteText(other)) == ThinkingBudget(
        tokens=5, close=tuple(b"[/a]"), open="[a]", ends=("[/a]",), opened=True
    )


def test_without_a_limit_or_thoughts_nothing_is_asked() -> None:
    session, client = made(TagText(THINKING))
    run(session, ask())
    assert client.requests[0].thinking is None
    assert budget(ByteText(GENERIC)) is None
    assert budget(TagText(THINKING), prompts=(TextPrompt("a"),)) is None, "raw text has no thoughts"


def test_a_call_ends_thoughts_where_the_front_reads_it_so() -> None:
    both = ("</think>", "</tool_call>")

    def ends(dialect: Dialect, **fields: Any) -> tuple[str, ...]:
        found = budget(ByteText(dialect), **fields)
        assert found
        return found.ends

    assert ends(ENDED_BY_CALL, tools=F) == both
    assert ends(ENDED_BY_CALL) == ends(THINKING, tools=F) == both[:1]
    assert ends(ENDED_BY_CALL, tools=F, separate_reasoning=False) == both
    required = ToolRule(tools=F.tools, choice="required")
    assert ends(ENDED_BY_CALL, tools=required) == both[:1], "a grammar has calls behind thoughts"


def test_a_tag_that_the_model_has_no_token_for() -> None:
    session, client = made(TagText(THINKING))
    client.spec = msgspec.structs.replace(SPEC, vocab_size=261)
    with pytest.raises(BadRequest) as refused:
        run(session, ask(max_thinking_tokens=5))
    assert refused.value.param == "max_thinking_tokens" and not client.requests


def test_where_the_engine_can_t_the_field_is_named() -> None:
    client = EchoClient(lambda request, choice: [], broken="grammar")
    fault = error(post(make_app(client, text=ByteText(THINKING)), CHAT, {**HELLO, "max_thinking_tokens": 1}), 400)
    assert fault["param"] == "max_thinking_tokens"


def test_a_space_that_a_tokenizer_puts_before_a_text_is_no_part_of_the_tag() -> None:
    class Spaced(ByteText):
        def encode(self, text: str, *, parse_special: bool = True, add_special: bool = True) -> list[int]:
            return list(f" {text}".encode()) if text else []

    assert spelled(ByteText(), "</think>") == tuple(b"</think>")
    assert spelled(Spaced(), "</think>") == tuple(b"</think>")


# --- raw text


def test_raw_text_that_begins_within_thoughts() -> None:
    text = TagText(THINKING)
    grammar = Constraint(kind="regex", text="a+")
    for raw, said, opened, after in [
        ("no", "x", None, ""),
        ("may", "x", False, ""),
        ("may", "x<think>", True, "</think>"),
        ("first", "x", True, "</think>"),
    ]:
        fields = {"prompts": (TextPrompt(said),), "separate_reasoning": False, "constraint": grammar}
        session, client = made(text)
        run(session, ask(max_thinking_tokens=5, raw_thoughts=raw, **fields))
        (request,) = client.requests
        assert (request.thinking and request.thinking.opened) == opened
        assert request.constraint and request.constraint.after == after


def test_generate_counts_thoughts_and_says_them() -> None:
    text = TagText(THINKING)
    client = EchoClient(keeping(text, [*b"abcdef", EOS]), spec=msgspec.structs.replace(SPEC, vocab_size=262))
    app = make_app(client, text=text)
    got = answer(app, "/generate", {"text": "hi", "require_reasoning": True, "max_thinking_tokens": 3})
    assert got["text"] == "abc</think>def"
    assert got["meta_info"]["reasoning_tokens"] == 4 and got["meta_info"]["completion_tokens"] == 8
    params = {"custom_params": {"thinking_budget": 1}}
    got = answer(app, "/generate", {"text": "hi", "require_reasoning": True, "sampling_params": params})
    assert got["text"] == "a</think>bcdef"
    rows = {"text": ["a", "b"], "require_reasoning": [True, False], "max_thinking_tokens": [2, 2]}
    assert [one["text"] for one in answer(app, "/generate", rows)] == ["ab</think>cdef", "abcdef"]
    fault = error(post(app, "/generate", {"text": "hi", "max_thinking_tokens": 2, "sampling_params": params}), 400)
    assert fault["param"] == "sampling_params.custom_params.thinking_budget"


# --- front and engine agree

ALPHABET = ["a", "é", "😀", " ", "\n", "<", "</", "<think>", "</think>", "</thi"]


@settings(max_examples=400, deadline=None)
@given(
    said=st.lists(st.sampled_from(ALPHABET), max_size=12).map("".join),
    tokens=st.integers(0, 9),
    begun=st.sampled_from(["", "<think>", "<think>\n"]),
    exact=st.booleans(),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_usage_counts_what_the_budget_lets_through(
    said: str, tokens: int, begun: str, exact: bool, cuts: list[int]
) -> None:
    text = (TagText if exact else ByteText)(THINKING, begun)
    free, before = run(made(text, said, cuts)[0], ask())
    whole, after = run(made(text, said, cuts)[0], ask(max_thinking_tokens=tokens))
    tag = 0 if begun else len(spelled(text, "<think>")) + len(said) - len(said.lstrip())  # space before it counts, too
    close = len(spelled(text, "</think>"))
    if before.reasoning < tokens + tag:
        assert after == before and whole == free
    else:
        assert after.reasoning <= tag + tokens + close
        if after.reasoning < tag + tokens + close:
            assert after.reasoning >= tag + tokens, "the tag was begun by the model, or is its own"


@settings(max_examples=200, deadline=None)
@given(said=st.text("ab é\n", max_size=12), tokens=st.integers(0, 9), opened=st.booleans(), exact=st.booleans())
def test_a_cut_thought_has_exactly_its_budget(said: str, tokens: int, opened: bool, exact: bool) -> None:
    """A model that never ends its thoughts by itself."""
    text = (TagText if exact else ByteText)(THINKING, "<think>" if opened else "")
    raw = said.encode()
    whole, usage = run(made(text, ("" if opened else "<think>") + said)[0], ask(max_thinking_tokens=tokens))
    tag = 0 if opened else len(spelled(text, "<think>"))
    if len(raw) >= tokens:
        assert usage.reasoning == tag + tokens + len(spelled(text, "</think>"))
        assert (whole.reasoning or "") == raw[:tokens].decode("utf-8", "replace")
        assert whole.text == raw[tokens:].decode("utf-8", "replace")
    else:
        assert usage.reasoning == tag + len(raw) + opened * 0 and whole.text == ""


def test_thoughts_that_come_again_share_the_budget() -> None:
    said = "<think>ab</think>so<think>cd</think>then<think>ef</think>"
    whole, usage = run(made(TagText(INTERLEAVED), said)[0], ask(max_thinking_tokens=3))
    assert (whole.reasoning, whole.text) == ("abc", "sod</think>thenef</think>")
    assert usage.reasoning == 3 * 2 + 3


# --- the switch

ECHOES = "{{ enable_thinking }}/{{ thinking }}/{{ think_mode }}/{{ reasoning_effort }}"


def told(chat: ChatPrompt, switch: str = "", defaults: dict[str, Any] | None = None) -> str:
    dialect = Dialect(think=Thoughts(switch=switch)) if switch != "none" else GENERIC
    found = Detected(dialect, "auto", "auto")
    text = ModelText(TextStack(stack(byte_level()).tokenizer, ChatTemplate(ECHOES)), found, defaults)
    return text.decode(text.encode_chat(chat))


def chat(thinks: bool | None = None, **kwargs: Any) -> ChatPrompt:
    return ChatPrompt(messages=HI.messages, thinks=thinks, template_kwargs=kwargs)


def test_the_family_s_switch_alone_is_set() -> None:
    assert told(chat(True), "enable_thinking") == "True///"
    assert told(chat(False), "thinking") == "/False//"
    assert told(chat(False), "think_mode") == "//False/"
    assert told(chat(None), "thinking") == "///"


def test_where_no_switch_is_known_both_are_set() -> None:
    assert told(chat(True)) == told(chat(True), "none") == "True/True//"


def test_the_client_s_own_switch_wins_whatever_its_name() -> None:
    assert told(chat(True, enable_thinking=False), "enable_thinking") == "False///"
    assert told(chat(True, thinking=False), "enable_thinking") == "/False//"
    assert told(chat(True, think_mode=False), "think_mode") == "//False/"
    assert told(chat(False, reasoning_effort="none"), "thinking") == "/False//none"


def test_the_server_s_arguments_stand_behind_a_request_s() -> None:
    defaults = {"enable_thinking": False, "reasoning_effort": "low"}
    assert told(chat(), "enable_thinking", defaults) == "False///low"
    assert told(chat(True), "enable_thinking", defaults) == "True///low"
    assert told(chat(enable_thinking=True, reasoning_effort="high"), "enable_thinking", defaults) == "True///high"


@pytest.mark.parametrize("text", ["", "[1]", '"x"', "{", '{"a": NaN}', '{"messages": []}', '{"tools": 1}'])
def test_arguments_that_no_template_can_have_stop_the_start(text: str) -> None:
    files = ModelFiles("qwen2", shared("vocab", "ggml-vocab-qwen2.gguf"))
    with pytest.raises(CannotStart, match="--default-chat-template-kwargs"):
        open_text(Config(model=ModelOptions(default_chat_template_kwargs=text)), files)


def test_the_server_s_arguments_come_from_its_flag() -> None:
    files = ModelFiles("qwen2", shared("vocab", "ggml-vocab-qwen2.gguf"))
    made = open_text(Config(model=ModelOptions(default_chat_template_kwargs='{"a": {"b": 1}}')), files)
    assert made.template_kwargs == {"a": {"b": 1}}
