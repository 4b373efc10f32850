"""Chat templates render as transformers renders them; where a template would fail or print nonsense, ours adapt."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.errors import BadModel
from radixmill.front.text import ChatTemplate, TemplateError
from radixmill.front.text.template import CHATML, LINES
from tests.data import ROOT, shared

FILES = sorted((ROOT.parent / "shared" / "data" / "templates").glob("*.jinja"))
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
CITY = {"type": "string", "description": 'A city & "its" <country> – é'}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Now",
            "parameters": {"type": "object", "properties": {"city": CITY}, "required": ["city"]},
        },
    }
]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def calls(arguments: Any, content: str | None = "") -> list[dict[str, Any]]:
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "call12345", "type": "function", "function": function}
    answer = {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "3 °C"}
    return [user("Weather?"), {"role": "assistant", "content": content, "tool_calls": [call]}, answer]


TALKS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one": ([user("Hi <b> & é 'x' \"y\" {{ z }}")], {}),
    "no prompt": ([user("Hi")], {"add_generation_prompt": False}),
    "turns": (
        [
            {"role": "system", "content": " Be brief. "},
            user("Hi"),
            {"role": "assistant", "content": "Hello!\n"},
            user("Bye"),
        ],
        {},
    ),
    "thoughts": ([user("q"), {"role": "assistant", "content": "a", "reasoning_content": "since"}, user("r")], {}),
    "offer": ([user("Weather?")], {"tools": TOOLS}),
    "calls": (calls({"city": "Köln"}), {"tools": TOOLS}),
    "argument": ([user("Hi")], {"enable_thinking": False}),
    "continue": ([user("q"), {"role": "assistant", "content": "Once upon "}], {"continue_final_message": True}),
    "continue trimmed": ([user("q"), {"role": "assistant", "content": "Once upon"}], {"continue_final_message": True}),
}
# Keep a queue and call list.pop, which transformers' sandbox refuses and ours allows.
QUEUES = {"Kimi-K2-Instruct", "Kimi-K2-Thinking"}
# Print no calls, or take no messages of tools.
NO_CALLS = {"HuggingFaceTB-SmolLM3-3B", "google-gemma-2-2b-it"}
WITH_CALLS = [path for path in FILES if path.stem not in NO_CALLS]


def template(path: Path) -> ChatTemplate:
    return ChatTemplate(path.read_text(encoding="utf-8"), variables=TOKENS, origin=path.name)


def named(stem: str) -> ChatTemplate:
    return template(shared("templates", f"{stem}.jinja"))


@pytest.mark.oracle
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_as_transformers_renders(path: Path, talk: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages, asked = TALKS[talk]
    theirs = {"add_generation_prompt": not asked.get("continue_final_message"), **asked}
    made, before = template(path), copy.deepcopy(messages)
    try:
        want = render_jinja_template([messages], chat_template=path.read_text(encoding="utf-8"), **theirs, **TOKENS)[0][
            0
        ]
    except Exception as refusal:
        if path.stem not in QUEUES:
            with pytest.raises(TemplateError, match=re.escape(str(refusal))):
                made.render(messages, **asked)
        return
    assert made.render(messages, **asked) == want
    assert messages == before


WORDS = st.text('ab </think>\n{}"é😀|', max_size=12)
HELPERS = [
    "{{ d | tojson }}{{ d | tojson(ensure_ascii=True) }}{{ d | tojson(indent=2) }}{{ d | tojson(separators=(',', ':')) }}",
    "{{ d | tojson(sort_keys=True) }}{{ d | tojson(True, 1, none, true) }}{{ d.t | tojson }}{{ (d | tojson)[:-1] }}",
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% if loop.index > 3 %}"
    "{% break %}{% endif %}{% endfor %}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% endgeneration %}{{ x }}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ loop.index }}{{ m.content }}\n"
    "{% endgeneration %}\n{% endif %}{% endfor %}",
    "{% if messages | length > 2 %}{{ raise_exception('too many: ' ~ messages | length) }}{% endif %}ok",
    "{{ strftime_now('%Y') }}{{ messages | map(attribute='role') | join('/') }}{{ messages | selectattr('role', 'equalto', 'user') "
    "| list | length }}{{ messages[1:] | length }}{{ d | items | list }}{{ d.n + 1 }}{{ d.t ~ d.n }}{{ '%s' % d.t }}",
    "{%- macro f(m, n=2) -%}{{ m.content * n }}{%- endmacro -%}{% for m in messages %}{{ f(m) | trim }}{{ m is mapping }}"
    "{{ m.content is string }}{{ m.get('x', 'none') }}{% endfor %}{% set ns = namespace(a=[]) %}"
    "{% for m in messages %}{% set ns.a = ns.a + [m.role] %}{% endfor %}{{ ns.a }}",
]


@pytest.mark.oracle
@pytest.mark.parametrize("source", HELPERS)
@settings(deadline=None, max_examples=60)
@given(
    contents=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), WORDS), max_size=5),
    data=st.fixed_dictionaries({"t": WORDS, "n": st.integers(-9, 10**6), "é": st.lists(WORDS, max_size=2)}),
)
def test_the_helpers_of_templates(source: str, contents: list[tuple[str, str]], data: dict[str, Any]) -> None:
    """tojson and its options, raise_exception, the clock, generation blocks, loop controls: as transformers has them."""
    messages = [{"role": role, "content": content} for role, content in contents]
    ours, theirs = both_render(source, messages, d=data)
    assert ours == theirs


MESSAGE = st.one_of(
    st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), WORDS),
    st.builds(
        lambda content, thoughts: {"role": "assistant", "content": content, "reasoning_content": thoughts}, WORDS, WORDS
    ),
)
TALK = st.builds(
    lambda first, more, called: [*first, *more, *(calls({"city": "Köln", "n": [1, {"a": None}]}) if called else [])],
    st.sampled_from([[], [{"role": "system", "content": " Be brief.\n"}]]),
    st.lists(MESSAGE, min_size=1, max_size=5),
    st.booleans(),
)


@pytest.mark.oracle
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@settings(deadline=None, max_examples=25)
@given(
    messages=TALK,
    tools=st.booleans(),
    asked=st.fixed_dictionaries(
        {}, optional={"enable_thinking": st.booleans(), "add_generation_prompt": st.booleans()}
    ),
)
def test_any_conversation_as_transformers_renders_it(
    path: Path, messages: list[dict[str, Any]], tools: bool, asked: dict[str, Any]
) -> None:
    if any(message["content"] == "" or "tool_calls" in message for message in messages) and path.stem in QUEUES:
        return
    asked = {"add_generation_prompt": True, **asked}
    ours, theirs = both_render(path.read_text(encoding="utf-8"), messages, tools=TOOLS if tools else None, **asked)
    if not theirs.startswith(REFUSED) or "tool_calls" not in str(messages):  # arguments we also give as text
        assert ours == theirs


REFUSED = "refused: "


def both_render(source: str, messages: list[dict[str, Any]], **asked: Any) -> tuple[str, str]:
    """What we and transformers make of it; a refusal as its words."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        ours = ChatTemplate(source, variables=TOKENS).render(messages, **asked)
    except TemplateError as error:
        ours = f"{REFUSED}{str(error).removeprefix('the chat template failed on these messages: ')}"
    try:
        given = {"add_generation_prompt": True, "documents": None, "tools": None, **asked}
        theirs = _compile_jinja_template(source).render(messages=[_named(m) for m in messages], **TOKENS, **given)
    except Exception as error:
        theirs = f"{REFUSED}{error}"
    return ours, theirs


