"""Hostile templates end soon and stay small, and say why; usual ones never feel it."""

from __future__ import annotations

import resource
import threading
import time
from typing import Any

import pytest

from radixmill.front.text import ChatTemplate, TemplateError, budget
from radixmill.front.text.budget import MAX_TEXT, SECONDS
from radixmill.front.text.template import TooSlow

USER: list[dict[str, Any]] = [{"role": "user", "content": "x" * 50}]

LONG = {
    "loops in loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "a condition": "{% for a in range(100000) if (range(100000) | sum) < 0 %}{% endfor %}",
    "a filtered loop": "{% for a in range(100000) %}{% for b in range(100000) if b < 0 %}{% endfor %}{% endfor %}",
    "two macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a recursive loop": "{% for a in [[1] * 30] recursive %}{% for b in range(40) %}{{ loop.index }}"
    "{% endfor %}{{ loop([a, a]) if loop.depth < 60 }}{% endfor %}",
    "map of maps": "{% for a in range(100000) %}{{ range(100000) | map('string') | list | length }}{% endfor %}",
    "sums": "{% for a in range(100000) %}{% set x = ([[1] * 1000] * 5) | sum(start=[]) %}{% endfor %}",
    "searches": "{% set s = 'a' * 1000000 %}{% for a in range(100000) %}{{ 'ab' in s }}{% endfor %}",
    "calls": "{% set s = 'a' * 1000000 %}{% for a in range(100000) %}{% set x = s.count('b') %}{% endfor %}",
}
LARGE = {
    "tags": "{% for a in range(100000) %}{{ ('<!--' * 1000 ~ '-->' * 1000) | striptags | length }}{% endfor %}",
    "+": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "~": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "lists": "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "blocks": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set x %}{{ n.s }}{{ n.s }}{% endset %}"
    "{% set n.s = x %}{% endfor %}",
    "macros": "{% macro d(s) %}{{ s }}{{ s }}{% endmacro %}{% set n = namespace(s='ab') %}"
    "{% for i in range(60) %}{% set n.s = d(n.s) %}{% endfor %}",
    "joins": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = [n.s, n.s] | join %}{% endfor %}",
    "join, the method": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s.join(['', '', '']) %}{% endfor %}",
    "replace": "{% set s = 'a' * 1000000 %}{{ s | replace('a', s) }}",
    "replace, the method": "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
    "nothing replaced": "{% set s = 'a' * 1000000 %}{{ s.replace('', s) }}",
    "format": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = '{0}{0}'.format(n.s) %}{% endfor %}",
    "format at once": "{% set s = 'a' * 1000000 %}{{ ('{0}' * 3000).format(s) }}",
    "format at once, by name": "{% set s = 'a' * 1000000 %}{{ ('{s}' * 3000).format(s=s) }}",
    "per cent": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
    "wide numbers": "{{ ('%9999d' * 100000) % ([1] * 100000) }}",
    "towers": "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "towers of dicts": "{% set n = namespace(s={}) %}{% for i in range(60) %}{% set n.s = {'a': n.s, 'b': n.s} %}"
    "{% endfor %}{{ n.s | tojson }}",
    "towers of namespaces": "{% set n = namespace(s=1) %}{% for i in range(60) %}"
    "{% set n.s = namespace(a=n.s, b=n.s) %}{% endfor %}{{ n.s }}",
    "towers compared": "{% set n = namespace(s=[1], t=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}"
    "{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.s == n.t }}",
    "towers tested": "{% set n = namespace(s=[1], t=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}"
    "{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.s is eq n.t }}",
    "towers as keys": "{% set n = namespace(s=(1,)) %}{% for i in range(60) %}{% set n.s = (n.s, n.s) %}{% endfor %}{{ {}[n.s] }}",
    "towers in dicts": "{% set n = namespace(s=(1,)) %}{% for i in range(60) %}{% set n.s = (n.s, n.s) %}{% endfor %}{{ {n.s: 1} }}",
    "towers raised": "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
    "{{ raise_exception(n.s) }}",
    "towers missed": "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ {}[n.s].x }}",
    "a list in itself": "{% set l = [1] %}{% set _ = l.append(l) %}{{ l | tojson }}",
    "one text often": "{% set s = 'a' * 1000000 %}{{ [s] * 1000000 }}",
    "one text often printed": "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s }}{% endfor %}",
    "texts kept": "{% set l = [] %}{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set _ = l.append(s ~ i) %}{% endfor %}",
    "slices kept": "{% set l = [] %}{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set _ = l.append(s[1:]) %}{% endfor %}",
    "upper case kept": "{% set l = [] %}{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set _ = l.append(s.upper()) %}{% endfor %}",
    "batches": "{{ [1] | batch(1000000000, 'x') | list }}",
    "slices": "{{ [1] | slice(1000000000) | list }}",
    "indents": "{{ ('a\n' * 500000) | indent(4096) }}",
    "json indented": "{% set n = namespace(s=[[]] * 10000) %}{% for i in range(400) %}{% set n.s = [n.s] %}{% endfor %}"
    "{{ n.s | tojson(indent=4000) }}",
    "translations": "{{ ('a' * 1000000).translate({97: 'a' * 1000000}) }}",
    "bytes": "{{ (5).to_bytes(1000000000, 'big') }}",
    "digits": "{{ 2.5 | round(1000000000, 'ceil') }}",
    "the clock": "{{ strftime_now('%Y' * 100000) }}",
    "stripped": "{% set s = 'a' * 1000000 %}{{ s.strip('b' * 1000000 ~ 'a') }}",
    "looking in": "{{ '{0.__class__}'.format(1) }}",
    "names of Python's": "{{ namespace(__class__=1) }}",
}


