"""Bodies of the Messages API with one thing in them replaced: an answer or a 400 in Anthropic's shape, never a 500."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import tests.fakes
from tests.fakes import EchoClient
from tests.front.anthropic_kit import COUNT, MESSAGES, TOOL, fault
from tests.front.kit import call, install, make_front, says

APP, FRONT = make_front()
SPEC = replace(tests.fakes.SPEC, context=4096)  # room for the least budget of thoughts
RICH: dict[str, Any] = {
    "model": "echo",
    "max_tokens": 1100,
    "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "a", "citations": None},
                {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "text", "text": "sun"}],
                    "is_error": True,
                }
            ],
        },
    ],
    "tools": [
        {**TOOL, "strict": True, "input_examples": [{"city": "Oslo"}]},
        {**TOOL, "name": "other", "type": "custom"},
    ],
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
    "output_config": {"effort": "low"},
    "metadata": {"user_id": "me"},
    "stop_sequences": ["halt"],
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "logit_bias": {"3": 1.0},
    "stream": False,
    "mcp_servers": [],
    "chat_template_kwargs": {"x": 1},
}
JUNK = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        -1,
        1.5,
        1e300,
        2**63,
        2**64,
        "",
        "x",
        "text",
        "tool_use",
        "tool_result",
        "thinking",
        "image",
    ]
    + [
        [],
        [None],
        [[]],
        ["x"],
        {},
        {"type": "text"},
        {"type": "none"},
        {"type": "disabled"},
        {"x": {"y": []}},
        "�",
        "\u0000",
    ]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in `value` but itself."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


PLACES = sorted(places(RICH), key=repr)


def replaced(path: tuple[Any, ...], junk: Any, *, drop: bool) -> dict[str, Any]:
    body = copy.deepcopy(RICH)
    *way, last = path
    at: Any = body
    for key in way:
        at = at[key]
    if drop:
        del at[last]
    else:
        at[last] = junk
    return body


@given(st.sampled_from(PLACES), JUNK, st.booleans(), st.sampled_from([MESSAGES, COUNT]))
@settings(max_examples=600, deadline=None)
def test_one_thing_replaced(path, junk, drop, route):
    engine = EchoClient(says("ok"), spec=SPEC)
    install(FRONT, engine)
    raw = json.dumps(replaced(path, junk, drop=drop))
    response = call(APP, "POST", route, content=raw, headers={"content-type": "application/json"})
    if response.status_code == 404:
        assert path == ("model",)
    elif response.status_code != 200:
        assert fault(response, 400, "invalid_request_error")
    assert FRONT.session is not None and FRONT.session.live == 0


def test_the_body_itself_is_good():
    install(FRONT, EchoClient(says("ok"), spec=SPEC))
    assert call(APP, "POST", MESSAGES, json=RICH).status_code == 200
    assert call(APP, "POST", COUNT, json=RICH).status_code == 200