def _named(message: dict[str, Any]) -> dict[str, Any]:
    """With its thoughts by all names, as ours are."""
    thoughts = message.get("reasoning_content")
    return {**message, "thinking": thoughts, "reasoning": thoughts} if thoughts else message


@pytest.mark.parametrize("arguments", [{"city": "Köln"}, '{"city": "Köln"}'], ids=["object", "text"])
@pytest.mark.parametrize("path", WITH_CALLS, ids=lambda p: p.stem)
def test_arguments_of_calls_come_out_once_encoded(path: Path, arguments: Any) -> None:
    text = template(path).render(calls(arguments, content=None), tools=TOOLS)
    assert "Köln" in text
    assert r"\"city\"" not in text and "{'city'" not in text


@pytest.mark.parametrize("path", WITH_CALLS, ids=lambda p: p.stem)
def test_null_content_is_not_printed(path: Path) -> None:
    text = template(path).render(calls({"city": "Köln"}, content=None), tools=TOOLS)
    assert "None" not in text


@pytest.mark.parametrize("path", [p for p in FILES if "Hermes" not in p.stem], ids=lambda p: p.stem)
def test_parts_come_out_as_text(path: Path) -> None:
    made = template(path)
    texts = made.render([user([{"type": "text", "text": "Part 1,"}, {"type": "text", "text": "part 2"}])])
    assert texts in (made.render([user("Part 1,\npart 2")]), made.render([user("Part 1,part 2")]))


