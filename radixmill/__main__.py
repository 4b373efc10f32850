"""The command line: `radixmill serve | chat | complete | replay | verify | bench | pull | models | doctor`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from radixmill import __version__
from radixmill.core.errors import CannotStart

STARTED = time.monotonic()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 well, 1 the work failed, 2 the command was wrong or cannot start."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return _dispatch(argv)
    except CannotStart as error:
        _tell(f"radixmill: error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


def launch_server(argv: Sequence[str]) -> int:
    """`serve` with SGLang's flags."""
    from radixmill import compat

    try:
        return _serve(compat.config_from(compat.parser().parse_args(argv)))
    except CannotStart as error:
        _tell(f"launch_server: error: {error}")
        return 2


def _tell(line: str) -> None:
    from radixmill.observe.log import tell

    tell(line)


# Commands import what they need themselves, so that `radixmill --help` and the supervisor stay light.


def _dispatch(argv: Sequence[str]) -> int:
    if argv[:1] == ["bench"]:
        from radixmill import bench
        from radixmill.store.files import bench_record

        return bench.main(list(argv[1:]), bench_record())
    args = _parser(argv[:1]).parse_args(argv)
    run = getattr(args, "run", None)
    if run is None:
        _parser([]).print_help()
        return 2
    code: int = run(args)
    return code


def _parser(command: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="radixmill",
        description="Serve open-weight language models behind the OpenAI API.",
        epilog="`radixmill serve` starts the embedded model on http://127.0.0.1:30000. `radixmill COMMAND --help` tells more.",
    )
    parser.add_argument("--version", action="version", version=f"radixmill {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    serve = commands.add_parser("serve", help="start a server", description="Start an OpenAI-compatible server.")
    serve.set_defaults(run=_serve_command)
    if command == ["serve"]:
        from radixmill.cli import add_flags

        add_flags(serve)
    _add_talkers(commands)
    _add_checkers(commands, command)
    pull = commands.add_parser(
        "pull", help="fetch a model", description="Fetch a model of the catalogue or the hub into the cache."
    )
    pull.add_argument("model", help="a short name of the catalogue (see `radixmill models`) or a hub id")
    pull.add_argument("--revision", help="branch, tag or commit of a hub id")
    pull.set_defaults(run=_pull_command)
    models = commands.add_parser("models", help="list the catalogue and what is cached")
    models.set_defaults(run=_models_command)
    doctor = commands.add_parser(
        "doctor", help="what this machine can do, which kernel serves which op, and how a model's answers are read"
    )
    doctor.add_argument("model", nargs="?", help="show how its thoughts and tool calls are read, and the proof")
    doctor.add_argument("--chat-template", metavar="FILE", help="a template to use instead of its own")
    doctor.add_argument("--tokenizer", metavar="PATH", help="where its tokenizer is, if not with it")
    doctor.add_argument("--reasoning-parser", metavar="NAME", default="auto", help="try this parser of thoughts")
    doctor.add_argument("--tool-call-parser", metavar="NAME", default="auto", help="try this parser of tool calls")
    doctor.set_defaults(run=_doctor_command)
    commands.add_parser("bench", help="load a server and print a table", add_help=False)
    return parser


def _add_talkers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, about in (("chat", "chat with a running server"), ("complete", "let a running server continue a text")):
        talk = commands.add_parser(name, help=about, description=about.capitalize() + "; the answer is streamed.")
        talk.add_argument("text", nargs="*" if name == "chat" else "+", help="what to say; without it, a conversation")
        talk.add_argument("--url", default="http://127.0.0.1:30000", help="the server (default: %(default)s)")
        talk.add_argument("--api-key", default="", help="its key, if it asks for one")
        talk.add_argument("--max-tokens", type=int, help="most tokens of an answer")
        talk.add_argument("--temperature", type=float, help="0 takes the most likely token")
        talk.add_argument("--seed", type=int, help="same seed, same answer")
        talk.set_defaults(run=_talk_command, kind=name)


def _add_checkers(commands: argparse._SubParsersAction[argparse.ArgumentParser], command: Sequence[str]) -> None:
    replay = commands.add_parser(
        "replay",
        help="compute a recorded request again and compare",
        description="Compute the request of a record again and compare every token. Exit code 0: the same; 1: not; 2: it"
        " can't be done, as with another numerics id.",
    )
    replay.add_argument("file", metavar="FILE", help="a record, or a whole answer that has one")
    replay.add_argument("--from", dest="given", type=int, default=0, metavar="K", help="resume behind K output tokens")
    replay.add_argument("--json", action="store_true", help="print the result as JSON")
    replay.set_defaults(run=_replay_command)
    verify = commands.add_parser(
        "verify",
        help="check a signed receipt",
        description="Check a receipt: its signature, then its hashes against the record and the model's files, then by"
        " computing the request again. Exit code 0: all is right; 1: something is not; 2: it can't be checked.",
    )
    verify.add_argument("receipt", metavar="RECEIPT", help="a receipt, or a whole answer that has one")
    verify.add_argument("--record", metavar="FILE", help="its record; default: the one in the same answer")
    whose = verify.add_mutually_exclusive_group()
    whose.add_argument("--key", metavar="FILE", help="the server's public key (PEM)")
    whose.add_argument("--url", help="the server, to ask it for its public key")
    verify.add_argument("--api-key", default="", help="the server's API key, if it asks for one")
    verify.add_argument("--no-run", action="store_true", help="don't compute the request again")
    verify.add_argument(
        "--no-model", action="store_true", help="look at signature and record only; the model is not needed"
    )
    verify.set_defaults(run=_verify_command)
    if command in (["replay"], ["verify"]):
        from radixmill.cli import add_flags

        add_flags(
            replay if command == ["replay"] else verify,
            positional_model=False,
            sections=("model", "compute", "cache"),
        )


def _replay_command(args: argparse.Namespace) -> int:
    from radixmill import replay

    return replay.main(args)


def _verify_command(args: argparse.Namespace) -> int:
    from radixmill import verify

    return verify.main(args)


def _serve_command(args: argparse.Namespace) -> int:
    from radixmill.cli import config_from

    return _serve(config_from(args))


def _serve(config: object) -> int:
    from radixmill import launch, store
    from radixmill.core.config import Config
    from radixmill.observe import log

    assert isinstance(config, Config)
    log.setup("supervisor", config.server.log_level, quotes=config.server.log_prompts)
    files = store.find(config.model.model, revision=config.model.revision)
    return launch.serve(config, files, STARTED)


def _talk_command(args: argparse.Namespace) -> int:
    from radixmill import talk

    return talk.main(args)


def _pull_command(args: argparse.Namespace) -> int:
    from radixmill.store import cli

    return cli.pull_command(args.model, revision=args.revision)


def _models_command(args: argparse.Namespace) -> int:
    from radixmill.store import cli

    return cli.models_command()


def _doctor_command(args: argparse.Namespace) -> int:
    from radixmill import doctor
    from radixmill.core.config import ModelOptions

    if args.model is None:
        return doctor.main()
    given = ("model", "chat_template", "tokenizer", "reasoning_parser", "tool_call_parser")
    return doctor.main(ModelOptions(**{name: getattr(args, name) for name in given}))


if __name__ == "__main__":
    sys.exit(main())
