"""The command line. Imports nothing heavy: `thalweg --help` and `thalweg show` do not wait for JAX."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import thalweg
from thalweg.arguments import ARGUMENTS
from thalweg.commands import INTERRUPTED
from thalweg.errors import InputError, ThalwegError, suggest

#: What each command does, the module that does it, and an example; `thalweg.arguments` has what it takes.
COMMANDS = {
    "search": ("find the lowest-energy structure of a cluster, crystal or glass", "search", "thalweg search LJ38"),
    "run": ("the same, from a TOML input", "search", "thalweg run input.toml --time 600"),
    "resume": ("go on with a run exactly where it stopped", "search", "thalweg resume thalweg-runs/LJ38-001 --time 600"),
    "init": ("write a commented TOML input", "init", "thalweg init Au55 --potential gupta -o input.toml"),
    "relax": ("relax the structures in a file", "relax", "thalweg relax start.xyz --potential gupta -o relaxed.xyz"),
    "anneal": (
        "simulated annealing of the structures in a file",
        "anneal",
        "thalweg anneal liquid.xyz --potential stillinger-weber",
    ),
    "minimize": (
        "find the lowest point of a function of many variables",
        "minimize",
        "thalweg minimize my_functions:f --dim 1000 --box -100 100",
    ),
    "landscape": (
        "transition states between the minima of a run, and what follows from them",
        "landscape",
        "thalweg landscape thalweg-runs/LJ38-001 --minima 20",
    ),
    "train": (
        "train a learned relaxer or search for a potential, or a network of energies",
        "train",
        "thalweg train learn2hop.toml --out weights.json",
    ),
    "reinforce": (
        "let a builder of molecules learn from several formulas at once",
        "reinforce",
        "thalweg reinforce C4H4O2 C3H6O3 --evaluations 300 --workers 4",
    ),
    "show": ("what a run has found", "show", "thalweg show thalweg-runs/LJ38-001"),
    "export": ("write a run's minima for other programs", "show", "thalweg export thalweg-runs/LJ38-001 minima.extxyz"),
    "bench": ("success rates and costs on problems with known answers", "", "thalweg bench lj38 --seeds 20"),
    "compare": (
        "several methods on one system: success at equal evaluations and at equal CPU time",
        "compare",
        "thalweg compare LJ38 --methods basin-hopping,learned,random --restarts 20 --evaluations 50000",
    ),
    "reproduce": ("published tables run again, beside strong baselines", "reproduce", "thalweg reproduce learn2hop --quick"),
    "list": ("the components that inputs can name", "components", "thalweg list generators"),
    "check": ("test a component of your own", "components", "thalweg check my_file:MyPotential"),
}


class Parser(argparse.ArgumentParser):
    """Errors in one line, with a suggestion."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            first = message.split()[2].split("=")[0]
            options = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
            close = suggest(first, options) if first.startswith("-") else ""
            raise InputError(f"unknown argument {first}.{close if close.startswith(' Did') else ''} See `{self.prog} --help`")
        raise InputError(f"{message}; see `{self.prog} --help`")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        # A command's parser must say itself what it does not know, or the message comes from the parser above it.
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(
        prog="thalweg",
        description="Finds the lowest-energy structures of atomic systems: clusters, crystals, glasses, slabs.",
        epilog="example: thalweg search LJ38",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"thalweg {thalweg.__version__}")
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = top.add_subparsers(dest="command", metavar="command", parser_class=Parser)
    for name, (what, _, example) in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            epilog=f"example: {example}",
            parents=[common],
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        ARGUMENTS[name](sub)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors are one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _dispatch(arguments)
    except ThalwegError as error:
        return _report(error, str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        print("\nthalweg: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # a pager or `head` that has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        text = f"{type(error).__name__}: {said}" if said else type(error).__name__
        return _report(error, f"unexpected {text[:300]} (run with --debug for the traceback)", 1, debug)


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise InputError(f'there is no command "{arguments[0]}".{suggest(arguments[0], COMMANDS)}')
    if arguments[:1] == ["bench"]:
        from thalweg.commands.environment import prepare_jax

        prepare_jax()
        return import_module("thalweg.benchmark").main([a for a in arguments[1:] if a != "--debug"])
    top = parser()
    options = top.parse_args(_joined(arguments))
    if options.command is None:
        top.print_help()
        return 0
    module = import_module(f"thalweg.commands.{COMMANDS[options.command][1]}")
    return int(getattr(module, options.command)(options) or 0)


def _joined(arguments: list[str]) -> list[str]:
    """Values that begin with a minus joined to their options: argparse takes those like -300:100 for options.

    Plain numbers it knows, which options of two values need.
    """
    joined: list[str] = []
    for argument in arguments:
        follows = bool(joined) and joined[-1].startswith("--") and "=" not in joined[-1] and joined[-1] != "--box"
        if follows and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _report(error: Exception, text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    line = " ".join(text.split())
    mark = "\x1b[1;31merror\x1b[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else "error"
    print(f"thalweg: {mark}: {line}", file=sys.stderr)
    return code