def test_texts_are_not_mistaken_for_lists() -> None:
    """gemma-2 prints whatever it gets: only a probe tells that it knows no parts."""
    assert "[{" not in named("google-gemma-2-2b-it").render([user([{"type": "text", "text": "a"}])])


def test_queues_in_templates_do_not_change_the_messages() -> None:
    messages = calls({"city": "Köln"})
    before = copy.deepcopy(messages)
    text = named("Kimi-K2-Instruct").render(messages, tools=TOOLS)
    assert "3 °C" in text and messages == before
    made = ChatTemplate("{% set _ = messages.append({'role': 'x'}) %}{{ messages | length }}")
    assert made.render(messages) == "4" and messages == before


def test_thoughts_go_by_every_name() -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        made = ChatTemplate("{{ messages[0].thinking }}/{{ messages[0].reasoning_content }}")
        assert made.render([{"role": "assistant", "content": "", name: "since"}]) == "since/since"


def test_refusals_are_the_templates_own_words() -> None:
    with pytest.raises(TemplateError, match=r"^System role not supported$"):
        named("google-gemma-2-2b-it").render([{"role": "system", "content": "x"}, user("y")])


@pytest.mark.parametrize(
    "source",
    ["{{ messages[0].x.y }}", "{{ 1 // 0 }}", "{{ messages + 1 }}", "{{ [] | first | int('a', 99) }}{{ {}.x() }}"],
)
def test_failures_are_template_errors(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source).render([user("x")])


def test_no_jinja_is_a_bad_model() -> None:
    with pytest.raises(BadModel, match=r"chat_template\.jinja.*line 2"):
        ChatTemplate("\n{% if %}", origin="chat_template.jinja")


def test_documents_have_a_place_or_none() -> None:
    made = ChatTemplate("{% for d in documents or [] %}{{ d.title }}: {{ d.text }}{% endfor %}")
    assert made.takes_documents and not ChatTemplate(CHATML).takes_documents
    assert (
        made.render([user("x")]) == "" and made.render([user("x")], documents=[{"title": "t", "text": "x"}]) == "t: x"
    )
    named = ChatTemplate({"default": "plain", "tool_use": "tools", "rag": "rag"})
    assert named.render([user("x")], documents=[{"text": "x"}]) == "rag"
    assert named.render([user("x")], documents=[{"text": "x"}], tools=TOOLS) == "tools"


PARTS = """{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}
{%- if p.type == 'thinking' %}[THINK]{{ VALUE }}[/THINK]{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}/{% endfor %}"""


@pytest.mark.parametrize("value", ["p.thinking", "p.thinking[0].text"])
def test_thoughts_as_parts_of_contents(value: str) -> None:
    """As Magistral's template has them; from memory of the vendor's documentation."""
    made = ChatTemplate(PARTS.replace("VALUE", value))
    answer = {"role": "assistant", "content": "so", "reasoning_content": "since"}
    assert made.render([user("q"), answer]) == "q/[THINK]since[/THINK]so/"
    assert made.render([user("q"), {"role": "assistant", "content": "so"}]) == "q/so/"
    going = [user("q"), {"role": "assistant", "content": None, "reasoning_content": "since"}]
    assert made.render(going, continue_final_message=True, tags=("[THINK]", "[/THINK]")) == "q/[THINK]since"
    assert made.render([user("q"), answer], continue_final_message=True) == "q/[THINK]since[/THINK]so"


def test_tool_use_serves_requests_with_tools() -> None:
    made = ChatTemplate({"default": "plain", "tool_use": "tools", "rag": "rag"})
    assert made.render([user("x")]) == "plain" == made.render([user("x")], tools=[])
    assert made.render([user("x")], tools=TOOLS) == "tools"


