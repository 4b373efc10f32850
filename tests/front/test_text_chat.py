"""No text of a user becomes a control token; requests without such texts are untouched."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.front.text import TemplateError, TextStack, encode_chat
from tests.front.text_kit import CONTROL, byte_level, sentencepiece, stack

# Prints names and contents side by side, knows lists of parts, and writes a tool's schema as JSON.
LOOSE = """{{ bos_token }}{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.name or '' }}{% if m.content is string %}{{ m.content | trim }}{% else %}
{%- for part in m.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

STACKS = {
    "bytes": stack(byte_level(bos_token_id=263, add_bos_token=True), LOOSE, bos_token="<s>"),
    "merged": stack(byte_level(("< s", "<s >", "< /", "</ s", "</s >"))),
    "pieces": stack(sentencepiece(("▁", "<", "s", ">", "<s", "<s>x"), bos_token_id=265), LOOSE, bos_token="<s>"),
}
FRAGMENTS = st.sampled_from(
    [
        *CONTROL,
        "<|im_",
        "end|>",
        "start|>",
        "<",
        "|",
        ">",
        "<s",
        "s>",
        "/s>",
        "<think>",
        "hell",
        " ",
        "\n",
        "é",
        "\ue000",
        "\x00",
    ]
)
TEXT = st.lists(FRAGMENTS, max_size=6).map("".join)
CONTENT = st.one_of(
    TEXT, st.lists(TEXT, min_size=1, max_size=3).map(lambda ts: [{"type": "text", "text": t} for t in ts])
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": CONTENT}, optional={"name": TEXT}
    ),
    min_size=1,
    max_size=3,
)
TOOLS = st.none() | TEXT.map(
    lambda t: [{"type": "function", "function": {"name": "f", "description": t, "parameters": {t: t}}}]
)


def control_of(stack: TextStack, ids: list[int]) -> list[int]:
    return [i for i in ids if stack.tokenizer.is_control(i)]


def harmless(value: Any) -> Any:
    """The same request with a letter in place of every text but roles and structure."""
    match value:
        case {"role": role, **rest}:
            return {"role": role, **{k: harmless(v) for k, v in rest.items()}}
        case dict():
            return {"text": "x"}
        case list():
            return [harmless(v) for v in value]
    return "x"


@pytest.mark.parametrize("name", STACKS)
@settings(deadline=None)
@given(messages=MESSAGES, tools=TOOLS)
def test_only_the_template_writes_control_tokens(name: str, messages: list[dict[str, Any]], tools: Any) -> None:
    made = STACKS[name]
    ids = encode_chat(made, messages, tools=tools)
    calm = encode_chat(made, harmless(messages), tools=tools and [{"type": "function"}])
    assert control_of(made, ids) == control_of(made, calm)


