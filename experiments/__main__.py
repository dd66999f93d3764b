"""The console script `osp-jax COMMAND`, and `python -m experiments COMMAND`: every command as a subcommand."""

import ast
import difflib
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from osp_jax.runtime import signals
from osp_jax.runtime.errors import InputError, exit_on_input_error, shown

# In the order in which a user meets them; a name is that of its module, with - for _.
COMMANDS = (
    "train",
    "import-model",
    "unlearn",
    "eval",
    "export",
    "prepare",
    "sweep",
    "benchmark",
    "shadows",
    "audits",
    "orthogonality",
    "federated",
    "flower",
    "paper",
)


def main() -> None:
    """Runs the command that the first argument names, with the arguments that follow it."""
    signals.catch()
    given = sys.argv[1:]
    if not given or given[0] in ("--help", "-help", "-h", "help"):
        exit_on_input_error(print, usage())
        sys.exit(0 if given else 2)
    name = given[0].replace("_", "-")
    if name not in COMMANDS:
        exit_on_input_error(_refuse, given[0])
    sys.argv = [sys.argv[0], *given[1:]]
    runpy.run_module(_module(name), run_name="__main__", alter_sys=True)


def usage() -> str:
    """The commands, each with the first line of its documentation."""
    lines = [
        "usage: osp-jax COMMAND [--FLAG=VALUE ...]",
        "",
        "Makes a trained classifier forget classes, and reports what is left of them.",
        "",
        "commands:",
        *(f"  {name:14} {_summary(name)}" for name in COMMANDS),
        "",
        "osp-jax COMMAND --help lists the flags of a command.",
    ]
    return "\n".join(lines)


def _module(name: str) -> str:
    return f"experiments.{name.replace('-', '_')}"


def _summary(name: str) -> str:
    """The first line of a command's documentation, read without importing the command."""
    text = Path(find_spec(_module(name)).origin).read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)).splitlines()[0]


def _refuse(given: str) -> None:
    nearest = difflib.get_close_matches(given, COMMANDS, n=1, cutoff=0)[0]
    raise InputError(f"unknown command {shown(given)}; did you mean {nearest}? osp-jax --help lists all commands")


if __name__ == "__main__":
    main()
