"""Where all rooms meet: what each kind of process does, and the command that starts them. The only such file, with llm.py.

Every role runs in a process of its own, a fresh interpreter of this module. `supervise` starts and restarts engines and
fronts; the engine itself starts one that tries grammars, when it first needs it:

    engine ──frames──▶ grammar   what to try (engine/grammar/builder.py)
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from radixmill.core.config import Config
from radixmill.core.errors import CannotStart, ModelChanged, NoRoom
from radixmill.core.spec import ModelSpec
from radixmill.observe import log as logs
from radixmill.store import ModelFiles
from radixmill.supervise import Boot, Supervisor
from radixmill.supervise.boot import first_line, say, send, start_role


def serve(config: Config, files: ModelFiles, started: float) -> int:
    """Run a server until a signal ends it; the exit code."""
    supervisor = Supervisor(config, files, started=started)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


def child_main(control_fd: int) -> int:
    """The other end of `start_role`."""
    for number in (signal.SIGINT, signal.SIGTERM):  # ^C and group-wide signals are the supervisor's business
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    boot = msgspec.json.decode(first_line(control), type=Boot)
    logs.setup(boot.role, boot.config.server.log_level, quotes=boot.config.server.log_prompts)
    try:
        _ROLES[boot.role](boot, control)
        return 0
    except CannotStart as error:
        no_room, changed = isinstance(error, NoRoom), isinstance(error, ModelChanged)
        say(control, event="cannot_start", message=str(error), no_room=no_room, changed=changed)
        return 2


# Each role imports its own room: an engine needs no HTTP, a front no arrays, the supervisor neither.


def _engine_role(boot: Boot, control: socket.socket) -> None:
    from radixmill.device.executor import open_executor
    from radixmill.engine.process import serve as serve_engine
    from radixmill.observe.pulse import EnginePulse

    listener = socket.socket(fileno=boot.listener)
    folder = Path(listener.getsockname()).parent
    pulse = EnginePulse(Path(boot.pulse))
    executor = open_executor(
        boot.config,
        boot.files,
        beats=pulse.word,
        beside=boot.beside,
        promised=boot.promised,
        earlier=boot.earlier,
    )
    spec = executor.spec
    tokens = spec.kv_groups[0].pages * spec.page_size  # from which the next engine's pages of every group follow
    say(control, event="up", tokens=tokens, context=spec.context, bytes=executor.nbytes, identity=spec.identity)
    serve_engine(
        executor,
        executor.config,
        listener,
        watch=control,
        incarnation=boot.incarnation,
        pulse=pulse,
        on_progress=lambda: say(control, event="progress"),
        open_builder=builders(boot.config, boot.files, spec),
    )
    shutil.rmtree(folder, ignore_errors=True)  # we end before the supervisor only if it was killed: it can't tidy up


def _front_role(boot: Boot, control: socket.socket) -> None:
    from radixmill.front.process import Begin
    from radixmill.front.process import serve as serve_front
    from radixmill.observe.pulse import FrontPulse

    listener, pulse = socket.socket(fileno=boot.listener), FrontPulse(Path(boot.pulse))
    begin = Begin(
        boot.config,
        boot.files,
        listener,
        control,
        boot.started,
        boot.number,
        boot.deployment,
        pulse,
        boot.earlier,
    )
    serve_front(begin)


def _grammar_role(boot: Boot, control: socket.socket) -> None:
    from radixmill.engine.grammar import Vocabulary
    from radixmill.engine.grammar.builder import refuse_all
    from radixmill.engine.grammar.builder import serve as serve_builder
    from radixmill.front.text import load_text
    from radixmill.store.texts import check_texts, text_marks

    options = boot.config.model
    try:
        check_texts(boot.texts, text_marks(boot.files, options))
        tokenizer = load_text(boot.files, tokenizer=options.tokenizer).tokenizer
        check_texts(boot.texts, text_marks(boot.files, options))  # they may have changed meanwhile
    except CannotStart as error:
        refuse_all(control, str(error))
        return
    vocabulary = Vocabulary(
        tokens=tuple(map(tokenizer.token_bytes, range(tokenizer.vocab_size))),
        control=frozenset(tokenizer.control.values()) | tokenizer.special_ids,
        eos_ids=boot.eos_ids,
        size=boot.vocab_size,
    )
    serve_builder(control, vocabulary)


_ROLES: dict[str, Callable[[Boot, socket.socket], None]] = {
    "engine": _engine_role,
    "front": _front_role,
    "grammar": _grammar_role,
}


def builders(
    config: Config, files: ModelFiles, spec: ModelSpec
) -> Callable[[], tuple[socket.socket, subprocess.Popen[bytes]]]:
    """What starts a process that tries grammars for a model: the line to it, and the process. Raises OSError where it can't."""
    boot = Boot(
        "grammar",
        config,
        files.name,
        str(files.root),
        files.sha256,
        time.monotonic(),
        vocab_size=spec.vocab_size,
        eos_ids=spec.eos_ids,
        texts=spec.text_marks,
    )

    def open_builder() -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = start_role(boot.role, theirs)
        with contextlib.suppress(OSError):  # it has ended already, as whoever reads the line finds out
            send(ours, boot)
        return ours, process

    return open_builder


if __name__ == "__main__":
    sys.exit(child_main(int(sys.argv[2])))
