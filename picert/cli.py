"""The command line: reads flags, then loads the one module that does the work.

`--help` must not wait for torch, so what a command does is loaded only when it is run: `_run` below
is the only place that imports by name. Every PicertError ends here as one line on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, NoReturn, get_args

from picert import __version__
from picert.commands.flags import (
    CLOUD_FLAGS,
    DOCTOR_FLAGS,
    EDGE_FLAGS,
    GENERATE_FLAGS,
    add_flags,
    add_sampling_flags,
)
from picert.commands.simulate_flags import add_simulate_flags
from picert.errors import ConfigError, InvalidRequest, ModelNotFound, PicertError
from picert.messages import Route

DEMO_QUESTION = "What are the most effective ways to deal with stress?"
_CLOUD_MODEL = "qwen2.5-coder-1.5b-instruct"
_EDGE_MODELS = ("qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct")
_URL = "http://127.0.0.1:8000"
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """argparse ends the process with a page of usage; we end it with one line, like any other
    error.
    """

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}: see `{self.prog} --help`")


@dataclass(frozen=True, slots=True)
class _Command:
    """One command: what it is for, its flags, and `module:function` that runs it."""

    summary: str
    usage: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    target: str


def main(argv: Sequence[str] | None = None) -> int:
    """`picert`; returns the exit code."""
    return _guarded(lambda: _main(sys.argv[1:] if argv is None else list(argv)))


def cloud_main(argv: Sequence[str] | None = None) -> int:
    """`picert-cloud`; returns the exit code."""
    return _guarded(lambda: _run("picert-cloud", _CLOUD, argv))


def edge_main(argv: Sequence[str] | None = None) -> int:
    """`picert-edge`, and `picert-edge doctor`; returns the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["doctor"]:
        return _guarded(lambda: _run("picert-edge doctor", _DOCTOR, given[1:]))
    return _guarded(lambda: _run("picert-edge", _EDGE, given))


