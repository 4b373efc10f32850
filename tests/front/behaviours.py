"""A table of what answers mean, said once for every family: each row writes its text with the family's own tags and form.

A row says what a model writes and what a client gets of it. Where a family can't have a case, `needs` says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from radixmill.core.request import Constraint
from radixmill.front.dialects import Called, Callee, Dialect, Splitter
from radixmill.front.session import Tool
from tests.front.dialect_kit import NOTHING, NOW, PARIS, WEATHER

UNKNOWN = ("unknown", {"city": "Paris"})
NOTE = ("note", {"input": "x\ny é"})
SQL = "SELECT 1"
TOOLS = (
    Tool(name="get_weather", parameters=WEATHER),
    Tool(name="now", parameters=NOTHING),
    Tool(name="note", custom=True),
)
BOUND = Tool(name="sql", custom=True, format=Constraint(kind="regex", text="SELECT [0-9]+"))  # a grammar comes with it
CALLEES = {
    "get_weather": Callee("object", WEATHER),
    "now": Callee("object", NOTHING),
    "note": Callee("input"),
    "sql": Callee("text"),
}


class Letters(str):
    """A part of a text that stands there as letters, whatever control tokens are spelled like it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a model writes, under which request, and what is made of it.

    `thoughts`, `content`, `calls`: put together; arguments as JSON says them, a custom tool's as text. `order`: kinds
    of pieces, where it matters. `raw`: besides, this stands in the content as it was written.
    """

    said: tuple[str, ...]
    thoughts: str = ""
    content: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    order: str = ""  # t, s and c
    begins: Literal["", "opened", "closed"] = ""  # how the prompt ended: within thoughts, behind them
    continues: str = ""  # the message that the model goes on with
    end: Literal["eos", "length"] = "eos"
    reason: str = ""  # why it ended, if not for what `calls` and `end` say
    counted: str | None = None  # the raw text whose tokens are those of thoughts
    tools: bool = True
    choice: Literal["auto", "required", "none"] = "auto"
    parallel: bool = True
    separate: bool = True
    at_once: bool = False  # thoughts come in one piece
    stop: tuple[str, ...] = ()
    bound: bool = False  # one of the tools has a format
    cut: bool = False  # the arguments of the last call are only begun: their text begins what the call says

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def may_call(self) -> bool:
        return self.tools and self.choice != "none"


class Need(NamedTuple):
    """`lacks`: what is to be said of a family that can't have a case."""

    lacks: str
    met: Callable[[Writer], bool]


class Behaviour(NamedTuple):
    name: str
    needs: tuple[Need, ...]
    row: Callable[[Writer], Row]

    def lacks(self, writer: Writer) -> str:
        return "; ".join(need.lacks for need in self.needs if not need.met(writer))


