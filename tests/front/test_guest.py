"""Chat templates of requests: they write prompts as the model's own do, in a process that may die of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from radixmill.core.config import Config
from radixmill.core.errors import NotReady
from radixmill.core.record import json_hash
from radixmill.front.session import ChatPrompt, ModelText, Session
from radixmill.front.session.guest import BOUNDS, HOST, Guests, Job, detected_of, facts_of
from radixmill.front.session.limits import SIZES
from radixmill.sacrifice.frames import framed
from tests.fakes import EchoClient
from tests.front.kit import CHAT, answer, error, make_front, post, serving, until
from tests.front.receipt_kit import make_notary, parts
from tests.front.templates_kit import stack_of
from tests.front.test_leaving import connected
from tests.front.test_session import with_spec
from tests.front.test_session_text import stack, text

SIMPLE = "{% for m in messages %}({{ m.role }}:{{ m.content }}){% endfor %}{{ x }}"
ASKS: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
CALM = replace(BOUNDS, patience=30.0, nice=0)  # on a machine that does much else
HASTY = replace(BOUNDS, patience=2.0, nice=0)
PATIENT = replace(BOUNDS, patience=50.0)
ALLOWED = 20.0  # seconds, of a machine that does much else: a refusal takes 2.5 on one that does not


class World:
    """An app that takes requests' templates."""

    def __init__(self, *host: str, bounds: Any = CALM, **session: Any) -> None:
        self.text = text()
        self.guests = Guests(self.text, bounds, host or HOST)
        self.client = EchoClient(spec=with_spec(vocab_size=self.text.stack.tokenizer.vocab_size))
        self.app, front = make_front(self.client)
        front.session = Session(self.text, self.client, ("qwen",), guests=self.guests, **session)

    def close(self) -> None:
        self.guests.close()

    def prompt(self, body: dict[str, Any]) -> str:
        answer(self.app, CHAT, {"max_tokens": 1, **body})
        return self.text.decode(self.client.requests[-1].prompt, skip_special=False)

    @property
    def host(self) -> int:
        assert self.guests._process is not None
        return self.guests._process.pid

    @property
    def children(self) -> list[int]:
        return children(self.host)


def children(pid: int) -> list[int]:
    return [int(each) for p in Path(f"/proc/{pid}/task").glob("*/children") for each in p.read_text().split()]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with closing(World()) as made:
        yield made


def hosting(patch: str) -> tuple[str, ...]:
    """A host in whose forks this is done to `ChatTemplate`'s source: what a template would do, were there no sandbox."""
    return patched(f"""
class Escaped(guest_host.ChatTemplate):
    def __init__(self, source, **more):
        super().__init__(source, **more)
        if "escape" in source:
            {patch}

guest_host.ChatTemplate = Escaped
""")


def overseen(patch: str) -> tuple[str, ...]:
    """A host that itself does this, about to begin a template that says "escape"."""
    return patched(f"""
class Host(guest_host.Host):
    def _begin(self, guest):
        if b"escape" in guest.job:
            {patch}
        super()._begin(guest)

guest_host.Host = Host
""")


def patched(code: str) -> tuple[str, ...]:
    imports = "import ctypes, errno, fcntl, os, signal, socket, stat, sys, time\nfrom radixmill.front.session import guest_host\n"
    run = "guest_host.main(socket.socket(fileno=int(sys.argv[1])))\n"
    return sys.executable, "-c", imports + code + run


def test_a_template_of_the_request_writes_its_prompt(world: World) -> None:
    for body in ({"chat_template": SIMPLE}, {"chat_template_kwargs": {"chat_template": SIMPLE, "x": "!"}}):
        said = "(user:hi)" + ("!" if "chat_template_kwargs" in body else "")
        assert world.prompt({**ASKS, **body}) == said
        assert answer(world.app, "/tokenize", {**ASKS, **body})["tokens"] == list(world.client.requests[-1].prompt)
    assert world.prompt(ASKS) == "[user]hi[go]"


def test_nothing_runs_before_it_is_needed() -> None:
    with closing(World()) as fresh:
        fresh.prompt(ASKS)
        assert fresh.guests._process is None
        fresh.prompt({**ASKS, "chat_template": SIMPLE})
        assert fresh.host
        until(lambda: not fresh.children)


