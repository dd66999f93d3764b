"""`experiments.train` as a process: a run killed with SIGKILL at several moments reproduces the uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from osp_jax import statistics_files
from osp_jax.loading import load_workdir
from tests.experiments.conftest import ROOT, environment

EPOCHS = 6
FLAGS = [
    f"--config.training.epochs={EPOCHS}",
    "--config.training.batch_size=32",
    "--config.model.width=4",
    "--config.data.exclude=3,4,5,6,7,8,9",
    "--config.data.validation=0.75",
    "--config.statistics.features=20",
]


def command(workdir: Path) -> list[str]:
    return [sys.executable, "-m", "experiments.train", "--config=configs/default.py", f"--workdir={workdir}", *FLAGS]


def finish(workdir: Path) -> None:
    done = subprocess.run(command(workdir), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def kill_when(workdir: Path, moment) -> None:
    """Starts the command and kills it as soon as `moment()` is true."""
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(workdir), cwd=ROOT, env=environment(), **nowhere)
    try:
        while process.poll() is None and not moment():
            time.sleep(0.0005)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before the moment came"


def names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def losses(workdir: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["loss"]) for line in lines]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_like_one_left_alone(tmp_path):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    finish(undisturbed)

    def while_a_checkpoint_is_being_saved() -> bool:
        """After the first: Orbax writes under a longer name and renames."""
        found = [name.isdecimal() for name in names(run / "checkpoints")]
        return any(found) and not all(found)

    kill_when(run, while_a_checkpoint_is_being_saved)
    assert 1 <= max(int(name) for name in names(run / "checkpoints") if name.isdecimal()) < EPOCHS
    kill_when(run, lambda: any("statistics" in name for name in names(run)))  # and while these are written
    finish(run)

    left, right = load_workdir(run), load_workdir(undisturbed)
    jax.tree.map(np.testing.assert_array_equal, left.model.variables, right.model.variables)
    assert losses(run) == losses(undisturbed)
    assert [epoch for epoch, _ in losses(run)] == list(range(1, EPOCHS + 1))
    assert sorted(names(run / "checkpoints")) == sorted(names(undisturbed / "checkpoints")) == ["5", "6"]
    statistics = [statistics_files.load_statistics(workdir / "statistics") for workdir in (run, undisturbed)]
    jax.tree.map(np.testing.assert_array_equal, *statistics)
    assert statistics[0].gates == statistics[1].gates
