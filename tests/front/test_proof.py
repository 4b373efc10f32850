"""The proof of a dialect: right ones pass, wrong ones fail and say where, and no way to cut a text goes unlooked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from radixmill.front.dialects import FAMILIES, Callee, Dialect
from radixmill.front.dialects.calls.base import Reader, Tags
from radixmill.front.dialects.calls.json_object import JsonObject
from radixmill.front.dialects.families import Qwen3
from radixmill.front.dialects.proof import CALLS, THOUGHT, Sample, Token, documented, prove, reads, stated
from radixmill.front.dialects.scan import Malformed, Scan

QWEN3 = Qwen3()
TEXT = f"<think>\n{THOUGHT}\n</think>\n\n{QWEN3.calls.all_written(CALLS)}"
SAMPLE = Sample(text=TEXT, thought=THOUGHT, calls=CALLS)
BOTH = {"thoughts": "template", "calls": "template"}

by_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)


def proved(dialect: Dialect, sample: Sample = SAMPLE) -> tuple[str, str]:
    """What is wrong with thoughts and calls; "": nothing."""
    thoughts, calls = prove(dialect, [sample], BOTH)
    assert (thoughts.subject, calls.subject, thoughts.text) == ("thoughts", "calls", sample.text)
    return ("" if thoughts.passed else thoughts.explanation), ("" if calls.passed else calls.explanation)


def test_what_is_right_passes_and_says_what_it_read():
    assert proved(QWEN3) == ("", "")
    thoughts, calls = prove(QWEN3, [SAMPLE], BOTH)
    assert '"why…\\n\\nand how"' in thoughts.explanation and thoughts.basis == "template"
    assert 'get_weather {"city": "Paris", "days": 3}, call now {}' in calls.explanation


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.example], ids=lambda family: family.__name__)
def test_every_family_reads_what_its_vendor_documents(family):
    assert [proof.explanation for proof in prove(family(), [documented(family())], BOTH) if not proof.passed] == []


@by_family
def test_every_family_reads_what_its_form_writes(family):
    [proof] = prove(family(), [stated(family)], {"calls": "text"})
    assert proof.passed, proof.explanation


OTHER = Dialect(calls=replace(QWEN3.calls, call=Tags("<function_call>", "</function_call>")))


@pytest.mark.parametrize(
    "dialect, thoughts, calls",
    [
        (Dialect(), "expected thought", 'but read text "<think>'),
        (Dialect(think=replace(QWEN3.think, open="<thought>")), "expected thought", "but read text"),
        (Dialect(think=replace(QWEN3.think, close="</thought>")), "but read thought", ""),  # a call ends thoughts, too
        (Dialect(think=QWEN3.think, calls=OTHER.calls), "", 'text "<tool_call>'),
        (Dialect(think=QWEN3.think, calls=JsonObject(name_key="tool")), "", "but read"),
        (Dialect(think=QWEN3.think, calls=JsonObject(arguments_keys=("parameters",))), "", "get_weather {}"),
    ],
)
def test_what_is_wrong_fails_and_shows_the_difference(dialect, thoughts, calls):
    told = proved(dialect)
    assert bool(told[0]) == bool(thoughts) and bool(told[1]) == bool(calls)
    assert thoughts in told[0] and calls in told[1]
    assert "\n" not in "".join(told)
    assert reads(dialect, [SAMPLE], "thoughts") == (not thoughts) and reads(dialect, [SAMPLE], "calls") == (not calls)


def test_arguments_are_what_they_mean():
    for text, right in (
        ('{"days": 3, "city": "Paris"}', True),
        ('{"city": "Paris", "days": "3"}', False),
        ('{"city": "Paris", "days": 3.0}', False),
    ):
        sample = Sample(text=f'<tool_call>{{"name": "get_weather", "arguments": {text}}}</tool_call>', calls=CALLS[:1])
        assert prove(QWEN3, [sample], {"calls": "text"})[0].passed == right


def test_a_prompt_may_have_opened_the_thoughts():
    behind = replace(SAMPLE, text=TEXT.removeprefix("<think>"), prompt="<|im_start|>assistant\n<think>\n")
    assert proved(QWEN3, behind) == ("", "")
    assert "but read text" in proved(QWEN3, replace(behind, prompt=""))[0]
    assumed = Dialect(think=replace(QWEN3.think, assumed=True))
    assert proved(assumed, replace(behind, prompt="")) == ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hasty(JsonObject):
    """Gives up where the closing tag has not come yet, or only where the text so far ends in `at`."""

    at: str = ""

    def body(self, scan: Scan, tools: Mapping[str, Callee]) -> Reader:
        if not scan.last and scan.text.endswith(self.at) and self.call.close not in scan.text:
            raise Malformed
        yield from JsonObject.body(self, scan, tools)


@pytest.mark.parametrize(
    "at, how", [("", "character by character"), ('<tool_call>\n{"name": "get_we', "cut at character")]
)
def test_a_reader_that_does_not_wait_is_found_out(at, how):
    dialect = Dialect(think=QWEN3.think, calls=Hasty(at=at))
    assert reads(dialect, [SAMPLE], "calls")  # whole, it is right
    assert how in proved(dialect)[1]


def test_control_tokens_count_by_what_they_are():
    marks = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    spelled = tuple(Token(char) for char in TEXT)
    tokens: list[Token] = []
    rest = TEXT
    while rest:
        mark = next(filter(rest.startswith, marks), "")
        tokens.append(Token(mark or rest[0], mark))
        rest = rest[len(mark or rest[0]) :]
    exact = frozenset(marks)
    assert proved(QWEN3, replace(SAMPLE, tokens=tuple(tokens), exact=exact)) == ("", "")
    assert "token by token" in proved(QWEN3, replace(SAMPLE, tokens=spelled, exact=exact))[1]
