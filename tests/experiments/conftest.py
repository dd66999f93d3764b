"""A small trained model, and a way to run commands as a user does: with arguments, for an exit code and two streams."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = [
    "--config=configs/digits.py",
    "--config.model.width=4",
    "--config.training.epochs=2",
    "--config.statistics.features=200",
]

# Many command lines in one process: importing JAX for each would take most of the suite's time.
_DRIVER = """
import contextlib, importlib, io, json, sys
from absl import flags
from absl.testing import flagsaver
from experiments import cli
command, cases = sys.argv[1], json.loads(sys.argv[2])
main = importlib.import_module(command).main
results = []
for arguments in cases:
    saved = flagsaver.save_flag_values()
    flags.FLAGS.unparse_flags()
    sys.argv = [command, *arguments]
    stderr, code = io.StringIO(), 0
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.run(main)
        except SystemExit as error:
            code = error.code
    flagsaver.restore_flag_values(saved)
    results.append([code, stderr.getvalue()])
print(json.dumps(results))
"""


def environment(devices: int = 1) -> dict[str, str]:
    """Ours, with nothing that would send a command to data or a network outside the test."""
    given = {key: value for key, value in os.environ.items() if key != "TFDS_DATA_DIR"}
    return given | {"JAX_NUM_CPU_DEVICES": str(devices)}


def run_command(module: str, *arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    """`python -m module arguments`, in the repository."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=300, check=False
    )


def run_cases(module: str, cases: list[list[str]]) -> list[tuple[int, str]]:
    """(exit code, stderr) of `module` for each list of arguments."""
    command = [sys.executable, "-c", _DRIVER, module, json.dumps(cases)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return [(code, stderr) for code, stderr in json.loads(done.stdout.splitlines()[-1])]


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
    """The workdir of a two-epoch ResNet-8 of width 4 on digits."""
    workdir = tmp_path_factory.mktemp("commands") / "model"
    done = run_command("experiments.train", f"--workdir={workdir}", *TINY)
    assert done.returncode == 0, done.stderr
    return workdir
