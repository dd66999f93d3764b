"""Malformed input: every call ends in one line and exit code 2, in seconds, and harms nothing."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults import server
from benchmarks.faults.artifacts import copy_of, module_of
from benchmarks.faults.trees import harm, snapshot

SECONDS = 10.0  # the most that an answer may take

_PROGRESS = ("epoch ", "class statistics in ")
_OUTPUTS = ("--out=", "--dir=")  # of every command; --workdir= of these
_WRITE_WORKDIRS = ("train", "import_model", "benchmark", "paper", "federated", "flower")


@dataclasses.dataclass(frozen=True)
class Case:
    """A call with something wrong in it.

    Attributes:
      start: what it needs of the template.
      spoil: changes the folder of the trial before.
      before: called in the child before the command, for limits and rights.
      may_work: the command may also do its work, without harm: a user without a home, for example.
      own: what it wrote earlier and may change; names that begin so.
      late: it fails amid its work, so that lines of progress may come before the one line.
    """

    name: str
    command: str
    arguments: tuple[str, ...]
    start: tuple[str, ...] = ()
    spoil: Callable[[Path], None] | None = None
    before: Callable[[], None] | None = None
    may_work: bool = False
    late: bool = False
    own: tuple[str, ...] = ()


def cases() -> list[Case]:
    from benchmarks.faults import bad_calls, bad_configs, bad_folders, bad_machines, bad_records

    found = [case for part in (bad_configs, bad_calls, bad_records, bad_folders, bad_machines) for case in part.cases()]
    names = [case.name for case in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RuntimeError(f"two cases are called {twice}")
    return found


def trials(
    template: Path, folder: Path, call: server.Call = server.call
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(name, trial) of every case."""
    for case in cases():
        yield f"malformed/{case.name}", lambda case=case: one_case(case, template, folder, call)


def one_case(case: Case, template: Path, folder: Path, call: server.Call = server.call) -> dict[str, Any]:
    place = copy_of(
        template, folder, {"foreign": 0, "plain": 0, "circle": 0, "circle_too": 0} | dict.fromkeys(case.start)
    )
    if case.spoil is not None:
        case.spoil(place)
    before = snapshot(place)
    ended = call(module_of(case.command), case.arguments, place, case.before)
    harmed = harm(before, snapshot(place), outputs(case))
    # A command that goes on with a run or a result of its own changes it.
    harmed = [found for found in harmed if not found.startswith(tuple(f"changed {name}" for name in case.own))]
    outcome, good = malformed_outcome(ended, harmed, case)
    line = " ".join([case.command, *(argument[:200] for argument in case.arguments)])
    line = line.encode("utf-8", "backslashreplace").decode()
    return {"command": line, "outcome": outcome, "good": good, "seconds": ended.seconds, "message": ended.stderr[-500:]}


def outputs(case: Case) -> list[str]:
    """What the command was asked to write."""
    flags = (*_OUTPUTS, "--workdir=") if case.command in _WRITE_WORKDIRS else _OUTPUTS
    return [*case.own] + [a.partition("=")[2] for a in case.arguments if a.startswith(flags) and a.partition("=")[2]]


def malformed_outcome(ended: server.Ended, harmed: list[str], case: Case) -> tuple[str, bool]:
    """(outcome, whether it is good)."""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    if case.late:
        lines = [line for line in lines if not line.startswith(_PROGRESS)]
    if ended.code is None:
        return "hangs", False
    if harmed:
        return f"harm: {os.fsencode(harmed[0]).decode('utf-8', 'backslashreplace')[:200]}", False
    if "Traceback" in ended.stderr:
        return "traceback", False
    if ended.code == 0:
        return ("works", True) if case.may_work else ("accepted", False)
    if ended.code != 2:
        return f"exit code {ended.code}", False
    if len(lines) != 1:
        return f"{len(lines)} lines", False
    if ended.seconds >= SECONDS:
        return "takes too long", False
    return "refused", True
