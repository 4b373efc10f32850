"""Calls of random tools by a real model: whatever it is asked and however it writes calls, their arguments are valid.

    python -m tests.e2e.tool_calls [--count 100] [--families] [MODEL …]

prints a line for each model and way to ask. A model that is not named: RADIXMILL_TEST_GGUF's, if that is set.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from radixmill.front.dialects.families import FAMILIES
from radixmill.llm import LLM
from tests.e2e.engine_kit import Live
from tests.e2e.tool_schemas import tool

Body = dict[str, Any]
EMBEDDED = "smollm2-135m-instruct"
COUNT = 100
WAYS: dict[str, Body] = {
    "required": {"temperature": 0},
    "required, temperature 1": {"temperature": 1},
    "required, one call": {"temperature": 1, "parallel_tool_calls": False},
}


@dataclass
class Tally:
    """What came of some requests. `cut`: seeds of the answers that max_tokens ended; `wrong`: what was no valid call."""

    asked: int = 0
    calls: int = 0
    cut: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        wrong = f" {len(self.wrong)} WRONG" if self.wrong else ""
        return f"{self.asked} asked, {self.calls} calls, {len(self.cut)} cut {self.cut}, {self.seconds:.0f} s{wrong}"


def required(seed: int, **more: Any) -> Body:
    """A chat that must call one of two random tools."""
    tools = [tool(seed), tool(10_000 + seed)]
    about = f"Call {tools[0]['function']['name']} with arguments of your choice."
    body = {"messages": [{"role": "user", "content": about}], "tools": tools, "tool_choice": "required"}
    return {**body, "max_tokens": 512, "seed": seed, **more}


def tally(bodies: Sequence[Body], choices: Iterable[Body]) -> Tally:
    """Judge the answers to calls that were required."""
    out = Tally(asked=len(bodies))
    for body, choice in zip(bodies, choices, strict=True):
        calls = choice["message"].get("tool_calls") or []
        if choice["finish_reason"] == "length":
            out.cut.append(body["seed"])
            calls = calls[:-1]  # the last may be a part
        elif choice["finish_reason"] != "tool_calls" or choice["message"]["content"] is not None or not calls:
            out.wrong.append(f"{body['seed']}: no calls alone: {choice}")
        out.calls += len(calls)
        out.wrong += [f"{body['seed']}: {fault}" for call in calls if (fault := fault_of(body, call))]
    return out


def fault_of(body: Body, call: Body) -> str:
    """Why a call is none of the tools that were given; "": it is one."""
    schemas = {one["function"]["name"]: one["function"].get("parameters") or {} for one in body["tools"]}
    name, text = call["function"]["name"], call["function"]["arguments"]
    if name not in schemas:
        return f"no tool is named {name!r}"
    try:
        judge(schemas[name]).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{text}: {error}"
    return ""


def judge(schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema, format_checker=FORMATS)


FORMATS = jsonschema.FormatChecker(["uuid", "email"])


@FORMATS.checks("date", ValueError)
def is_date(value: Any) -> bool:
    """RFC 3339 has a year 0000, a leap year; Python has none."""
    text = value.replace("0000-", "0400-", 1) if isinstance(value, str) and value.startswith("0000-") else value
    return not isinstance(value, str) or (len(value) == 10 and bool(datetime.date.fromisoformat(text)))


def run(live: Live, bodies: Sequence[Body]) -> Tally:
    """All at once."""
    began = time.monotonic()
    out = tally(bodies, live.chats(bodies))
    out.seconds = time.monotonic() - began
    return out


def by_family(live: Live, count: int) -> dict[str, Tally]:
    """The same model's calls in every family's own form. It was taught none: what it begins to think it must end."""
    found = {}
    for family in FAMILIES:
        rules = {"max_thinking_tokens": 16} if family.think else {}
        with live.writing(family()):
            found[family.__name__] = run(live, [required(seed, temperature=1, **rules) for seed in range(count)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = os.environ.get("RADIXMILL_TEST_GGUF")
    parser.add_argument("models", nargs="*", metavar="MODEL", default=[EMBEDDED, *([named] if named else [])])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--families", action="store_true", help="and 10 tools in every family's form of calls")
    args = parser.parse_args()
    failed = False
    for model in args.models:
        with LLM(model) as llm:
            live = Live(llm)
            rows = {name: run(live, [required(i, **way) for i in range(args.count)]) for name, way in WAYS.items()}
            rows |= by_family(live, 10) if args.families else {}
        print(f"{os.path.basename(model)}")
        for name, row in rows.items():
            print(f"    {name:<24} {row}")
            failed |= bool(row.wrong) or (name in WAYS and len(row.cut) > args.count // 50)
            print("".join(f"        {fault}\n" for fault in row.wrong), end="")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
