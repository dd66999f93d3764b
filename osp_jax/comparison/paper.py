"""The study of one network on one data set: commands that run one after another, in time slices."""

import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from osp_jax.runtime.errors import InputError


class Step(NamedTuple):
    """A command of `experiments`, with its arguments; if `resumes`, it may be stopped at any moment."""

    name: str
    arguments: tuple[str, ...]
    resumes: bool = True


def steps_of(entry: Any, methods: Sequence[str], folder: Path) -> list[Step]:
    """The steps of an entry of `configs/paper/default.py`, in order; they write to `folder`."""
    original, classes = folder / "original", entry.audited.split(",")
    probes = ("--probes",) if entry.probes else ()
    out = f"--out={folder / 'results' / 'sweep'}"
    sweep = (f"--workdir={original}", f"--methods={','.join(methods)}", out, "--overwrite", *probes)
    config = f"--config={entry.config}"
    steps = [Step("train", (config, f"--workdir={original}")), Step("sweep", sweep)]
    for number in classes:
        retrained, unlearned = folder / "retrained" / number, folder / "unlearned" / number
        steps.append(Step("train", (config, f"--workdir={retrained}", f"--config.data.exclude={number}")))
        request = (f"--workdir={original}", f"--forget={number}")
        for method in methods:
            answer = (
                *request,
                f"--method={method}",
                f"--out={unlearned / method}",
                "--time",
                "--overwrite",
                "--accept",
            )
            steps.append(Step("unlearn", answer, resumes=False))
        asked = [*(f"--workdir={unlearned / method}" for method in methods), f"--reference={retrained}"]
        if entry.shadows:
            shadows = folder / "shadows"
            steps.append(Step("shadows", (*request, f"--number={entry.shadows}", f"--out={shadows}")))
            asked += ["--audit=full", f"--shadows={shadows}"]
        steps.append(Step("eval", (*asked, "--draws=1"), resumes=False))
    audits = (f"--evaluations={folder / 'unlearned'}", f"--out={folder / 'results' / 'audit'}", "--overwrite")
    return [*steps, Step("audits", audits, resumes=False)]


def finished(done: Path, step: Step) -> bool:
    """Whether the folder `done` has the mark of the step."""
    return _mark(done, step).exists()


def run_steps(
    steps: Sequence[Step],
    done: Path,
    seconds: float,
    piece: float,
    on_step: Callable[[str], None],
    prefix: Sequence[str] = (),
) -> bool:
    """Runs the unfinished steps in order, for about `seconds` at most; returns whether all are finished.

    Args:
      done: folder with an empty file for each finished step.
      piece: duration of a full run, in seconds.
      on_step: called with the text of each command before it runs.
      prefix: replaces `python -m experiments.`, for tests.

    Raises:
      InputError: a command failed, or one that does not resume did not finish in a full run.
    """
    done.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    for step in steps:
        if finished(done, step):
            continue
        left = end - time.monotonic()
        if left <= 0:
            return False
        command = [*(prefix or (sys.executable, "-m")), f"experiments.{step.name}", *step.arguments]
        on_step(" ".join([f"experiments.{step.name}", *step.arguments]))
        code = _run(command, left)
        if code is None and not step.resumes and left > 0.9 * piece:
            raise InputError(
                f"experiments.{step.name} did not finish in {piece / 60:.0f} minutes and cannot be continued; "
                "give more with --minutes"
            )
        if code is None:
            return False
        if code:
            raise InputError(f"experiments.{step.name} ended with exit code {code}; see its message above")
        _mark(done, step).touch()
    return True


def _mark(done: Path, step: Step) -> Path:
    """Named after the command, without the location of its folder, so that a changed step runs again."""
    text = " ".join(step.arguments).replace(str(done.parent), "")
    return done / f"{step.name}_{zlib.crc32(text.encode()):08x}"


def _run(command: Sequence[str], seconds: float) -> int | None:
    """Returns the exit code, or None if the command was stopped after `seconds`."""
    process = subprocess.Popen(command)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
