"""`radixmill chat` and `radixmill complete`: a small streaming client of any OpenAI-compatible server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx

from radixmill.core.errors import CannotStart


def main(args: argparse.Namespace) -> int:
    """One answer to `args.text`, or a conversation on the terminal."""
    said = " ".join(args.text)
    if args.kind == "complete":
        _show(_stream(args, "completions", {"prompt": said}))
        return 0
    messages: list[dict[str, str]] = []
    while line := said or _ask():
        messages.append({"role": "user", "content": line})
        messages.append(
            {"role": "assistant", "content": _show(_stream(args, "chat/completions", {"messages": messages}))}
        )
        if said:
            break
    return 0


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _show(pieces: Iterator[str]) -> str:
    whole = []
    for piece in pieces:
        whole.append(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    return "".join(whole)


def _stream(args: argparse.Namespace, route: str, body: dict[str, Any]) -> Iterator[str]:
    wishes = {
        name: getattr(args, name) for name in ("max_tokens", "temperature", "seed") if getattr(args, name) is not None
    }
    headers = {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}
    request = {"model": "default", "stream": True, **wishes, **body}
    try:
        with httpx.stream(
            "POST", f"{args.url.rstrip('/')}/v1/{route}", json=request, headers=headers, timeout=None
        ) as answer:
            if answer.status_code != 200:
                answer.read()
                raise CannotStart(f"the server answered {answer.status_code}: {_message(answer)}")
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    yield _text(json.loads(line[6:]))
    except httpx.HTTPError as error:
        raise CannotStart(f"no server answers at {args.url} ({error})", "Start one with `radixmill serve`") from None


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


def _text(chunk: dict[str, Any]) -> str:
    if error := chunk.get("error"):
        raise CannotStart(f"the server broke off: {error.get('message')}")
    choices = chunk.get("choices") or [{}]
    return choices[0].get("text") or (choices[0].get("delta") or {}).get("content") or ""