class Writer:
    """Answers in the words of a family."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect, self.forms, self.think = dialect, dialect.calls, dialect.think
        self.open, self.close = (dialect.think.open, dialect.think.close) if dialect.think else ("", "")
        self.turn = dialect.turn

    def thought(self, text: str) -> str:
        return f"{self.open}{text}{self.close}"

    def content(self, text: str, *, more: bool = False) -> str:
        """`more`: other parts follow."""
        opens = self.dialect.aside if more and self.dialect.aside else "".join(self.dialect.answer_opens[:1])
        return f"{opens}{text}{self.dialect.answer_close}"

    def calls(self, *calls: tuple[str, dict[str, Any]]) -> str:
        return self.forms.all_written(calls)

    def answer(self, *parts: str) -> tuple[str, ...]:
        return (self.turn.join(parts),)

    def halves(self, call: tuple[str, dict[str, Any]] = PARIS) -> tuple[str, str]:
        """A written call, cut within its arguments."""
        before, name, behind = self.calls(call).partition("Pari")
        return before + name, behind

    def behind_first(self, text: str) -> str:
        """What stands behind the first call, `now`, of an answer with several; without what closes their section."""
        _, first, rest = text.partition(self.forms.written(*NOW))
        closing = self.forms.section.close
        return rest.removesuffix(closing).rstrip() if first and closing and rest.endswith(closing) else rest

    @property
    def one_by_one(self) -> bool:
        """Whether a call is whole before the next one is."""
        text = self.calls(NOW, PARIS)
        cut = text[: text.index("Pari")]
        splitter = Splitter(self.dialect, {"now": Callee(), "get_weather": Callee()})
        return any(isinstance(piece, Called) for piece in splitter.push(cut))

    @property
    def json_arguments(self) -> str:
        """The arguments as the call has them, if as JSON."""
        text = json.dumps(PARIS[1])
        return text if text in self.calls(PARIS) else ""


THINKS = Need("it has no thoughts", lambda writer: writer.think is not None)
THINKS_NOT = Need("it has thoughts", lambda writer: writer.think is None)
SWITCHES = Need("nothing turns its thoughts off", lambda writer: bool(writer.think and writer.think.switch))
INTERLEAVES = Need("its thoughts come once", lambda writer: bool(writer.think and writer.think.interleaved))
THINKS_ONCE = Need("its thoughts may come again", lambda writer: not (writer.think and writer.think.interleaved))
CALL_ENDS = Need("a call does not end its thoughts", lambda writer: bool(writer.think and writer.think.ended_by_call))
CALL_STAYS = Need("a call ends its thoughts", lambda writer: bool(writer.think and not writer.think.ended_by_call))
JSON = Need("its arguments are not written as JSON", lambda writer: bool(writer.json_arguments))
QUOTES = Need(
    "its values stand unquoted", lambda writer: re.search(r"[\"'](\|>)?Paris", writer.calls(PARIS)) is not None
)
ONE_BY_ONE = Need("its calls are whole all at once", lambda writer: writer.one_by_one)
ALL_AT_ONCE = Need("its calls are whole one by one", lambda writer: not writer.one_by_one)
TAGGED = Need("nothing marks its calls", lambda writer: len(writer.forms.openers[0]) > 1)
CLOSES_ONCE = Need(
    "what closes its thoughts closes content, too", lambda writer: writer.close != writer.dialect.answer_close
)

TABLE: dict[str, Behaviour] = {}


def behaviour(name: str, *needs: Need) -> Callable[[Callable[[Writer], Row]], None]:
    def entered(row: Callable[[Writer], Row]) -> None:
        assert name not in TABLE
        TABLE[name] = Behaviour(name, needs, row)

    return entered


# --- content


@behaviour("an answer without thoughts or calls is content")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.content("Hello.")), content="Hello.", counted="")


@behaviour("an empty answer has no content")
def _(w: Writer) -> Row:
    return Row(said=("",))


@behaviour("white space of content stays: before, within and behind")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.content("\n\n  so \n\n much \n ")), content="\n\n  so \n\n much \n ")


@behaviour("content of white space alone stays")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.content(" \n\n")), content=" \n\n")


@behaviour("characters of several bytes stay whole in content")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.content("naïve 日本語 😀é")), content="naïve 日本語 😀é")


@behaviour("half an opening tag of calls at the end is content", TAGGED)
def _(w: Writer) -> Row:
    half = w.forms.openers[0][:-1]
    return Row(said=w.answer(w.content("a" + half).removesuffix(w.dialect.answer_close)), content="a" + half)


# --- thoughts


@behaviour("tags of other families' thoughts are content", THINKS_NOT)
def _(w: Writer) -> Row:
    text = "<think>why</think>so"
    return Row(said=(text,), content=text, counted="")


@behaviour("thoughts, then content", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why"), w.content("so"))
    return Row(said=said, thoughts="why", content="so", order="ts", counted=w.thought("why"))


@behaviour("thoughts that the prompt opened", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(f"why{w.close}", w.content("so"))
    return Row(said=said, thoughts="why", content="so", begins="opened", counted=f"why{w.close}")


@behaviour("an opening tag that repeats the prompt's is dropped", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why"), w.content("so"))
    return Row(said=said, thoughts="why", content="so", begins="opened", counted=w.thought("why"))


@behaviour("an opening tag that the model repeats is dropped", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(f"{w.open}\n{w.thought('why')}", w.content("so"))
    return Row(said=said, thoughts="why", content="so", counted=f"{w.open}\n{w.thought('why')}")


@behaviour("thoughts without an end are all there is: end of text", THINKS)
def _(w: Writer) -> Row:
    return Row(said=(f"{w.open}why not",), thoughts="why not", counted=f"{w.open}why not", reason="stop")


@behaviour("thoughts without an end are all there is: cut off by length", THINKS)
def _(w: Writer) -> Row:
    return Row(said=(f"{w.open}why not",), thoughts="why not", end="length")


@behaviour("thoughts that the prompt opened, without an end: cut off by length", THINKS)
def _(w: Writer) -> Row:
    return Row(said=("why not",), thoughts="why not", begins="opened", end="length", counted="why not")


@behaviour("thoughts that the prompt opened, without an end: end of text", THINKS)
def _(w: Writer) -> Row:
    return Row(said=("why not\n",), thoughts="why not\n", begins="opened", reason="stop", counted="why not\n")


@behaviour("half a closing tag at the end is of the thoughts", THINKS)
def _(w: Writer) -> Row:
    return Row(said=(w.open, "why", Letters(w.close[:-1])), thoughts="why" + w.close[:-1], end="length")


@behaviour("empty thoughts are none", THINKS)
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.thought(""), w.content("so")), content="so", counted=w.thought(""))


@behaviour("the first closing tag ends thoughts, a second is content", THINKS, CLOSES_ONCE)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why"), w.content(f"so{w.close}much"))
    return Row(said=said, thoughts="why", content=f"so{w.close}much", order="ts", counted=w.thought("why"))


@behaviour("a closing tag that closes nothing is content", THINKS, CLOSES_ONCE)
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.content(f"so{w.close}much")), content=f"so{w.close}much", counted="")


@behaviour("an opening tag behind content is content", THINKS, THINKS_ONCE)
def _(w: Writer) -> Row:
    said = w.answer(w.content("so") + w.thought("why"))
    return Row(said=said, content="so" + w.thought("why"), counted="")


@behaviour("an opening tag behind closed thoughts is content", THINKS, THINKS_ONCE)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why") + w.thought("not"))
    return Row(said=said, thoughts="why", content=w.thought("not"), counted=w.thought("why"))


@behaviour("an opening tag behind content begins thoughts", THINKS, INTERLEAVES)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why"), w.content("so", more=True), w.thought("not"), w.content("much"))
    return Row(said=said, thoughts="whynot", content="somuch", order="tsts")


@behaviour("thoughts begin though the prompt turned them off", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why"), w.content("so"))
    return Row(said=said, thoughts="why", content="so", begins="closed", counted=w.thought("why"))


@behaviour("thoughts turned off, and none come", THINKS, SWITCHES)
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.content("so")), content="so", begins="closed", counted="")


@behaviour("white space of thoughts stays, and what is between their end and content", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("\n why \n"), w.content("\n\nso"))
    return Row(said=said, thoughts="\n why \n", content="\n\nso")


@behaviour("white space before thoughts goes with their opening tag", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(f"\n \n{w.thought('why')}", w.content("so"))
    return Row(said=said, thoughts="why", content="so", counted=f"\n \n{w.thought('why')}")


@behaviour("characters of several bytes stay whole in thoughts", THINKS)
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.thought("日本 é😀"), w.content("é")), thoughts="日本 é😀", content="é")


@behaviour("tags of thoughts as letters are text", THINKS)
def _(w: Writer) -> Row:
    said = (w.open, "why ", Letters(w.close), " not", w.close, w.turn, w.content("so " + (letters := Letters("!"))))
    return Row(said=said, thoughts=f"why {w.close} not", content=f"so {letters}", order="ts")


@behaviour("thoughts may stay in the content, tags and all", THINKS)
def _(w: Writer) -> Row:
    text = w.thought("why") + "\n\nso"
    return Row(said=(text,), content=text, separate=False, counted=w.thought("why"))


@behaviour("thoughts that stay in the content do not hide calls", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why"), w.calls(NOW))
    return Row(said=said, content=w.thought("why") + w.turn, calls=(NOW,), separate=False, order="sc")


@behaviour("thoughts may come in one piece", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why not"), w.content("so"))
    return Row(said=said, thoughts="why not", content="so", at_once=True)


@behaviour("thoughts without an end may come in one piece", THINKS)
def _(w: Writer) -> Row:
    return Row(said=("why not",), thoughts="why not", begins="opened", end="length", at_once=True)


@behaviour("a message that ends within thoughts is gone on with", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(f" and on{w.close}", w.content("so"))
    return Row(said=said, thoughts=" and on", content="so", continues=f"{w.open}so far", counted=f" and on{w.close}")


@behaviour("a message that ends behind thoughts is gone on with", THINKS)
def _(w: Writer) -> Row:
    return Row(said=(" and on",), content=" and on", continues=f"{w.thought('why')}so far", counted="")


@behaviour("a message is gone on with")
def _(w: Writer) -> Row:
    return Row(said=(" and on",), content=" and on", continues="so far")


# --- stop strings


@behaviour("a stop string ends content")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.content("so STOP much")), content="so ", stop=("STOP",), reason="stop")


@behaviour("a stop string ends thoughts", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why STOP not"), w.content("so"))
    return Row(said=said, thoughts="why ", stop=("STOP",), reason="stop")


@behaviour("a stop string matches a tag of thoughts", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why"), w.content("so"))
    return Row(said=said, thoughts="why", stop=(w.close,), reason="stop")


@behaviour("a stop string matches across a tag", THINKS)
def _(w: Writer) -> Row:
    return Row(said=(w.thought("why") + "so",), thoughts="wh", stop=(f"y{w.close}s",), reason="stop")


@behaviour("a stop string within a call leaves its text", TAGGED)
def _(w: Writer) -> Row:
    said, _ = w.halves()
    return Row(said=(w.calls(PARIS),), content=said.removesuffix("ari"), stop=("aris",), reason="stop")


# --- calls


@behaviour("a call")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.calls(PARIS)), calls=(PARIS,))


@behaviour("a call without arguments has {}")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.calls(NOW)), calls=(NOW,))


@behaviour("several calls")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.calls(PARIS, NOW, PARIS)), calls=(PARIS, NOW, PARIS))


@behaviour("several calls, but one is wanted")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.calls(PARIS, NOW)), calls=(PARIS,), parallel=False)


@behaviour("thoughts, then calls", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why"), w.calls(PARIS, NOW))
    return Row(said=said, thoughts="why", calls=(PARIS, NOW), order="tcc", counted=w.thought("why"))


@behaviour("thoughts that the prompt opened, then calls", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(f"why{w.close}", w.calls(NOW))
    return Row(said=said, thoughts="why", calls=(NOW,), begins="opened")


@behaviour("content, then a call", TAGGED)
def _(w: Writer) -> Row:
    said = w.answer(w.content("I look.\n", more=True), w.calls(PARIS))
    return Row(said=said, content="I look.\n", calls=(PARIS,), order="sc")


@behaviour("a call, then content", TAGGED)
def _(w: Writer) -> Row:
    said = w.answer(w.calls(PARIS), w.content("Done."))
    return Row(said=said, content="Done.", calls=(PARIS,), order="cs")


@behaviour("content before, between and behind calls", TAGGED)
def _(w: Writer) -> Row:
    parts = (w.content("a ", more=True), w.calls(PARIS), w.content(" b ", more=True), w.calls(NOW), w.content(" c"))
    return Row(said=w.answer(*parts), content="a  b  c", calls=(PARIS, NOW), order="scscs")


@behaviour("white space between the end of thoughts and a call goes with them", THINKS)
def _(w: Writer) -> Row:
    said = (w.thought("why"), "\n\n", w.turn, w.calls(NOW), "\n")
    return Row(said=said, thoughts="why", calls=(NOW,))


@behaviour("characters of several bytes stay whole in arguments")
def _(w: Writer) -> Row:
    call = ("get_weather", {"city": "Zürich 日本 😀"})
    return Row(said=w.answer(w.calls(call)), calls=(call,))


@behaviour("quotes, breaks and brackets stay in arguments")
def _(w: Writer) -> Row:
    call = ("get_weather", {"city": "a \"b\" \\ {c} [d], e: f\n\tg = 'h'"})
    return Row(said=w.answer(w.calls(call)), calls=(call,))


@behaviour("tags as letters within a string of arguments are of the string", QUOTES)
def _(w: Writer) -> Row:
    tags = " ".join(sorted({w.open, w.close, *w.forms.openers, *w.forms.section, *w.forms.call} - {""}))
    call = ("get_weather", {"city": tags})
    before, value, behind = w.calls(call).rpartition(json.dumps(tags)[1:-1])
    return Row(said=(before, Letters(value), behind), calls=(call,))


@behaviour("a tag of calls as letters is content", TAGGED)
def _(w: Writer) -> Row:
    text = f"{w.forms.openers[0]} begins calls"
    return Row(
        said=(w.content(""), Letters(text))
        if not w.dialect.answer_opens
        else (w.dialect.answer_opens[0], Letters(text)),
        content=text,
    )


@behaviour("a custom tool's input")
def _(w: Writer) -> Row:
    return Row(said=w.answer(w.calls(NOTE)), calls=(("note", "x\ny é"),))


@behaviour("a custom tool's input that a format binds")
def _(w: Writer) -> Row:
    said = f"{w.forms.section.open}{w.forms.head('sql', 'text')}{SQL}{w.forms.tail('text')}{w.forms.section.close}"
    return Row(said=w.answer(said), calls=(("sql", SQL),), bound=True)


@behaviour("a call within open thoughts ends them", THINKS, CALL_ENDS)
def _(w: Writer) -> Row:
    return Row(said=(f"{w.open}why ", w.calls(PARIS)), thoughts="why ", calls=(PARIS,), counted=f"{w.open}why ")


@behaviour("a call ends thoughts that stay in the content, too", THINKS, CALL_ENDS)
def _(w: Writer) -> Row:
    begun = f"{w.open}why "
    return Row(said=(begun, w.calls(PARIS)), content=begun, calls=(PARIS,), separate=False, order="sc", counted=begun)


@behaviour("content behind a call that ended thoughts is content", THINKS, CALL_ENDS)
def _(w: Writer) -> Row:
    said = (f"{w.open}why ", w.turn.join((w.calls(PARIS), w.content("so"))))
    return Row(said=said, thoughts="why ", content="so", calls=(PARIS,), order="tcs")


@behaviour("a call within open thoughts is a thought", THINKS, CALL_STAYS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why " + w.calls(PARIS)), w.content("so"))
    return Row(said=said, thoughts="why " + w.calls(PARIS), content="so", order="ts")


@behaviour("a malformed call within thoughts is a thought", THINKS, TAGGED)
def _(w: Writer) -> Row:
    bad = f"{w.forms.openers[0]}?! "
    return Row(said=w.answer(w.thought("why " + bad), w.content("so")), thoughts="why " + bad, content="so", order="ts")


@behaviour("a call of an unknown tool within thoughts is a thought", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why " + w.calls(UNKNOWN)), w.content("so"))
    return Row(said=said, thoughts="why " + w.calls(UNKNOWN), content="so", order="ts")


# --- what is no call


@behaviour("a call of an unknown tool is content")
def _(w: Writer) -> Row:
    return Row(said=(w.calls(UNKNOWN),), content=w.calls(UNKNOWN), reason="stop")


@behaviour("a call of an unknown tool is content, white space and text around it too")
def _(w: Writer) -> Row:
    text = f"\n I look: {w.calls(UNKNOWN)}\n done "
    return Row(said=(text,), content=text, reason="stop")


@behaviour("a malformed call is content", TAGGED)
def _(w: Writer) -> Row:
    text = f"{w.forms.openers[0]}?! no call {w.forms.closer}"
    return Row(said=(text,), content=text, reason="stop")


@behaviour("an opening tag alone is content", TAGGED)
def _(w: Writer) -> Row:
    return Row(said=(w.forms.openers[0],), content=w.forms.openers[0], reason="stop")


@behaviour("a malformed call is content, and the next one a call", TAGGED)
def _(w: Writer) -> Row:
    text = f"{w.forms.openers[0]}?! no call {w.forms.closer} "
    return Row(said=(text, w.calls(PARIS)), content=text, calls=(PARIS,), order="sc")


@behaviour("arguments that are no object are content", JSON)
def _(w: Writer) -> Row:
    text = w.calls(PARIS).replace(w.json_arguments, "[1]")
    return Row(said=(text,), content=text, reason="stop")


@behaviour("arguments that are no JSON are content", JSON)
def _(w: Writer) -> Row:
    text = w.calls(PARIS).replace(w.json_arguments, '{"city": Paris}')
    return Row(said=(text,), content=text, reason="stop")


@behaviour("a call that the end of text cuts off is content")
def _(w: Writer) -> Row:
    return Row(said=w.halves()[:1], content=w.halves()[0], reason="stop")


@behaviour("a call that length cuts off is content")
def _(w: Writer) -> Row:
    return Row(said=w.halves()[:1], content=w.halves()[0], end="length")


@behaviour("a call that is cut off behind content is content")
def _(w: Writer) -> Row:
    text = f"I look.\n{w.halves()[0]}"
    return Row(said=(text,), content=text, end="length")


@behaviour("calls that were whole are given when length cuts the next one off", ONE_BY_ONE)
def _(w: Writer) -> Row:
    said = "".join(w.calls(NOW, PARIS).partition("Pari")[:2])
    return Row(said=(said,), content=w.behind_first(said), calls=(NOW,), end="length", order="cs")


@behaviour("an unknown tool among others: those before it are given, and it is content", ONE_BY_ONE)
def _(w: Writer) -> Row:
    said = w.calls(NOW, UNKNOWN)
    return Row(said=(said,), content=w.behind_first(said), calls=(NOW,), order="cs")


@behaviour("an unknown tool in a list of calls: all of it is content", ALL_AT_ONCE)
def _(w: Writer) -> Row:
    return Row(said=(w.calls(NOW, UNKNOWN),), content=w.calls(NOW, UNKNOWN), order="s", reason="stop")


@behaviour("a list of calls that is cut off is content", ALL_AT_ONCE)
def _(w: Writer) -> Row:
    said = "".join(w.calls(NOW, PARIS).partition("Pari")[:2])
    return Row(said=(said,), content=said, end="length", order="s")


@behaviour("without tools calls are content")
def _(w: Writer) -> Row:
    return Row(said=(w.calls(PARIS),), content=w.calls(PARIS), tools=False, reason="stop")


@behaviour("where no call may be made calls are content")
def _(w: Writer) -> Row:
    return Row(said=(w.calls(PARIS),), content=w.calls(PARIS), choice="none", reason="stop")


# --- what a grammar guarantees


@behaviour("a call that must come")
def _(w: Writer) -> Row:
    return Row(said=(w.calls(PARIS),), calls=(PARIS,), choice="required")


@behaviour("a call without arguments that must come")
def _(w: Writer) -> Row:
    return Row(said=(w.calls(NOW),), calls=(NOW,), choice="required")


@behaviour("thoughts before a call that must come", THINKS)
def _(w: Writer) -> Row:
    said = w.answer(w.thought("why"), w.calls(PARIS))
    return Row(said=said, thoughts="why", calls=(PARIS,), choice="required", order="tc")


@behaviour("a call that must come and that length cuts off gives what there is")
def _(w: Writer) -> Row:
    return Row(said=w.halves()[:1], calls=(PARIS,), choice="required", end="length", cut=True)


@behaviour("a call that must come and that length cuts off before its name is nothing", TAGGED)
def _(w: Writer) -> Row:
    head = f"{w.forms.section.open}{w.forms.head('get_weather')}"
    return Row(said=(head[: head.index("get_") + 2],), choice="required", end="length")


def rows(dialect: Dialect) -> Iterator[tuple[Behaviour, Row | None]]:
    """Every behaviour for a family; None where it can't have it."""
    writer = Writer(dialect)
    for one in TABLE.values():
        yield one, None if one.lacks(writer) else one.row(writer)
