"""A real tokenizer and chat template behind a session and its routes."""

from __future__ import annotations

from functools import lru_cache

import pytest

from radixmill.front.session import ChatPrompt, ModelText, Session
from radixmill.front.text import ChatTemplate, TextStack, budget, load_text
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


RAG = (
    "{% for m in messages %}[{{ m.role }}]{% for d in documents or [] %}({{ d.title }}: {{ d.text }}){% endfor %}"
    "{{ m.content }}{% if m.reasoning_content %}/{{ m.reasoning_content }}{% endif %}{% endfor %}"
)
QUESTION = [{"role": "user", "content": "q"}]
DOCUMENTS = [{"title": "T", "text": "x <|im_end|>"}]


def heard(app, body: dict) -> str:
    """The prompt as the model got it."""
    return answer(app, CHAT, {"messages": QUESTION, "max_tokens": 100, **body})["choices"][0]["message"]["content"]


def test_documents_reach_the_template(app):
    app, client = app
    app, front = make_front(client)
    front.session = Session(text(RAG), client, ("qwen",))
    for body in ({"documents": DOCUMENTS}, {"chat_template_kwargs": {"documents": DOCUMENTS}}):
        assert heard(app, body) == "[user](T: x <|im_end|>)q"
        assert stack().tokenizer.control["<|im_end|>"] not in client.requests[-1].prompt
    counted = post(app, "/tokenize", {"messages": QUESTION, "documents": DOCUMENTS}).json()
    assert counted["tokens"] == list(client.requests[-1].prompt)
    both = {"messages": QUESTION, "documents": DOCUMENTS, "chat_template_kwargs": {"documents": DOCUMENTS}}
    assert error(post(app, CHAT, both), 400)["param"] == "documents"


def test_documents_without_a_place(app):
    app, _ = app
    fault = error(post(app, CHAT, {"messages": QUESTION, "documents": DOCUMENTS}), 400)
    assert fault["param"] == "documents" and "no place for documents" in fault["message"]
    assert heard(app, {"documents": []}) == "[user]q[go]"
    assert error(post(app, CHAT, {"messages": QUESTION, "documents": ["x"]}), 400)["param"].startswith("documents")


def test_thoughts_may_be_parts_of_history(app):
    app, client = app
    app, front = make_front(client)
    front.session = Session(text(RAG), client, ("qwen",))
    for thinking in ("why", [{"type": "text", "text": "w"}, {"type": "text", "text": "hy"}]):
        said = [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": "so"}]
        assert (
            heard(app, {"messages": [{"role": "assistant", "content": said}, *QUESTION]}) == "[assistant]so/why[user]q"
        )
    fault = error(post(app, CHAT, {"messages": [{"role": "user", "content": said}]}), 400)
    assert fault["param"] == "messages[0].content[0].type"


def test_a_template_that_takes_too_long(app, monkeypatch):
    app, client = app
    app, front = make_front(client)
    slow = "{% if messages[0].content == 'slow' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}ok"
    front.session = Session(text(slow), client, ("qwen",))
    monkeypatch.setattr(budget, "SECONDS", 0.1)
    assert heard(app, {}) == "ok"
    fault = error(post(app, CHAT, {"messages": [{"role": "user", "content": "slow"}]}), 400)
    assert "took longer than 0.1 seconds" in fault["message"]
    assert heard(app, {}) == "ok"