def _main(argv: list[str]) -> int:
    if argv and argv[0] in _COMMANDS:
        return _run(f"picert {argv[0]}", _COMMANDS[argv[0]], argv[1:])
    listing = "\n".join(f"  {name:<10}{c.summary}" for name, c in _COMMANDS.items())
    parser = _Parser(
        prog="picert",
        usage="picert COMMAND [flags]",
        description="Progressive LLM inference over cloud and edge.",
        epilog=f"commands:\n{listing}\n\n`picert COMMAND --help` tells the rest; the servers are "
        "`picert-cloud` and `picert-edge`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"picert {__version__}")
    parser.add_argument("command", choices=tuple(_COMMANDS), metavar="COMMAND", help="see below")
    if not argv:
        parser.print_help()
        return EXIT_BAD_INPUT
    parser.parse_args(argv)
    raise AssertionError("a known command was not run")


def _run(program: str, command: _Command, argv: Sequence[str] | None) -> int:
    parser = _Parser(
        prog=program,
        usage=f"{program} {command.usage}",
        description=command.summary,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"picert {__version__}")
    command.add_flags(parser)
    flags = parser.parse_args(argv)
    module, _, name = command.target.partition(":")
    run: Callable[[argparse.Namespace], int] = getattr(import_module(module), name)
    return run(flags)


def _guarded(command: Callable[[], int]) -> int:
    """Run a command; what it raises on purpose becomes one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal without some character is no reason to stop
    try:
        code = command()
        sys.stdout.flush()
        return code
    except PicertError as error:
        sys.stderr.write(f"error: {' '.join(error.message.split())}\n")
        return EXIT_BAD_INPUT if isinstance(error, InvalidRequest | ModelNotFound) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


# --- flags ----------------------------------------------------------------------------------------


def _check_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object")
    _add_int(parser, "--threads", "to measure with (default: the cores this process may use)")


def _pull_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="a name that `picert list` shows, a Hugging Face id (org/repo), or a path"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _list_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _demo_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--question", default=DEMO_QUESTION, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--cloud-model", default=_CLOUD_MODEL, help="(default: %(default)s)")
    parser.add_argument(
        "--edge-model",
        action="append",
        dest="edge_models",
        help=f"one edge for each; repeatable (default: {' and '.join(_EDGE_MODELS)})",
    )
    parser.set_defaults(default_edge_models=_EDGE_MODELS)
    _add_int(parser, "--max-tokens", "of an answer (default: %(default)s)", 400)
    _add_int(parser, "--threads", "of the cloud (default: all cores it may use; an edge has one)")


def _ask_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question")
    parser.add_argument("--url", default=_URL, help="of the cloud (default: %(default)s)")
    _add_api_key(parser)
    routes = get_args(Route)
    parser.add_argument("--route", choices=routes, default="auto", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object, when all is there")
    add_sampling_flags(parser)


def _add_api_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api-key", metavar="KEY", help="that the cloud asks for (default: $PICERT_API_KEY)"
    )


def _generate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt")
    parser.add_argument("--chat", action="store_true", help="the prompt is a user's turn in a chat")
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show text as it comes, not when it is complete",
    )
    add_sampling_flags(parser)
    add_flags(parser, GENERATE_FLAGS)


def _report_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", help="what `bench_pice.py --json` printed")
    parser.add_argument("--out", default="report.html", help="the page (default: %(default)s)")


def _cloud_flags(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    add_flags(parser, CLOUD_FLAGS)


def _edge_flags(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    add_flags(parser, EDGE_FLAGS)


def _doctor_flags(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    add_flags(parser, DOCTOR_FLAGS)


def _top_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=_URL, help="of the cloud (default: %(default)s)")
    parser.add_argument(
        "--api-key", metavar="KEY", help="an admin key (default: $PICERT_ADMIN_API_KEY)"
    )
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="(default: %(default)s)"
    )
    parser.add_argument("--once", action="store_true", help="look once and end")


def _keygen_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="to write the secret key to; it must not exist")


def _edge_keys_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("add", "remove", "list"))
    parser.add_argument("key", nargs="?", help="public key of the edge (not for list)")
    parser.add_argument("--name", default="", help="that its edge must bear (default: any)")
    parser.add_argument(
        "--edges-file",
        metavar="FILE",
        help="the cloud's (default: $PICERT_EDGES_FILE, else edges in the config folder)",
    )


def _profile_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        metavar="FILE",
        default="picert-profile.json",
        help="what other models it holds stays in it (default: %(default)s)",
    )
    parser.add_argument(
        "--train-heads",
        metavar="FILE",
        help='also let it answer these questions (JSON lines with "question") and learn from that '
        "what suits a sketch and how long answers are; for a cloud's model, takes minutes",
    )
    add_flags(parser, GENERATE_FLAGS)


def _simulate_flags(parser: argparse.ArgumentParser) -> None:
    add_simulate_flags(parser, _CLOUD_MODEL, ",".join(_EDGE_MODELS))


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Each flag is also a variable (--max-num-seqs is PICERT_MAX_NUM_SEQS) and a key of the "
        "config file. Flags win over variables, variables over the file."
    )
    parser.add_argument("--config", metavar="FILE", help="TOML; its keys are the long flags")


def _add_int(
    parser: argparse.ArgumentParser, name: str, text: str, default: int | None = None
) -> None:
    parser.add_argument(name, type=_positive, default=default, metavar="INT", help=text)


def _positive(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0")


_CLOUD = _Command(
    "serve questions over HTTP with a large model, and give work to the edges that connect",
    "--model MODEL [flags]",
    _cloud_flags,
    "picert.commands.servers:cloud",
)
_EDGE = _Command(
    "connect to a cloud and expand its sketches with one or more small models",
    "--model MODEL [--model MODEL …] [flags]",
    _edge_flags,
    "picert.commands.servers:edge",
)
_DOCTOR = _Command(
    "find out why an edge does not reach its cloud: address, key, version, clock",
    "--cloud ADDRESS [flags]",
    _doctor_flags,
    "picert.commands.keys:doctor",
)
_COMMANDS: Mapping[str, _Command] = MappingProxyType(
    {
        "demo": _Command(
            "one cloud and two edges on this machine, and a question to them",
            "[flags]",
            _demo_flags,
            "picert.commands.demo:run",
        ),
        "ask": _Command(
            "ask a running cloud", "QUESTION [flags]", _ask_flags, "picert.commands.ask:run"
        ),
        "generate": _Command(
            "complete a prompt with one model, without cloud and edges",
            "PROMPT --model MODEL [flags]",
            _generate_flags,
            "picert.commands.generate:run",
        ),
        "profile": _Command(
            "measure how fast a model is here and how sure of its words, for --profile",
            "--model MODEL [flags]",
            _profile_flags,
            "picert.commands.profile:run",
        ),
        "pull": _Command(
            "fetch a model and verify it",
            "MODEL [flags]",
            _pull_flags,
            "picert.commands.models:pull",
        ),
        "list": _Command(
            "the named models, and which are here",
            "[flags]",
            _list_flags,
            "picert.commands.models:listing",
        ),
        "top": _Command(
            "watch a running cloud: edges, queues, routes, rates",
            "[flags]",
            _top_flags,
            "picert.commands.top:run",
        ),
        "keygen": _Command(
            "make the secret key of a cloud or an edge, and print its public key",
            "FILE",
            _keygen_flags,
            "picert.commands.keys:keygen",
        ),
        "edge": _Command(
            "which edges may connect to the cloud; a running one follows at once",
            "add|remove|list [KEY] [flags]",
            _edge_keys_flags,
            "picert.commands.keys:edge",
        ),
        "check": _Command(
            "what this machine can do, and which runners work",
            "[flags]",
            _check_flags,
            "picert.commands.check:run",
        ),
        "simulate": _Command(
            "predict a system of up to 1,000 edges from profiles, under a virtual clock",
            "--profile FILE [flags]",
            _simulate_flags,
            "picert.commands.simulate:run",
        ),
        "report": _Command(
            "one HTML page with plots from a benchmark's lines",
            "FILE [FILE …] [flags]",
            _report_flags,
            "picert.commands.report:run",
        ),
    }
)