@pytest.mark.parametrize(
    "messages", [[], [{"role": "assistant"}], [{"role": "assistant", "content": ""}], [user([{"type": "image_url"}])]]
)
def test_nothing_to_continue_is_a_value_error(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="continue_final_message"):
        ChatTemplate(CHATML).render(messages, continue_final_message=True)


def test_a_dropped_message_cannot_be_continued() -> None:
    with pytest.raises(TemplateError, match="drops"):
        ChatTemplate("{{ messages[0].content }}").render([user("a"), user("b")], continue_final_message=True)


def test_continuing_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}]
    assert ChatTemplate(CHATML).render([user(parts)], continue_final_message=True) == "<|im_start|>user\na\nb "


def test_default_templates() -> None:
    messages = [{"role": "system", "content": "s"}, user("u"), {"role": "assistant", "content": None}]
    assert ChatTemplate(LINES).render(messages) == "system: s\nuser: u\nassistant: \nassistant:"
    assert ChatTemplate(CHATML).render(messages[1:2]) == "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"


def test_json_is_not_escaped_for_html() -> None:
    source = "{{ tools | tojson }}|{{ tools | tojson(indent=1) }}|{{ tools | tojson(ensure_ascii=True, separators=(',', ':')) }}"
    plain, indented, ascii_only = ChatTemplate(source).render([], tools=[{"é": "<&>'"}]).split("|")
    assert plain == """[{"é": "<&>'"}]"""
    assert indented == """[\n {\n  "é": "<&>'"\n }\n]"""
    assert ascii_only == """[{"\\u00e9":"<&>'"}]"""


def test_generation_marks_and_loop_controls_are_known() -> None:
    source = "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert ChatTemplate(source).render([user("a"), user("b")]) == "a"


def test_the_clock() -> None:
    year = ChatTemplate("{{ strftime_now('%Y') }}").render([])
    assert year.isdecimal() and len(year) == 4


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * [0] }}",
        "{{ 9 ** 99999999 }}",
        "{% set ns = namespace(n=2) %}{% for i in range(40) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
        "{% for i in range(100000000) %}{% endfor %}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a\nb' | indent(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 1000000000) }}",
        "{{ [] | tojson(indent=1000000000) }}",
        "{{ lipsum(n=1000) }}",
        "{{ messages.__class__ }}{{ ''.__class__.__mro__ }}",
        "{{ messages.clear() }}",
        "{{ raise_exception.__globals__.keys() }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source).render([user("x")])


@pytest.mark.parametrize(
    "way",
    [
        "{{ '%s'.format(raise_exception) }}",
        "{{ '%s'['format'](raise_exception) }}",
        "{{ ('%s' | attr('format'))(raise_exception) }}",
        "{{ ('%s' | string | attr('format'))(raise_exception) }}",
        "{{ (['%s'] | map(attribute='format') | first)(raise_exception) }}",
        "{{ (['%s'] | map('attr', 'format') | first)(raise_exception) }}",
        "{{ ('%s' | attr('format_map'))({'0': raise_exception}) }}",
        "{% macro run(f) %}{{ f(raise_exception) }}{% endmacro %}{{ run('%s'.format) }}",
        "{% macro run(f) %}{{ f(raise_exception) }}{% endmacro %}{{ run('%s' | attr('format')) }}",
        "{% set ns = namespace(f='%s'.format) %}{{ ns.f(raise_exception) }}",
    ],
)
@pytest.mark.parametrize("form", ["{0.__globals__}", "{0.__globals__[__builtins__]}", "{0.__class__.__mro__}"])
def test_no_format_looks_into_python(way: str, form: str) -> None:
    """However the method is had. Releases of Jinja before 3.1.6 let some of these pass."""
    with pytest.raises(TemplateError):
        ChatTemplate(way.replace("%s", form)).render([user("x")])


def test_modest_arithmetic_is_allowed() -> None:
    source = "{{ '-' * 20 }}{{ 3 * 4 }}{{ 2 ** 10 }}{{ 2 ** 0.5 > 1 }}{{ 7 % 4 }}{{ '%s' % 'x' }}{{ range(3) | list }}{{ '{}'.format(1) }}"
    assert ChatTemplate(source).render([]) == "-" * 20 + "121024True3x[0, 1, 2]1"
