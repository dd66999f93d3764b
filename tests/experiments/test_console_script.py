"""`osp-jax COMMAND`: every command as a subcommand, listed without importing what the commands need."""

import subprocess
import sys

import pytest

from experiments.__main__ import COMMANDS
from tests.experiments.conftest import ROOT, assert_one_line_error, environment, run_process

MODULES = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__", "__main__", "cli", "tables"}


def test_every_command_is_a_subcommand():
    assert {name.replace("-", "_") for name in COMMANDS} == MODULES


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2)])
def test_help_lists_each_command_on_one_line_of_a_terminal(arguments, code):
    done = run_process("experiments", *arguments)
    assert (done.returncode, done.stderr) == (code, "")
    lines = done.stdout.splitlines()
    for name in COMMANDS:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line) <= 120
        assert line.endswith(".")


def test_help_needs_no_numerical_library():
    program = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from experiments.__main__ import main\n"
        "try: main()\n"
        "finally: assert not {'jax', 'numpy', 'flax', 'absl'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("given", "nearest"), [("unlern", "unlearn"), ("evaluate", "eval"), ("import", "import-model")]
)
def test_an_unknown_command_is_refused_with_the_nearest(given, nearest):
    done = run_process("experiments", given)
    assert_one_line_error(done.returncode, done.stderr)
    assert f"did you mean {nearest}?" in done.stderr


@pytest.mark.parametrize("name", ["import-model", "import_model"])
def test_a_subcommand_is_the_command(name):
    alone, below = run_process("experiments.import_model", "--help"), run_process("experiments", name, "--help")
    assert (below.returncode, below.stdout, below.stderr) == (0, alone.stdout, "")


def test_an_error_of_a_subcommand_is_one_line(tmp_path):
    done = run_process("experiments", "eval", f"--workdir={tmp_path / 'nothing'}")
    assert_one_line_error(done.returncode, done.stderr)
    assert str(tmp_path / "nothing") in done.stderr
