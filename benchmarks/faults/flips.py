"""One byte changed in each file that a command reads: it must be refused with one line, or repaired with a warning."""

import dataclasses
import functools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults import server
from benchmarks.faults.artifacts import TRAIN, contents_of, copy_of, module_of, results_of
from benchmarks.faults.kills import Scenario
from benchmarks.faults.trees import flip


@dataclasses.dataclass(frozen=True)
class Reader:
    """A command that reads `damaged`, a folder of the template, and the patterns of the files that it reads."""

    scenario: Scenario
    damaged: str
    files: tuple[str, ...] = ("**/*",)

    def paths(self, folder: Path) -> list[Path]:
        found = {path for pattern in self.files for path in (folder / self.damaged).glob(pattern) if path.is_file()}
        # Leftovers of an interrupted run are removed unread.
        return sorted(path for path in found if path.stat().st_size and ".osp_jax/" not in str(path))


_OSP_FIT = ("--workdir=model", "--forget=3", "--accept", "--out=new")
_LAST = ("*", "statistics/**/*", "checkpoints/2/*", "checkpoints/2/variables/**/*")
READERS = (
    Reader(Scenario("unlearn of a model", "unlearn", _OSP_FIT, ("model",), "new", contents_of), "model", _LAST),
    Reader(
        Scenario(
            "train, resumed", "train", (*TRAIN, "--workdir=unfinished"), ("unfinished",), "unfinished", contents_of
        ),
        "unfinished",
    ),
    Reader(
        Scenario("train, finished before", "train", (*TRAIN, "--workdir=model"), ("model",), "model", contents_of),
        "model",
        ("*", "statistics/**/*"),
    ),
    Reader(
        Scenario(
            "eval of a result",
            "eval",
            ("--workdir=unlearned", "--audit=none"),
            ("model", "unlearned"),
            "unlearned",
            contents_of,
        ),
        "unlearned",
        ("*", "checkpoints/**/*"),
    ),
    Reader(
        Scenario(
            "second unlearn",
            "unlearn",
            ("--workdir=unlearned", "--forget=5", "--accept", "--out=new"),
            ("model", "unlearned"),
            "new",
            contents_of,
        ),
        "unlearned",
    ),
    Reader(
        Scenario("audits", "audits", ("--evaluations=audits", "--out=new"), ("audits",), "new", results_of),
        "audits/one",
        ("eval.json", "report.md", "report.html", "SHA256SUMS"),
    ),
    Reader(
        Scenario(
            "sweep, resumed",
            "sweep",
            ("--workdir=model", "--methods=logit-mask", "--out=sweep_unfinished"),
            ("model", "sweep_unfinished"),
            "sweep_unfinished",
            results_of,
        ),
        "sweep_unfinished",
    ),
    Reader(
        Scenario(
            "shadows, finished before",
            "shadows",
            ("--workdir=model", "--forget=3", "--number=4", "--epochs=1", "--out=shadows"),
            ("model", "shadows"),
            "shadows",
            lambda folder: {},
        ),
        "shadows",
    ),
)


def trials(
    template: Path, folder: Path, number: int, call: server.Call = server.call, ask: Callable = server.ask
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(name, trial) of at least `number` flips: every file of every reader at least once, others at random."""
    each = -(-number // len(READERS))

    @functools.cache
    def reference(scenario: Scenario) -> dict[str, Any]:
        return undamaged(scenario, template, folder, call, ask)

    for reader in READERS:
        for index, (path, offset, bits) in enumerate(places(reader.paths(template), each)):
            where = os.path.relpath(path, template), offset, bits

            def trial(where: tuple[str, int, int] = where, reader: Reader = reader) -> dict[str, Any]:
                return one_flip(reader.scenario, reference(reader.scenario), template, folder, *where, call, ask)

            yield f"flips/{reader.scenario.name}/{index:03d}", trial


def places(paths: Sequence[Path], number: int) -> list[tuple[Path, int, int]]:
    """(file, offset, bits to flip): each file once, then random ones up to `number`."""
    drawn = random.Random(0)
    chosen = [*paths, *(drawn.choice(paths) for _ in range(number - len(paths)))]
    return [(path, drawn.randrange(_bytes_read(path)), drawn.randrange(1, 256)) for path in chosen]


def _bytes_read(path: Path) -> int:
    """The bytes of a file that are read: of a log, those in its newest checkpoint; a resumed run drops the rest."""
    copies = path.parent.glob("checkpoints/*/metrics.jsonl") if path.name == "metrics.jsonl" else ()
    return min(path.stat().st_size, max((copy.stat().st_size for copy in copies), default=path.stat().st_size))


def undamaged(
    scenario: Scenario, template: Path, folder: Path, call: server.Call = server.call, ask: Callable = server.ask
) -> dict[str, Any]:
    """The result of the command for undamaged files.

    Raises:
      RuntimeError: it failed.
    """
    place = copy_of(template, folder, scenario.start)
    ended = call(module_of(scenario.command), scenario.arguments, place, limit=300)
    if ended.code != 0:
        raise RuntimeError(f"{scenario.line} ended with {ended.code}: {ended.stderr[-2000:]}")
    return {"contents": ask(scenario.read, place, scenario.target), "stdout": ended.stdout}


def one_flip(
    scenario: Scenario,
    known: dict[str, Any],
    template: Path,
    folder: Path,
    name: str,
    offset: int,
    bits: int,
    call: server.Call = server.call,
    ask: Callable = server.ask,
) -> dict[str, Any]:
    """Damages one byte of the file `name`, and runs the command."""
    place = copy_of(template, folder, scenario.start)
    flip(place / name, offset, bits)
    ended = call(module_of(scenario.command), scenario.arguments, place)
    contents = ask(scenario.read, place, scenario.target) if ended.code == 0 else None
    outcome, good = flip_outcome(ended, known, contents)
    place = {"command": scenario.line, "file": name, "offset": offset, "bits": bits}
    return {**place, "outcome": outcome, "good": good, "seconds": ended.seconds, "message": ended.stderr[-500:]}


def flip_outcome(ended: server.Ended, known: dict[str, Any], contents: dict[str, Any] | None) -> tuple[str, bool]:
    """(outcome, whether it is good). Without a warning even the same result is silent: the damage stays."""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    if ended.code is None:
        return "hangs", False
    if "Traceback" in ended.stderr:
        return "traceback", False
    if ended.code == 2:
        errors = [line for line in lines if line.startswith("error: ")]
        return ("refused", True) if errors == lines[-1:] else ("refused in other than one line", False)
    if ended.code != 0:
        return f"exit code {ended.code}", False
    if contents != known["contents"]:
        return "silent, another result", False
    if any(line.startswith("warning: ") for line in lines):
        return "made good with a warning", True
    return "silent, same result", False
