"""Injects faults into the commands and counts the outcomes.

python -m benchmarks.faults --json=results/reliability.json [--kinds=kills,flips,malformed] [--minutes=N]

Each trial's outcome is kept in --scratch; the same command resumes the remaining ones of the same commit. The exit code
is 1 if an outcome is bad.
"""

import fcntl
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults import server

KINDS = ("kills", "flips", "malformed")
Trial = Callable[[], dict[str, Any]]


def main() -> int:
    import argparse

    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write all trials there")
    arguments.add_argument("--kinds", default=",".join(KINDS), help="which faults, separated by commas")
    arguments.add_argument("--minutes", type=float, default=1e6, help="time limit; run the same command to resume")
    arguments.add_argument("--scratch", type=Path, default=Path("runs/faults"), help="folder of the trials")
    arguments.add_argument("--kills", type=int, default=240, help="at least this many")
    arguments.add_argument("--flips", type=int, default=240, help="at least this many")
    arguments.add_argument("--only", default="", help="only trials whose name contains this")
    flags = arguments.parse_args()
    kinds = flags.kinds.split(",")
    if unknown := sorted(set(kinds) - set(KINDS)):
        arguments.error(f"unknown kind {unknown[0]!r}; choose from {', '.join(KINDS)}")
    scratch = flags.scratch.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    lock = (scratch / "lock").open("w")  # held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        arguments.error(f"another process works in {scratch}; give another --scratch")
    server.start(scratch / "cache")

    from benchmarks.faults import artifacts, flips, kills, malformed, summary

    artifacts.make_all(scratch / "template")
    given = scratch / "template", scratch / "trial"
    listed = {
        "kills": lambda: kills.trials(*given, flags.kills),
        "flips": lambda: flips.trials(*given, flags.flips),
        "malformed": lambda: malformed.trials(*given),
    }
    end = time.monotonic() + 60 * flags.minutes
    done = Kept(scratch / "trials.jsonl", server.ask(_commit, scratch))
    names = []
    for kind in kinds:
        for name, trial in listed[kind]():
            if flags.only not in name:
                continue
            names.append(name)
            if name not in done.trials and time.monotonic() < end:
                done.add(name, judged(trial))
    found = [done.trials[name] for name in names if name in done.trials]
    print(summary.text(found))
    if flags.json is not None:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        complete = len(found) == len(names)
        server.ask(_write, Path.cwd(), str(flags.json), {"complete": complete, "trials": list(map(_short, found))})
    if len(found) < len(names):
        print(f"{len(names) - len(found)} trials are left; run the same command to resume")
    return int(any(trial["good"] is False for trial in found))


def judged(trial: Trial) -> dict[str, Any]:
    """The outcome of a trial; an error of this harness is a bad one."""
    try:
        return trial()
    except Exception as error:  # any error of the harness means that the trial showed nothing good
        return {"outcome": "harness failed", "good": False, "message": f"{type(error).__name__}: {error}"[:1000]}


class Kept:
    """The finished trials of this commit, in a file with one line per trial."""

    def __init__(self, path: Path, commit: str):
        self.path, self.commit = path, commit
        self.trials: dict[str, dict[str, Any]] = {}
        for record in self._lines():
            if record["commit"] == commit:
                self.trials[record["name"]] = record

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:  # cut off when the harness was killed
                continue

    def add(self, name: str, trial: dict[str, Any]) -> None:
        record = {"kind": name.partition("/")[0], "name": name, **trial, "commit": self.commit}
        self.trials[name] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _short(trial: dict[str, Any]) -> dict[str, Any]:
    """A trial as it is published: the output of a command is kept only for bad outcomes."""
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in trial.items()}
    return {key: value for key, value in rounded.items() if key != "message" or not trial["good"]}


def _commit() -> str:
    from osp_jax.runtime.provenance import provenance

    return provenance(0)["commit"]


def _write(path: str, content: dict[str, Any]) -> None:
    from osp_jax.runtime.provenance import provenance
    from osp_jax.runtime.workdir import write_json

    write_json(Path(path), {**content, "provenance": provenance(0)})


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command to resume")
