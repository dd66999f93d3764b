"""Malformed input: every call must end with one line and exit code 2, within seconds, and without harm."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults import server
from benchmarks.faults.artifacts import copy_of, module_of
from benchmarks.faults.trees import harm, snapshot

SECONDS = 10.0  # time limit of an answer

_PROGRESS = ("epoch ", "class statistics in ")
_OUTPUTS = ("--out=", "--dir=")  # of every command; --workdir= for these
_WRITE_WORKDIRS = ("train", "import_model", "benchmark", "paper", "federated", "flower")


@dataclasses.dataclass(frozen=True)
class Case:
    """A call with invalid input.

    Attributes:
      start: the folders of the template that it needs.
      spoil: changes the folder before the trial.
      before: called in the child before the command, for limits and permissions.
      may_work: whether the command may also succeed without harm, for example for a user without a home.
      own: prefixes of the names of earlier results that it may change.
      late: whether it fails during its work, so that progress lines may precede the error line.
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
    # A command that resumes its own run, or replaces its own result, changes it.
    harmed = [found for found in harmed if not found.startswith(tuple(f"changed {name}" for name in case.own))]
    outcome, good = malformed_outcome(ended, harmed, case)
    line = " ".join([case.command, *(argument[:200] for argument in case.arguments)])
    line = line.encode("utf-8", "backslashreplace").decode()
    return {"command": line, "outcome": outcome, "good": good, "seconds": ended.seconds, "message": ended.stderr[-500:]}


def outputs(case: Case) -> list[str]:
    """The outputs named in the command."""
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