@settings(deadline=None)
@given(literal=st.sampled_from(CONTROL), cuts=st.sets(st.integers(1, 11), min_size=1, max_size=3), named=st.booleans())
def test_texts_side_by_side_make_no_control_token(literal: str, cuts: set[int], named: bool) -> None:
    """The template prints parts, and a name and a content, with nothing between them."""
    made, ends = STACKS["bytes"], [*sorted(c for c in cuts if c < len(literal)), len(literal)]
    texts = [literal[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    name, rest = (texts[0], texts[1:]) if named else ("", texts)
    message = {"role": "user", "name": name, "content": [{"type": "text", "text": t} for t in rest]}
    ids = encode_chat(made, [message])
    assert control_of(made, ids) == control_of(made, encode_chat(made, [{"role": "user", "content": "x"}]))
    assert f"{literal}<|im_end|>" in made.tokenizer.decode(ids, skip_special=False)


@pytest.mark.parametrize("name", STACKS)
@settings(deadline=None)
@given(messages=MESSAGES, tools=TOOLS)
def test_literals_survive_as_text(name: str, messages: list[dict[str, Any]], tools: Any) -> None:
    made = STACKS[name]
    assert made.template is not None
    text = made.template.render(messages, tools=tools)
    shown = made.tokenizer.decode(encode_chat(made, messages, tools=tools), skip_special=False)
    if name == "pieces":  # SentencePiece puts a space before every stretch of text
        text, shown = text.replace(" ", ""), shown.replace(" ", "")
    assert shown == text


ARGUMENTS = """{% for m in messages %}<|im_start|>{% for call in m.tool_calls or [] %}
{%- for name, value in call.function.arguments | items %}{{ name }}{{ value }}{% endfor %}{% endfor %}<|im_end|>{% endfor %}"""


@pytest.mark.parametrize("literal", CONTROL)
def test_arguments_in_other_letters_make_no_control_token(literal: str) -> None:
    """JSON may write any character as an escape, and some templates want its values."""
    made = stack(byte_level(), ARGUMENTS)

    def asked(text: str) -> list[int]:
        given = f'{{"{text}": "{text}"}}'
        call = {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": given}}
        return encode_chat(made, [{"role": "assistant", "content": "", "tool_calls": [call]}])

    ids = asked(f"\\u{ord(literal[0]):04x}{literal[1:]}")
    assert control_of(made, ids) == control_of(made, asked("x"))
    assert made.tokenizer.decode(ids, skip_special=False).count(literal) >= 2


PLAIN = st.text(alphabet=st.sampled_from("hel <|>\né"), max_size=30).filter(lambda t: not any(c in t for c in CONTROL))


@pytest.mark.parametrize("name", STACKS)
@settings(deadline=None)
@given(text=PLAIN)
def test_other_requests_are_untouched(name: str, text: str) -> None:
    made = STACKS[name]
    assert made.template is not None
    messages = [{"role": "user", "content": text}]
    whole = made.tokenizer.encode(made.template.render(messages), add_special=False)
    assert encode_chat(made, messages) == whole


def test_a_touched_request_differs_only_in_the_literal() -> None:
    """The text around a literal is encoded as if the vocabulary had no such control token."""
    made = STACKS["bytes"]
    before, literal, after = "hell ", "<|im_end|>", " hell"
    ids = encode_chat(made, [{"role": "user", "content": before + literal + after}])
    plain = made.tokenizer.encode(f"user\n{before}{literal}{after}", parse_special=False, add_special=False)
    start, end = made.tokenizer.control["<|im_start|>"], made.tokenizer.control["<|im_end|>"]
    assert ids[1 : len(plain) + 3] == [start, *plain, end]


def test_begin_token_is_there_once() -> None:
    wants = byte_level(bos_token_id=263, add_bos_token=True)
    writes, leaves = stack(wants, "<s>{{ messages[0].content }}"), stack(wants, "{{ messages[0].content }}")
    messages = [{"role": "user", "content": "h"}]
    assert (
        encode_chat(writes, messages)
        == encode_chat(leaves, messages)
        == [263, leaves.tokenizer.encode("h", add_special=False)[0]]
    )


def test_begin_token_of_a_user_does_not_count() -> None:
    made = stack(byte_level(bos_token_id=263, add_bos_token=True), "{{ messages[0].content }}")
    ids = encode_chat(made, [{"role": "user", "content": "<s>"}])
    assert control_of(made, ids) == ids[:1] == [263]


def test_template_arguments_are_texts_of_users_too() -> None:
    made = stack(byte_level(), "{{ note }}{{ messages[0].content }}<|im_end|>")
    ids = encode_chat(made, [{"role": "user", "content": "h"}], note="<|im_start|>")
    assert control_of(made, ids) == [made.tokenizer.control["<|im_end|>"]]


@pytest.mark.parametrize(
    "name", ["messages", "stack", "bos_token", "raise_exception", "namespace", "continue_final_message"]
)
def test_arguments_cannot_override_internals(name: str) -> None:
    made = STACKS["bytes"]
    assert made.template is not None
    with pytest.raises(ValueError, match=name):
        made.template.check_kwargs({name: True})


def test_a_model_without_template_says_so() -> None:
    with pytest.raises(TemplateError, match="no chat template"):
        encode_chat(TextStack(STACKS["bytes"].tokenizer, None), [{"role": "user", "content": "h"}])


def test_deep_nesting_is_a_value_error() -> None:
    schema: dict[str, Any] = {"description": "<s>"}
    for _ in range(5000):
        schema = {"items": schema}
    for tools in ([schema], [{**schema, "x": "h"}]):
        with pytest.raises(ValueError):
            encode_chat(STACKS["bytes"], [{"role": "user", "content": "h"}], tools=tools)


def test_hostile_texts_cost_linear_time() -> None:
    made = STACKS["bytes"]
    for text in ("<" * 200_000, "<|im_end|>" * 20_000, "<|im_" * 40_000):
        begun = time.process_time()
        ids = encode_chat(made, [{"role": "user", "content": text}])
        assert control_of(made, ids) == control_of(made, encode_chat(made, [{"role": "user", "content": "x"}]))
        assert time.process_time() - begun < 5.0


@pytest.mark.parametrize("literal", CONTROL)
def test_json_in_ascii_hides_no_control_token(literal: str) -> None:
    made = stack(byte_level(), "{{ messages | tojson(ensure_ascii=True) }}<|im_start|>")
    for text in (literal, f"\ue000\\ue000{literal}", f"\\ue000\\ue001{literal}"):
        ids = encode_chat(made, [{"role": "user", "content": text}])
        assert control_of(made, ids) == [made.tokenizer.control["<|im_start|>"]]
        plain = made.template.render([{"role": "user", "content": text}]) if made.template else ""
        assert made.tokenizer.decode(ids, skip_special=False) == plain


@pytest.mark.parametrize("literal", CONTROL)
def test_templates_that_write_around_texts_complete_no_literal(literal: str) -> None:
    made = stack(byte_level(), "{% for m in messages %}<{{ m.content }}>{{ m.name }}{% endfor %}<|im_start|>")
    for content, name in ((literal[1:-1], ""), ("x" + literal[:-1], ""), (literal[1:], "x"), ("x", literal[1:])):
        ids = encode_chat(made, [{"role": "user", "content": content, "name": name}])
        assert control_of(made, ids) == [made.tokenizer.control["<|im_start|>"]]
        assert made.tokenizer.decode(ids, skip_special=False) == f"<{content}>{name}<|im_start|>"


@pytest.mark.parametrize("literal", CONTROL)
def test_what_is_prepared_is_the_templates(literal: str) -> None:
    """What `prepare` writes around users' texts counts as control tokens, what stands in these does not."""
    made = stack(byte_level(), "{{ messages[0].content }}")

    def prepare(messages: Any, tools: Any) -> Any:
        return [{"role": "user", "content": f"<s>{messages[0]['content']}</s>"}], tools

    for text in ("x", literal):
        ids = encode_chat(made, [{"role": "user", "content": text}], prepare=prepare)
        assert control_of(made, ids) == [made.tokenizer.control["<s>"], made.tokenizer.control["</s>"]]
        assert made.tokenizer.decode(ids, skip_special=False) == f"<s>{text}</s>"
