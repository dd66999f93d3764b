"""Flags of all commands: invalid paths, numbers and names are refused with one line before anything is loaded."""

import importlib.util
from pathlib import Path

import pytest

from tests.experiments.conftest import ROOT, assert_one_line_error, run_cases

FOLDERS = {
    "train": ["workdir", "tensorboard"],
    "import_model": ["workdir"],
    "prepare": ["workdir"],
    "unlearn": ["workdir", "out"],
    "eval": ["workdir", "reference", "original", "shadows"],
    "sweep": ["workdir", "out"],
    "shadows": ["workdir", "out"],
    "audits": ["evaluations", "out"],
    "orthogonality": ["models", "out"],
    "benchmark": ["workdir"],
    "export": ["workdir"],
    "paper": ["workdir"],
    "federated": ["workdir"],
    "flower": ["workdir"],
}
NUMBERS = {
    "import_model": ["image_size"],
    "prepare": ["seed", "retain_per_class", "forget_per_class"],
    "unlearn": ["seed", "retain_per_class", "forget_per_class"],
    "eval": ["draws"],
    "sweep": ["seed"],
    "shadows": ["epochs"],
    "paper": ["minutes"],
    "flower": ["seed", "minutes"],
}
NAMES = {"sweep": ["methods"], "benchmark": ["methods", "seeds"], "paper": ["entries"]}


def cases_of(command: str, folder: Path) -> list[list[str]]:
    (folder / "file").touch()
    (folder / "circle").symlink_to("circle")
    paths = [
        "",
        " ",
        folder / "file",
        folder / "file" / "below",
        folder / "circle",
        folder / ("x" * 300),
        "x" * 5000,
    ]
    cases = [[f"--{flag}={path}"] for flag in FOLDERS.get(command, []) for path in paths]
    numbers = ["", "-1", "nan", "inf", "1e99", "9" * 30, "1.5.1", "x" * 5000]
    cases += [[f"--{flag}={number}"] for flag in NUMBERS.get(command, []) for number in numbers]
    cases += [[f"--{flag}={names}"] for flag in NAMES.get(command, []) for names in ("", ",", "a,a", "a,,b")]
    several = [["--patience=0"], ["--num_processes=0"], ["--process_id=-1"]]
    return [*cases, *several, ["--nothing"], ["--help_me"], ["a\x1b[2Jb"], ["a\nb"], ["a\udc80b"]]


@pytest.mark.parametrize("command", [*FOLDERS, "tables"])
def test_a_flag_that_cannot_be_is_refused_and_named(command, tmp_path):
    cases = cases_of(command, tmp_path)
    for case, (code, stderr) in zip(cases, run_cases(f"experiments.{command}", cases), strict=True):
        assert_one_line_error(code, stderr)
        assert stderr.count("\n") == 1, case
        assert len(stderr) < 1000, case
        if case[0].startswith("--"):
            assert case[0].partition("=")[0].lstrip("-") in stderr
    assert {path.name for path in tmp_path.iterdir()} == {"file", "circle"}


def test_every_command_is_among_those_above():
    commands = {path.stem for path in (ROOT / "experiments").glob("*.py") if importlib.util.find_spec("experiments")}
    assert commands - {"__init__", "__main__", "cli"} == {*FOLDERS, "tables"}