def spent(source: str) -> tuple[ValueError, float]:
    """The refusal, and the processor's seconds."""
    begun = time.thread_time()
    with pytest.raises((TemplateError, TooSlow)) as refused:
        ChatTemplate(source).render(USER)
    return refused.value, time.thread_time() - begun


@pytest.mark.parametrize("name", LONG)
def test_long_templates_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.2)
    refusal, seconds = spent(LONG[name])
    assert isinstance(refusal, TooSlow) and "took longer than 0.2 seconds" in str(refusal)
    assert 0.2 <= seconds < 1.0


def test_the_usual_limit() -> None:
    refusal, seconds = spent(LONG["loops in loops"])
    assert isinstance(refusal, TooSlow) and SECONDS <= seconds < SECONDS + 0.5


@pytest.mark.parametrize("name", LARGE)
def test_large_templates_end(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, seconds = spent(LARGE[name])
    assert seconds < SECONDS + 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_a_thread_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs takes nothing from another that renders meanwhile."""
    monkeypatch.setattr(budget, "SECONDS", 0.2)
    slow, usual = ChatTemplate(LONG["loops in loops"]), ChatTemplate("{{ messages[0].content }}")
    refused: list[Exception] = []

    def hang() -> None:
        try:
            slow.render(USER)
        except (TemplateError, TooSlow) as error:
            refused.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    while thread.is_alive():
        assert usual.render(USER) == USER[0]["content"]
        time.sleep(0.01)
    assert len(refused) == 1 and isinstance(refused[0], TooSlow)
    with pytest.raises(TooSlow):
        slow.render(USER)


def test_probes_do_not_wait_for_a_slow_template_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.2)
    made = ChatTemplate(LONG["loops in loops"])
    begun = time.thread_time()
    with pytest.raises(TooSlow):
        made.render([{"role": "user", "content": [{"type": "text", "text": "x"}]}])
    assert time.thread_time() - begun < 0.4


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 1000 }}{{ [1, 2] + [3] }}{{ 'a' ~ 1 ~ none }}{{ (1, [2]) == (1, [2]) }}{{ [messages] == [messages] }}",
        "{{ messages | map(attribute='content') | join(',') }}{{ messages[0:1] | length }}{{ {messages[0].role: 1} }}",
        "{{ 'a,b'.split(',') }}{{ '%s-%05d' % ('a', 7) }}{{ '{:>5}'.format('a') }}{{ 'a' | indent(2) }}{{ ' a ' | trim }}",
        "{{ [3, 1] | sort }}{{ [1, 1] | unique | list }}{{ [[1], [2]] | sum(start=[]) }}{{ 'x' | replace('x', 'y') }}",
        "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1) }}{% set x %}{{ m(2) }}{% endset %}{{ x }}{{ namespace(a=1) }}",
        "{{ 'it is' | wordwrap(2) }}{{ 'a b' | title }}{{ {'b': 1} | dictsort }}{{ 'u' is in ['u'] }}{{ {'a': [1]} | tojson(indent=2) }}",
    ],
)
def test_what_is_usual_comes_out_as_jinja_has_it(source: str) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    theirs = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    theirs.filters["tojson"] = lambda value, indent=None: __import__("json").dumps(value, indent=indent)
    assert ChatTemplate(source).render(USER) == theirs.from_string(source).render(messages=USER)


def test_long_conversations_are_no_matter() -> None:
    """Ten megabytes in two thousand messages, tens of times what any context holds."""
    content = "word " * 1000
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": content} for i in range(2000)]
    source = "{% for m in messages %}{{ m.role + ': ' + m.content | trim ~ '\n' }}{{ messages | length }}{% endfor %}"
    begun = time.thread_time()
    assert len(ChatTemplate(source).render(messages)) > 10_000_000
    assert time.thread_time() - begun < SECONDS / 3


def test_texts_may_be_as_long_as_a_context_ever_is() -> None:
    content = "x" * (MAX_TEXT // 2)
    assert (
        ChatTemplate("{{ 'a' + messages[0].content }}").render([{"role": "user", "content": content}]) == "a" + content
    )
