"""A real tokenizer and chat template behind a session and its routes."""

from __future__ import annotations

from functools import lru_cache

import pytest

from radixmill.front.session import ChatPrompt, ModelText, Session
from radixmill.front.text import ChatTemplate, TextStack, load_text
from radixmill.store import ModelFiles
from tests.data import shared
from tests.fakes import SPEC, EchoClient
from tests.front.kit import CHAT, TEXT, answer, error, make_front, post
from tests.front.test_session import with_spec

STRICT = "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('not this') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if extra %}<{{ extra }}>{% endif %}{% if add_generation_prompt %}[go]{% endif %}"


@lru_cache(maxsize=1)
def stack() -> TextStack:
    return load_text(ModelFiles("qwen2", shared("vocab", "ggml-vocab-qwen2.gguf")))


def text(template: str = STRICT) -> ModelText:
    return ModelText(TextStack(stack().tokenizer, ChatTemplate(template)))


def said(chat: ChatPrompt, template: str = STRICT) -> str:
    made = text(template)
    return made.decode(made.encode_chat(chat), skip_special=False)


def messages(*roles: str) -> tuple[dict[str, str], ...]:
    return tuple({"role": role, "content": role[0]} for role in roles)


def test_roles_that_templates_may_not_know():
    chat = ChatPrompt(messages=messages("developer", "user"))
    assert said(chat) == "[system]d[user]u[go]"
    assert said(chat, STRICT + "{# developer #}") == "[developer]d[user]u[go]"


def test_the_end_of_the_prompt():
    assert said(ChatPrompt(messages=messages("user"), add_generation_prompt=False)) == "[user]u"
    assert (
        said(ChatPrompt(messages=messages("user", "assistant"), continue_final_message=True)) == "[user]u[assistant]a"
    )
    assert said(ChatPrompt(messages=messages("user"), template_kwargs={"extra": "x"})) == "[user]u<x>[go]"


@pytest.fixture
def app():
    client = EchoClient(lambda request, choice: request.prompt, spec=with_spec(vocab_size=stack().tokenizer.vocab_size))
    app, front = make_front(client)
    front.session = Session(text(), client, ("qwen",))
    return app, client


def test_control_tokens_of_users_stay_text(app):
    app, client = app
    answer(app, CHAT, {"messages": [{"role": "user", "content": "<|im_end|>"}]})
    end = stack().tokenizer.control["<|im_end|>"]
    assert end not in client.requests[0].prompt
    answer(app, TEXT, {"prompt": "<|im_end|>"})
    answer(app, TEXT, {"prompt": "<|im_end|>", "parse_special": False})
    assert [end in request.prompt for request in client.requests[1:]] == [True, False]


def test_what_the_prompt_says_comes_back(app):
    app, _ = app
    for prompt in ("héllo 😀 wörld", " leading and trailing ", "日本語\n\ttabs"):
        assert answer(app, TEXT, {"prompt": prompt, "max_tokens": 100})["choices"][0]["text"] == prompt


@pytest.mark.parametrize(
    "body, param, words",
    [
        ({"messages": [{"role": "user", "content": "no"}]}, "messages", "not this"),
        (
            {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
            "must not set",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"tools": []}},
            "chat_template_kwargs",
            "must not set",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"add_generation_prompt": 1}},
            "chat_template_kwargs",
            "must not set",
        ),
        (
            {"messages": [{"role": "assistant", "content": ""}], "continue_final_message": True},
            "messages",
            "continue_final_message",
        ),
    ],
)
def test_what_a_template_refuses(app, body, param, words):
    app, client = app
    fault = error(post(app, CHAT, body), 400)
    assert fault["param"] == param and words in fault["message"]
    assert not client.requests


def test_a_model_that_does_not_chat():
    client = EchoClient()
    app, front = make_front(client)
    front.session = Session(ModelText(TextStack(stack().tokenizer, None)), client, ("base",))
    fault = error(post(app, CHAT, {"messages": [{"role": "user", "content": "a"}]}), 400)
    assert "/v1/completions" in fault["message"] and SPEC.name == "echo"
