"""`experiments.train` as a process: killed with SIGKILL at several moments, it ends as if it never was."""

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

from osp_jax import checkpoint
from osp_jax.workdir import load_workdir

ROOT = Path(__file__).parents[2]
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
    done = subprocess.run(command(workdir), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def kill_when(workdir: Path, moment) -> None:
    """Starts the command and kills it as soon as `moment()` is true."""
    process = subprocess.Popen(command(workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(workdir)
    return workdir


def test_a_run_killed_again_and_again_ends_like_one_left_alone(undisturbed, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    kill_when(tmp_path / "run", lambda: any(name.isdecimal() for name in names(checkpoints)))
    first = max(int(name) for name in names(checkpoints) if name.isdecimal())
    assert first < EPOCHS

    # While something is being saved: Orbax writes under a longer name and renames.
    leftovers = set(names(checkpoints))
    kill_when(
        tmp_path / "run",
        lambda: any(not name.isdecimal() and name not in leftovers for name in names(checkpoints)),
    )
    assert not (tmp_path / "run" / "statistics").exists()

    # While the statistics are being written, after the last epoch.
    kill_when(tmp_path / "run", lambda: any(name.startswith("statistics") for name in names(tmp_path / "run")))
    finish(tmp_path / "run")

    left, right = load_workdir(tmp_path / "run"), load_workdir(undisturbed)
    jax.tree.map(np.testing.assert_array_equal, left.variables, right.variables)
    assert losses(tmp_path / "run") == losses(undisturbed)
    assert [epoch for epoch, _ in losses(undisturbed)] == list(range(1, EPOCHS + 1))
    assert sorted(names(checkpoints)) == sorted(names(undisturbed / "checkpoints")) == [str(EPOCHS - 1), str(EPOCHS)]
    statistics = [checkpoint.load_statistics(w / "statistics") for w in (tmp_path / "run", undisturbed)]
    jax.tree.map(np.testing.assert_array_equal, *statistics)
    assert statistics[0].channels == statistics[1].channels


def test_the_same_seed_in_another_process_gives_the_same_model_to_the_bit(undisturbed, tmp_path):
    """The other process is this one, which has run other things before."""
    from ml_collections import ConfigDict

    from osp_jax.data.sources import load_dataset
    from osp_jax.training.loop import train

    trained = load_workdir(undisturbed)
    variables = train(ConfigDict(trained.record["config"]), load_dataset("digits"), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, variables, trained.variables)


def test_bad_settings_on_the_command_line_are_told_in_one_line(tmp_path):
    bad = [*command(tmp_path / "run"), "--config.training.batch_size=100000"]
    done = subprocess.run(bad, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: training.batch_size 100000 exceeds the ")
    assert done.stderr.count("\n") == 1
