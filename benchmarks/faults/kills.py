"""Kills at each step of a write, and in between: a reader must find all of the old or all of the new content.

A step is a change of the file system by Python in the folder of the trial (opening a file to write, creating, renaming,
linking and removing). The process kills itself right before step n, or some milliseconds after it, while Orbax's
threads write.
"""

import dataclasses
import functools
import mmap
import os
import random
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults import server
from benchmarks.faults.artifacts import TRAIN, contents_of, copy_of, module_of, results_of
from benchmarks.faults.trees import entries

MILLISECONDS = 40  # longest delay of a kill after a step

_CHANGES = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.utime",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command that is killed while it writes.

    Attributes:
      start: the folders of the template that it needs.
      target: the folder that it writes.
      read: reads the target; called in a child.
      resumes: whether an unfinished target is the state of a run in progress, which readers refuse.
    """

    name: str
    command: str
    arguments: tuple[str, ...]
    start: tuple[str, ...]
    target: str
    read: Callable[[str], dict[str, Any]]
    resumes: bool = False

    @property
    def line(self) -> str:
        return f"{self.command} {' '.join(self.arguments)}"


_SWEEP = ("--workdir=model", "--methods=logit-mask,osp", "--out=")
SCENARIOS = (
    Scenario("train", "train", (*TRAIN, "--workdir=new"), (), "new", contents_of, resumes=True),
    Scenario(
        "train, resumed", "train", (*TRAIN, "--workdir=unfinished"), ("unfinished",), "unfinished", contents_of, True
    ),
    Scenario(
        "unlearn", "unlearn", ("--workdir=model", "--forget=3", "--accept", "--out=new"), ("model",), "new", contents_of
    ),
    Scenario(
        "unlearn --overwrite",
        "unlearn",
        ("--workdir=model", "--forget=3", "--method=osp", "--accept", "--out=other", "--overwrite"),
        ("model", "other"),
        "other",
        contents_of,
    ),
    Scenario(
        "eval",
        "eval",
        ("--workdir=unlearned", "--audit=none"),
        ("model", "unlearned"),
        "unlearned",
        contents_of,
    ),
    Scenario(
        "eval over an earlier one",
        "eval",
        ("--workdir=evaluated", "--reference=retrained", "--audit=none"),
        ("model", "retrained", "evaluated"),
        "evaluated",
        contents_of,
    ),
    Scenario("sweep", "sweep", (*_SWEEP[:2], "--out=new"), ("model",), "new", results_of),
    Scenario(
        "sweep --overwrite",
        "sweep",
        (*_SWEEP[:2], "--out=sweep", "--overwrite"),
        ("model", "sweep"),
        "sweep",
        results_of,
    ),
)


def trials(
    template: Path, folder: Path, number: int, call: server.Call = server.call, ask: Callable = server.ask
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(name, trial) of about `number` kills, equally many per scenario, from the template of `make_all`."""
    each = -(-number // len(SCENARIOS))

    @functools.cache
    def reference(scenario: Scenario) -> "Reference":
        return undisturbed(scenario, template, folder, call, ask)

    for index in range(each):
        for scenario in SCENARIOS:

            def trial(index: int = index, scenario: Scenario = scenario) -> dict[str, Any]:
                known = reference(scenario)
                step, delay = moment(index, each, known.steps)
                return kill(scenario, known, template, folder, step, delay, call, ask)

            yield f"kills/{scenario.name}/{index:03d}", trial


@dataclasses.dataclass(frozen=True)
class Reference:
    """An undisturbed run: its number of steps, the state before and after, and the names of its results."""

    steps: int
    old: dict[str, Any]
    new: dict[str, Any]
    names: list[str]


def moment(index: int, number: int, steps: int) -> tuple[int, float]:
    """(step, seconds after it) of a kill: two thirds right before evenly spaced steps, the others some time after."""
    at_steps = min(steps, number - number // 3)
    if index < at_steps:
        return index * steps // at_steps, 0.0
    drawn = random.Random(index)
    return drawn.randrange(steps), drawn.uniform(0, MILLISECONDS / 1000)


def undisturbed(
    scenario: Scenario, template: Path, folder: Path, call: server.Call = server.call, ask: Callable = server.ask
) -> Reference:
    """Runs the scenario twice to its end.

    Raises:
      RuntimeError: it failed, or the two results differ, so that kills cannot be judged.
    """
    found = []
    for _ in range(2):
        place = copy_of(template, folder, scenario.start)
        old = ask(scenario.read, place, scenario.target)
        counter = mmap.mmap(-1, 8)
        ended = call(module_of(scenario.command), scenario.arguments, place, counting(counter, place), limit=300)
        if ended.code != 0:
            raise RuntimeError(f"{scenario.line} ended with {ended.code}: {ended.stderr[-2000:]}")
        new = ask(scenario.read, place, scenario.target)
        found.append(Reference(struct.unpack("q", counter[:8])[0], old, new, entries(place)))
    first, second = found
    if (first.new, first.names) != (second.new, second.names) or "unreadable" in first.new or first.new == first.old:
        differing = [key for key in first.new if first.new[key] != second.new.get(key)]
        raise RuntimeError(f"two runs of {scenario.line} end differently, or in nothing: {differing or first.new}")
    return second


def kill(
    scenario: Scenario,
    known: Reference,
    template: Path,
    folder: Path,
    step: int,
    delay: float,
    call: server.Call = server.call,
    ask: Callable = server.ask,
) -> dict[str, Any]:
    """One kill, a reading afterwards, and a second run of the command."""
    place = copy_of(template, folder, scenario.start)
    module = module_of(scenario.command)
    first = call(module, scenario.arguments, place, killed_at(step, delay, place))
    trial = {"scenario": scenario.name, "command": scenario.line, "step": step, "of": known.steps, "after_s": delay}
    if first.code != -signal.SIGKILL:
        faulty = first.code != 0
        return trial | {"outcome": "failed by itself" if faulty else "not hit", "good": None if not faulty else False}
    state = ask(scenario.read, place, scenario.target)
    outcome = state_outcome(scenario, known, state)
    second = call(module, scenario.arguments, place)
    end = ask(scenario.read, place, scenario.target)
    if outcome == "as it was" or outcome == "under way" or outcome == "finished":
        outcome = end_outcome(known, second, state, end, entries(place)) or outcome
    good = outcome in ("as it was", "under way", "finished")
    return (
        trial
        | {"outcome": outcome, "good": good}
        | ({} if good else {"message": second.stderr[-500:] or str(state)[:500]})
    )


def state_outcome(scenario: Scenario, known: Reference, state: dict[str, Any]) -> str:
    """The state of the target right after a kill."""
    if state == known.new:
        return "finished"
    if state == known.old:
        return "as it was"
    if scenario.resumes and ("unreadable" in state or "absent" in state):
        return "under way"
    if "absent" in state:
        return "lost"
    if "unreadable" in state:
        return "half"
    if scenario.resumes and {k: v for k, v in known.new.items() if k in state} == state:
        return "under way"  # a finished training without statistics yet
    return "mixed"


def end_outcome(
    known: Reference, second: server.Ended, state: dict[str, Any], end: dict[str, Any], names: list[str]
) -> str | None:
    """The problem after the second run of the command; None without one."""
    refused = second.code == 2 and "exists" in second.stderr and state == known.new
    if second.code != 0 and not refused:
        return "does not go on"
    if end != known.new:
        return "another end"
    return f"left {sorted(set(names) - set(known.names))[0]}" if set(names) - set(known.names) else None


# In the child: counting the steps, and killing


def on_change(react: Callable[[str, str], None], place: Path) -> Callable[[], None]:
    """Call it in a child: makes it call `react(event, path)` before each change in `place`."""
    inside = os.path.realpath(place) + os.sep

    def hook(event: str, given: tuple) -> None:
        if event not in _CHANGES or not given or not isinstance(given[0], str | bytes | os.PathLike):
            return
        if event == "open" and not (isinstance(given[2], int) and given[2] & _WRITING):
            return
        path = os.path.abspath(os.fsdecode(given[0]))
        if path.startswith(inside):
            react(event, path)

    return lambda: sys.addaudithook(hook)


def counting(counter: mmap.mmap, place: Path) -> Callable[[], None]:
    """Counts the steps of a run in memory shared by parent and child."""
    lock = threading.Lock()

    def react(event: str, path: str) -> None:
        with lock:
            counter[:8] = struct.pack("q", struct.unpack("q", counter[:8])[0] + 1)

    return on_change(react, place)


def killed_at(step: int, delay: float, place: Path) -> Callable[[], None]:
    """Kills the child right before a step, counted from 0, or `delay` seconds after it began."""
    seen = iter(range(sys.maxsize))

    def react(event: str, path: str) -> None:
        if next(seen) == step:
            if delay:
                threading.Timer(delay, _kill).start()
            else:
                _kill()

    return on_change(react, place)


def killed_when(reached: Callable[[str, str], bool], place: Path) -> Callable[[], None]:
    """Kills the child right before the first change that is `reached(event, path)`."""

    def react(event: str, path: str) -> None:
        if reached(event, path):
            _kill()

    return on_change(react, place)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