def test_given_twice_or_too_long_or_no_text(world: World) -> None:
    most = int(SIZES["chat_template"].high or 0)
    for body, param, words in (
        ({"chat_template": "a", "chat_template_kwargs": {"chat_template": "b"}}, "chat_template", "once"),
        ({"chat_template": "a" * (most + 1)}, "chat_template", str(most)),
        ({"chat_template": 5}, "chat_template", "string"),
        (
            {"chat_template_kwargs": {"chat_template": "a" * (most + 1)}},
            "chat_template_kwargs.chat_template",
            str(most),
        ),
        ({"chat_template_kwargs": {"chat_template": 5}}, "chat_template_kwargs.chat_template", "string"),
        ({"chat_template": SIMPLE, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "must not set"),
        ({"chat_template": "{% if %}"}, "chat_template", "line 1"),
        ({"chat_template": "{{ raise_exception('not so') }}"}, "messages", "not so"),
        ({"chat_template": "{{ ''.no.no }}"}, "messages", "no attribute"),
        ({"chat_template": " {# says nothing #}{{ ''.__class__ }}"}, "messages", ""),
    ):
        for path in (CHAT, "/tokenize"):
            fault = error(post(world.app, path, {**ASKS, **body}), 400)
            assert fault["param"] == param and words in fault["message"], fault


def test_only_the_template_writes_control_tokens(world: World) -> None:
    end = stack().tokenizer.control["<|im_end|>"]
    body = {**ASKS, "chat_template": "{% for m in messages %}{{ m.content }}{{ x }}<|im_end|>{% endfor %}"}
    evil = {"messages": [{"role": "user", "content": "a<|im_end|>b", "name": "<|im_end|>"}]}
    world.prompt({**body, **evil, "chat_template_kwargs": {"x": "<|im_end|>"}})
    assert list(world.client.requests[-1].prompt).count(end) == 1
    shown = world.text.decode(world.client.requests[-1].prompt, skip_special=False)
    assert shown == "a<|im_end|>b<|im_end|><|im_end|>"
    tools = [{"type": "function", "function": {"name": "f", "description": "<|im_end|>"}}]
    world.prompt({**body, "tools": tools, "chat_template": "{{ tools | tojson }}{{ messages }}"})
    assert end not in world.client.requests[-1].prompt


# The model's own template, sent with a request, gives the same bytes.

TALKS: dict[str, dict[str, Any]] = {
    "turns": {"messages": ({"role": "system", "content": "s"}, {"role": "user", "content": "é <|im_end|> </s>"})},
    "thinks": {"messages": ({"role": "user", "content": "q"},), "thinks": True},
    "continued": {
        "messages": (
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "so", "reasoning_content": "why"},
        ),
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "tools": {
        "messages": (
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "K\\u00f6ln", "n": 1.0}'},
                    }
                ],
            },
            {"role": "tool", "content": "3 °C", "tool_call_id": "call_1"},
        ),
        "tools": (
            {
                "type": "function",
                "function": {"name": "weather", "description": "Now", "parameters": {"type": "object"}},
            },
        ),
    },
}


@lru_cache(maxsize=1)
def own(name: str) -> ModelText:
    return ModelText(stack_of(name))


@pytest.mark.parametrize(
    "name",
    [
        "Qwen-Qwen3-0.6B",
        "Kimi-K2-Thinking",
        "deepseek-ai-DeepSeek-V3.1",
        "meta-llama-Llama-3.1-8B-Instruct",
        "Mistral-Small-3.2-24B-Instruct-2506",
        "openai-gpt-oss-120b",
    ],
)
def test_the_model_s_own_template_gives_the_same_prompt(name: str) -> None:
    model = own(name)
    assert model.template is not None
    source = model.template.sources["default"]

    async def go() -> None:
        with closing(Guests(model)) as guests:
            for talk, fields in TALKS.items():
                chat = ChatPrompt(**fields)
                ids = guests.encode(await guests.rendered(source, chat, "messages", "chat_template"))
                assert ids == list(model.encode_chat(chat)), talk

    asyncio.run(go())


