"""One command in several processes: the results of one, joint stops, resumption, and invalid input."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from osp_jax import statistics_files
from osp_jax.loading import load_workdir
from tests.data.small_records import write_records
from tests.experiments.conftest import ROOT, assert_one_line_error, environment, run_command
from tests.trees import relative

# Small steps: with large ones, rounding that differs from one processor to another parts two trainings within an epoch.
SMALL = (
    "--config=configs/default.py",
    "--config.training.learning_rate=0.01",
    "--config.training.epochs=2",
    "--config.training.batch_size=32",
    "--config.model.width=4",
    "--config.data.exclude=2,3,4,5,6,7,8,9",
    "--config.statistics.features=20",
)


def start(arguments: Sequence[str], devices: int, command: str = "train") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{command}", *arguments],
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_together(
    number: int,
    *arguments: str,
    extra: Sequence[Sequence[str]] = (),
    patience: int = 120,
    devices: int = 1,
    command: str = "train",
) -> list[subprocess.Popen]:
    """`number` processes of `devices` each; `extra` has arguments of each by itself."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator=localhost:{port}", f"--num_processes={number}", f"--patience={patience}"]
    own = extra or [()] * number
    return [start([*arguments, *together, f"--process_id={i}", *own[i]], devices, command) for i in range(number)]


