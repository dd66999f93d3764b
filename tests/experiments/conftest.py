"""A small trained model, and a function that runs commands with arguments, an exit code and two streams."""

import atexit
import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = [
    "--config=configs/digits.py",
    "--config.model.width=4",
    "--config.training.epochs=2",
    "--config.statistics.features=200",
]


def environment(devices: int = 1) -> dict[str, str]:
    """Ours, with nothing that would send a command to data or a network outside the test."""
    # Libraries that a test imports set some for their own process.
    own = {"TFDS_DATA_DIR", "PYTEST_CURRENT_TEST", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}
    own |= {"FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"}
    given = {key: value for key, value in os.environ.items() if key not in own}
    return given | {"JAX_NUM_CPU_DEVICES": str(devices)}


def run_process(module: str, *arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    """`python -m module arguments` in a process of its own, in the repository."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=300, check=False
    )


class Server:
    """A process with one device that runs the commands of all tests (`tests/experiments/server.py`)."""

    def __init__(self) -> None:
        self.environment = environment()
        self._process: subprocess.Popen | None = None

    def run(self, module: str, arguments: Sequence[object], seconds: float) -> subprocess.CompletedProcess:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "tests.experiments.server"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._process = subprocess.Popen(command, cwd=ROOT, env=self.environment, **pipes)
        print(json.dumps([module, [*map(str, arguments)]]), file=self._process.stdin, flush=True)
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            self.stop()
            raise subprocess.TimeoutExpired(module, seconds)
        answer = self._process.stdout.readline()
        assert answer, f"{module} {arguments} ended its process with exit code {self._process.wait()}"
        return subprocess.CompletedProcess(arguments, *json.loads(answer))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


_SERVER = Server()
atexit.register(_SERVER.stop)


def run_command(module: str, *arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    """`python -m module arguments`, in the repository; in a process that other commands ran in where that can be."""
    if devices > 1 or environment() != _SERVER.environment:
        return run_process(module, *arguments, devices=devices)
    return _SERVER.run(module, arguments, seconds=300)


def run_cases(module: str, cases: list[list[str]]) -> list[tuple[int, str]]:
    """(exit code, stderr) of `module` for each list of arguments."""
    return [(done.returncode, done.stderr) for done in (run_command(module, *arguments) for arguments in cases)]


def assert_one_line_error(code: int, stderr: str, *words: str) -> None:
    """Exit code 2, and one line `error: ...` that holds each of `words`."""
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert code == 2, stderr
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    for word in words:
        assert word in lines[0], f"{word!r} is not in: {lines[0]}"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a two-epoch ResNet-8 of width 4 on digits; beside it, in `events`, its TensorBoard files."""
    workdir = tmp_path_factory.mktemp("commands") / "model"
    done = run_command("experiments.train", f"--workdir={workdir}", f"--tensorboard={workdir.parent / 'events'}", *TINY)
    assert done.returncode == 0, done.stderr
    return workdir