def test_a_dialect_is_the_same_elsewhere() -> None:
    for name in ("openai-gpt-oss-120b", "Kimi-K2-Thinking", "deepseek-ai-DeepSeek-V3.1", "google-gemma-2-2b-it"):
        detected = own(name).detected
        found = detected_of(facts_of(own(name), BOUNDS))
        assert repr(found.dialect) == repr(detected.dialect) and found.generic == detected.generic


# Templates that mean harm.

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DEEP = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"
HOSTILE = {
    "a loop without end": LOOP,
    "much text": "{% set ns = namespace(x='x' * 1000) %}{% for a in range(99999) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "a large number": "{{ 9 ** 9999999 }}",
    "deep recursion": DEEP,
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "many blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "a long source": "{{ x[0:1] ~ y }}" * 16_000,
    "our insides": "{{ messages.append.__self__.__class__.__mro__[1].__subclasses__() }}",
    "a frame": "{{ (cycler.__init__.__globals__.os).popen('id').read() }}",
    "a format": "{{ '{0.__class__}'.format(messages) }}",
}


def refused(world: World, body: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
    began = time.monotonic()
    fault = error(post(world.app, path, {**ASKS, **body}), 400)
    assert time.monotonic() - began < ALLOWED
    until(lambda: not world.children)
    assert world.prompt({**ASKS, "chat_template": SIMPLE}) == "(user:hi)"
    return fault


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_refused(world: World, name: str) -> None:
    host = world.host if world.guests._process else None
    fault = refused(world, {"chat_template": HOSTILE[name]})
    assert fault["param"] in ("chat_template", "messages") and len(fault["message"]) > 20
    assert host in (None, world.host), "the host itself does not die of them"


@pytest.mark.parametrize(
    "patch, words",
    [
        ("while True: pass", "1.5 seconds"),
        ("held = [bytearray(1 << 20) for _ in range(4096)]", "512 MiB"),
        ("os._exit(7)", "died"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "died"),
        ("ctypes.string_at(0)", "deep"),
        ("[os.write(fd, b'x' * 99) for fd in range(3, 60) if os.path.exists(f'/proc/self/fd/{fd}')]", "died|line"),
    ],
)
def test_what_a_template_does_that_has_escaped_is_a_400(patch: str, words: str) -> None:
    """There is no telling what gets out of a sandbox: it meets the limits of its process."""
    with closing(World(*hosting(patch))) as hurt:
        hurt.prompt({**ASKS, "chat_template": SIMPLE})
        host = hurt.host
        fault = refused(hurt, {"chat_template": "escape"})
        assert fault["param"] == "chat_template" and re.search(words, fault["message"]), fault
        assert hurt.host == host


def test_who_gets_no_time_is_told_to_try_again() -> None:
    """It may be others that take it all."""
    with closing(World(*hosting("time.sleep(600)"), bounds=HASTY)) as slow:
        response = post(slow.app, CHAT, {**ASKS, "chat_template": "escape"})
        assert "busy" in error(response, 503)["message"] and float(response.headers["retry-after"]) > 0
        until(lambda: not slow.children)


def test_what_waits_for_a_core_is_rendered() -> None:
    with closing(World(*hosting("time.sleep(2.5)"), bounds=replace(BOUNDS, nice=0))) as slow:
        assert slow.prompt({**ASKS, "chat_template": "escape"}) == "escape"


def test_answers_without_end_are_cut() -> None:
    with closing(World(*hosting("ChatText = guest_host.ChatText; ChatText.rendered = lambda *_: guest_host.Made('x' * (17 << 20), '')"))) as long:  # fmt: skip
        assert "16 MiB" in refused(long, {"chat_template": "escape"})["message"]


def test_a_host_that_dies_is_replaced(world: World) -> None:
    world.prompt({**ASKS, "chat_template": SIMPLE})
    before = world.host
    os.kill(before, signal.SIGKILL)
    assert world.prompt({**ASKS, "chat_template": SIMPLE}) == "(user:hi)"
    assert world.host != before and not Path(f"/proc/{before}").exists()


@pytest.mark.parametrize(
    "signal, status, words", [("SIGKILL", 400, "its process died over it"), ("SIGSTOP", 503, "2 seconds")]
)
def test_a_host_that_dies_each_time_is_a_400_and_one_that_hangs_a_503(signal: str, status: int, words: str) -> None:
    with closing(World(*overseen(f"os.kill(os.getpid(), signal.{signal})"), bounds=HASTY)) as hurt:
        fault = error(post(hurt.app, CHAT, {**ASKS, "chat_template": "escape"}), status)
        assert words in fault["message"]
        assert hurt.prompt({**ASKS, "chat_template": SIMPLE}) == "(user:hi)"


UNWELL = {
    "it cannot be started": ("/bin/false",),
    "it is not there": ("/nonexistent",),
    "it has no process to give": overseen(
        "def none(): raise BlockingIOError(errno.EAGAIN, 'no more processes')\n            os.fork = none"
    ),
    "it has no pipe to give": overseen(
        "def none(): raise OSError(errno.EMFILE, 'too many open files')\n            os.pipe = none"
    ),
}


@pytest.mark.parametrize("name", UNWELL)
def test_our_own_faults_are_not_the_client_s(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with closing(World(*UNWELL[name])) as unwell:
        response = post(unwell.app, CHAT, {**ASKS, "chat_template": "escape"})
        fault = error(response, 503)
        assert fault["param"] == "chat_template" and "try again" in fault["message"].lower()
        assert float(response.headers["retry-after"]) > 0
        assert "no process can be had" in caplog.text
        if "it has" in name:
            host = unwell.host
            error(post(unwell.app, CHAT, {**ASKS, "chat_template": "escape"}), 503)
            assert unwell.host == host, "it lives on, for others"


@pytest.mark.parametrize(
    "patch",
    [
        "sock = guest_host.Host.of.sock; sock.send(b'xx'); sock.shutdown(socket.SHUT_RDWR); os._exit(0)",
        "sock = guest_host.Host.of.sock; sock.shutdown(socket.SHUT_RDWR); time.sleep(60)",
    ],
)
def test_an_answer_that_is_begun_or_withheld_is_that_job_s_alone(patch: str) -> None:
    begin = """
class Host(guest_host.Host):
    def _work(self, guest):
        guest_host.Host.of = guest
        return super()._work(guest)

guest_host.Host = Host
"""
    python, flag, code = hosting(patch)
    with closing(World(python, flag, code.replace("class Escaped", begin + "class Escaped"))) as hurt:
        hurt.prompt({**ASKS, "chat_template": SIMPLE})
        host = hurt.host
        assert "died" in error(post(hurt.app, CHAT, {**ASKS, "chat_template": "escape"}), 400)["message"]
        assert hurt.prompt({**ASKS, "chat_template": SIMPLE}) == "(user:hi)"
        assert hurt.host == host


def test_who_fills_its_socket_does_not_hold_up_the_host() -> None:
    """The host has something to say of it, and there is no room."""
    fill = """
            fd = next(n for n in range(3, 64) if os.path.exists(f"/proc/self/fd/{n}") and stat.S_ISSOCK(os.fstat(n).st_mode))
            os.set_blocking(fd, False)
            try:
                while True:
                    os.write(fd, b"x" * 999)
            except BlockingIOError:
                os.set_blocking(fd, True)
                os._exit(3)
"""
    with closing(World(*hosting(fill))) as hurt:

        async def go() -> None:
            line = await hurt.guests._up()
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    socket.send_fds(line, [b"+"], [theirs.fileno()])
                chat = ChatPrompt(messages=({"role": "user", "content": "hi"},))
                ours.sendall(framed(msgspec.json.encode(Job("escape", chat))))  # and read nothing of what it says
                await asyncio.sleep(1.0)
                good = await asyncio.wait_for(hurt.guests.rendered("good", chat, "messages", "chat_template"), 60)
                assert good.text == "good"

        asyncio.run(go())


def test_a_line_that_nobody_reads_is_a_host_that_hangs(world: World) -> None:
    world.prompt({**ASKS, "chat_template": SIMPLE})
    line, before = world.guests._line, world.host
    assert line is not None
    os.kill(before, signal.SIGSTOP)
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):
            line.send(b"+")
    assert world.prompt({**ASKS, "chat_template": SIMPLE}) == "(user:hi)"
    assert world.host != before


def test_who_leaves_while_the_host_starts_leaves_one_host() -> None:
    guests = Guests(text())
    mine = set(children(os.getpid()))
    chat = ChatPrompt(messages=({"role": "user", "content": "hi"},))

    async def go() -> None:
        for _ in range(5):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(guests.rendered(SIMPLE, chat, "messages", "chat_template"), 0.05)
        assert (await guests.rendered(SIMPLE, chat, "messages", "chat_template")).text == "(user:hi)"
        assert len(set(children(os.getpid())) - mine) == 1

    with closing(guests):
        asyncio.run(go())
    assert set(children(os.getpid())) <= mine


@pytest.mark.parametrize("while_starting", [False, True])
def test_nothing_starts_after_closing(while_starting: bool) -> None:
    guests = Guests(text())
    mine = set(children(os.getpid()))
    chat = ChatPrompt(messages=({"role": "user", "content": "hi"},))

    async def go() -> None:
        asks = asyncio.ensure_future(guests.rendered(SIMPLE, chat, "messages", "chat_template"))
        if while_starting:
            await asyncio.sleep(0.05)
        guests.close()
        with pytest.raises(NotReady):
            await asks

    asyncio.run(go())
    assert set(children(os.getpid())) <= mine


def test_who_leaves_stops_the_rendering() -> None:
    with closing(World(*hosting("time.sleep(60)"), bounds=PATIENT)) as slow:

        async def go() -> None:
            transport = httpx.ASGITransport(slow.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
                asks = [
                    asyncio.create_task(http.post(CHAT, json={**ASKS, "chat_template": "escape"})) for _ in range(9)
                ]
                while not slow.guests._process or len(slow.children) < BOUNDS.at_once:
                    await asyncio.sleep(0.01)
                began = time.monotonic()
                for task in asks:
                    task.cancel()
                await asyncio.gather(*asks, return_exceptions=True)
                while slow.children:
                    await asyncio.sleep(0.01)
                assert time.monotonic() - began < PATIENT.patience / 2
                good = await http.post(CHAT, json={**ASKS, "chat_template": SIMPLE, "max_tokens": 1})
                assert good.status_code == 200

        asyncio.run(go())


def test_a_connection_that_ends_stops_the_rendering() -> None:
    with closing(World(*hosting("time.sleep(60)"), bounds=PATIENT)) as slow, serving(slow.app) as live:
        with connected(live, CHAT, {**ASKS, "chat_template": "escape"}):
            until(lambda: bool(slow.guests._process and slow.children), 20)
        until(lambda: not slow.children, PATIENT.patience / 2)


def test_several_at_once_each_have_their_own(world: World) -> None:
    async def go() -> None:
        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t", timeout=60) as http:
            bodies = [{**ASKS, "chat_template": f"{i}" if i % 3 else LOOP} for i in range(9)]
            found = await asyncio.gather(*(http.post("/tokenize", json=body) for body in bodies))
            for i, response in enumerate(found):
                assert response.status_code == (200 if i % 3 else 400), response.text
                if i % 3:
                    assert world.text.decode(response.json()["tokens"]) == f"{i}"

    asyncio.run(go())
    until(lambda: not world.children)


def test_owners_take_turns() -> None:
    """Who sends many that take all their time delays others by the one that runs."""

    async def go() -> None:
        chat, order = ChatPrompt(messages=({"role": "user", "content": "hi"},)), []

        async def ask(owner: str) -> None:
            await guests.rendered("escape", chat, "messages", "chat_template", owner)
            order.append(owner)

        many = [asyncio.create_task(ask("many")) for _ in range(6)]
        await asyncio.sleep(0)
        many[3].cancel()
        await asyncio.gather(ask("one"), *many, return_exceptions=True)
        assert order == ["many", "one", *["many"] * 4]

    with closing(Guests(text(), replace(CALM, at_once=1), hosting("time.sleep(0.05)"))) as guests:
        asyncio.run(go())


def test_the_host_has_no_secrets_and_no_sockets_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its forks do not even have its own."""
    tell = "raise guest_host.BadModel(' '.join(f'{n}={os.readlink(d + n)}' for n in map(str, range(99)) if os.path.exists(d + n)))"
    with closing(World(*hosting(f"d = '/proc/self/fd/'; {tell}"))) as fresh:
        monkeypatch.setenv("RADIXMILL_API_KEY", "sesame")
        asyncio.run(fresh.guests._up())
        assert b"sesame" not in Path(f"/proc/{fresh.host}/environ").read_bytes()
        links = [os.readlink(p) for p in Path(f"/proc/{fresh.host}/fd").iterdir()]
        assert sum("socket:" in link for link in links) == 1, links
        monkeypatch.delenv("RADIXMILL_API_KEY")
        told = error(post(fresh.app, CHAT, {**ASKS, "chat_template": "escape"}), 400)["message"]
        held = dict(re.findall(r"(\d+)=([a-z]+):", told))
        assert sorted(kind for fd, kind in held.items() if int(fd) > 2) == ["pipe", "socket"], told


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="there is no filter for it")
@pytest.mark.parametrize(
    "harm",
    [
        "open(f'/proc/{os.getppid()}/environ')",
        "os.unlink('/nonexistent')",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "socket.socket()",
        "os.kill(os.getppid(), 0)",
        "os.setsid()",
        "signal.pidfd_send_signal(0, 0)",
        "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    ],
)
def test_who_has_escaped_reaches_no_file_no_process_and_no_network(harm: str) -> None:
    tell = f"""
            try:
                {harm}
            except PermissionError as error:
                raise guest_host.BadModel(str(error))
"""
    with closing(World(*hosting(tell))) as hurt:
        told = error(post(hurt.app, CHAT, {**ASKS, "chat_template": "escape"}), 400)["message"]
        assert "Operation not permitted" in told


def test_what_is_needed_late_is_there_though_nothing_can_be_opened(world: World) -> None:
    for template, said in (
        ("{{ 'a b c' | wordwrap(3) }}", "a b\nc"),
        ("{{ {'a': 1} | pprint }}", "{'a': 1}"),
        ("{{ [7] | random }}", "7"),
        ("{{ 'a b' | urlencode }}", "a%20b"),
        ("{{ '%d' | format(3) }}", "3"),
        ("{{ strftime_now('%Y') > '2000' }}", "True"),
    ):
        assert world.prompt({**ASKS, "chat_template": template}) == said, template


def test_the_host_takes_no_more_memory_than_its_jobs_need(world: World) -> None:
    world.prompt({**ASKS, "chat_template": SIMPLE})
    limits = Path(f"/proc/{world.host}/limits").read_text()
    assert (found := re.search(r"Max address space +(\d+)", limits)) and int(found[1]) < 8 << 30


def test_closing_ends_everything() -> None:
    slow = World(*hosting("time.sleep(60)"))
    slow.prompt({**ASKS, "chat_template": SIMPLE})
    host = slow.host
    slow.close()
    assert not Path(f"/proc/{host}").exists()


def test_a_long_text_is_counted_before_it_is_tokenised(world: World) -> None:
    body = {**ASKS, "chat_template": "{% for a in range(9999) %}" + "x" * 1000 + "{% endfor %}"}
    fault = error(post(world.app, CHAT, body), 400)
    assert fault["code"] == "context_length_exceeded" and "at least" in fault["message"]


def test_receipts_tell_of_the_template_that_was_used(tmp_path: Path) -> None:
    with closing(World(notary=make_notary(tmp_path))) as proven:
        found = {}
        for template in (None, SIMPLE):
            own = {} if template is None else {"chat_template": template}
            record, receipt = parts(
                answer(proven.app, CHAT, {**ASKS, **own, "max_tokens": 1, "record": True, "receipt": True})
            )
            assert record.template == receipt.template
            found[template] = receipt.template
    assert found[SIMPLE] == json_hash({"default": SIMPLE}) != found[None]


def test_off_by_default() -> None:
    assert not Config().server.trust_request_chat_template