def finish(processes: Sequence[subprocess.Popen], seconds: float = 500) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each; none is left behind."""
    end = time.monotonic() + seconds
    try:
        done = [process.communicate(timeout=max(end - time.monotonic(), 1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *message) for process, message in zip(processes, done, strict=True)]


def run(processes: Sequence[subprocess.Popen]) -> None:
    for code, _, errors in finish(processes):
        assert code == 0, errors


def wait_until(condition: Callable[[], bool], processes: Sequence[subprocess.Popen], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def epochs_in(workdir: Path) -> int:
    """How many were logged."""
    log = workdir / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def distance(one: Path, other: Path) -> float:
    """Between the parameters of two workdirs."""
    return relative(*(load_workdir(workdir).model.variables["params"] for workdir in (one, other)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """Trained by one process with one device."""
    workdir = tmp_path_factory.mktemp("alone") / "model"
    run([start([*SMALL, f"--workdir={workdir}"], devices=1)])
    return workdir


@pytest.mark.parametrize(("number", "devices"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_several_processes_end_where_one_does_and_the_first_alone_speaks(number, devices, alone, tmp_path):
    workdir = tmp_path / "model"
    done = finish(start_together(number, *SMALL, f"--workdir={workdir}", devices=devices))
    assert [code for code, *_ in done] == [0] * number, [errors for *_, errors in done]
    assert ["trained" in message for _, message, _ in done] == [True] + [False] * (number - 1)
    assert distance(alone, workdir) < 1e-4
    mine, its = (
        [json.loads(line) for line in (w / "metrics.jsonl").read_text().splitlines()] for w in (workdir, alone)
    )
    assert [line["step"] for line in mine] == [line["step"] for line in its]
    statistics = [statistics_files.load_statistics(w / "statistics") for w in (workdir, alone)]
    counts, others = (next(iter(found.layers.values())).count for found in statistics)
    np.testing.assert_array_equal(counts, others)


@pytest.mark.slow
def test_what_is_streamed_is_read_by_two_processes_as_by_one(tmp_path):
    """Each reads the rows of its own devices, random crops included."""
    write_records(tmp_path)
    asked = {"name": "imagenet2012", "dir": tmp_path, "image_size": 32, "stream": True, "crop": "resized", "pad": 0}
    settings = [*SMALL, *(f"--config.data.{name}={value}" for name, value in asked.items())]
    settings += ["--config.data.exclude=", "--config.training.batch_size=8", "--config.training.learning_rate=0.001"]
    run([start([*settings, f"--workdir={tmp_path / 'one'}"], devices=1)])
    run(start_together(2, *settings, f"--workdir={tmp_path / 'two'}"))
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-4


@pytest.mark.slow
def test_requests_and_audits_of_two_processes_answer_as_those_of_one(alone, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    ask = [f"--workdir={alone}", "--forget=0", "--method=ssd", "--retain_per_class=50", "--accept"]
    run([start([*ask, f"--out={one}"], 1, "unlearn")])
    run([start([f"--workdir={one}"], 1, "eval")])
    run(start_together(2, *ask, f"--out={two}", command="unlearn"))
    done = finish(start_together(2, f"--workdir={two}", command="eval"))
    assert [code for code, *_ in done] == [0, 0], [errors for *_, errors in done]
    assert ["evaluated" in message for _, message, _ in done] == [True, False]
    assert distance(one, two) < 1e-4
    mine, its = (json.loads((folder / "eval.json").read_text())["unlearned"] for folder in (two, one))
    for name in ("test_retain_accuracy", "test_forget_accuracy", "train_retain_accuracy"):
        assert mine[name] == pytest.approx(its[name], abs=0.01)
    assert mine["measures"].keys() == its["measures"].keys()


@pytest.mark.slow
def test_when_one_is_killed_the_others_stop_within_their_patience_and_the_run_goes_on(tmp_path):
    workdir, longer = tmp_path / "model", "--config.training.epochs=40"
    both = start_together(2, *SMALL, longer, f"--workdir={workdir}", patience=20)
    wait_until((workdir / "checkpoints" / "1").exists, both)
    both[1].kill()
    (code, _, errors), _ = finish(both, seconds=60)
    assert code != 0
    assert "another task died" in errors
    log = workdir / "metrics.jsonl"
    before = log.read_text().splitlines()
    assert 1 <= len(before) < 40
    run([start([*SMALL, longer, f"--workdir={workdir}"], devices=1)])
    after = log.read_text().splitlines()
    assert after[0] == before[0]
    assert [json.loads(line)["epoch"] for line in after] == list(range(1, 41))


@pytest.mark.slow
def test_sigterm_to_one_saves_and_ends_all_and_the_same_command_goes_on_to_the_same_end(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    longer = ("--config.training.epochs=12", "--config.checkpoint.every=100")
    run(start_together(2, *SMALL, *longer, f"--workdir={whole}"))
    both = start_together(2, *SMALL, *longer, f"--workdir={stopped}")
    wait_until(lambda: epochs_in(stopped) >= 2, both)
    time.sleep(0.1)  # as a rule into an epoch; the same has to hold at its end
    both[1].send_signal(signal.SIGTERM)
    for code, _, errors in finish(both):
        assert code == 143, errors
        assert "run the same command to resume" in errors
    assert not (stopped / "statistics").exists()
    run(start_together(2, *SMALL, *longer, f"--workdir={stopped}"))
    assert distance(whole, stopped) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 8), (8, 1)])
def test_a_run_goes_on_with_other_devices(before, after, alone, tmp_path):
    """With two devices: in two processes, four in all."""
    arguments = [*SMALL, f"--workdir={tmp_path / 'model'}"]
    first = start_together(2, *arguments, devices=2) if before == 2 else [start(arguments, devices=before)]
    wait_until(lambda: epochs_in(tmp_path / "model") >= 1, first)
    first[0].send_signal(signal.SIGTERM)
    for code, _, errors in finish(first):
        assert code in (0, 143), errors  # 0: it had ended
    run([start(arguments, devices=after)])
    assert distance(alone, tmp_path / "model") < 1e-4


# Bad input.


def assert_one_line_each(done: Sequence[tuple[int, str, str]], *words: str) -> None:
    for code, _, errors in done:
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert (code, len(lines)) == (2, 1), errors
        assert all(word in lines[0] for word in words), lines


@pytest.mark.slow
def test_processes_of_different_settings_say_so_on_each(tmp_path):
    others = [["--config.seed=1"], ["--config.seed=2"]]
    done = finish(start_together(2, *SMALL, f"--workdir={tmp_path / 'model'}", extra=others))
    assert_one_line_each(done, "different commands")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_devices_that_do_not_divide_a_batch_are_reported_on_each(tmp_path):
    arguments = [*SMALL, f"--workdir={tmp_path / 'model'}", "--config.training.batch_size=30"]
    done = finish(start_together(2, *arguments, devices=2))
    assert_one_line_each(done, "batch_size 30", "4 devices")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--coordinator=localhost:1", "--process_id=1", "--patience=1"], ["localhost:1", "--patience"]),
        (["--coordinator=head", "--process_id=1"], ["HOST:PORT"]),
        (["--coordinator=localhost:1", "--process_id=2"], ["--process_id"]),
    ],
    ids=["no coordinator comes", "none is named", "numbers do not fit"],
)
def test_a_process_that_cannot_join_says_so(arguments, words, tmp_path):
    done = run_command("experiments.train", *SMALL, f"--workdir={tmp_path / 'model'}", "--num_processes=2", *arguments)
    assert_one_line_error(done.returncode, done.stderr, *words)
    assert not (tmp_path / "model").exists()
