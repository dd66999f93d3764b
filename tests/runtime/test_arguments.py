"""Benchmarks and the preparation of data answer invalid arguments with one line, as the commands do."""

import importlib
import sys
from pathlib import Path

import pytest

from osp_jax.runtime.errors import exit_on_input_error
from tests.experiments.conftest import assert_one_line_error

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "cli.run(main)" in path.read_text(encoding="utf-8")
)


def answer(monkeypatch, capsys, main, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as leaving:
        exit_on_input_error(main)
    return leaving.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_refuses_bad_flags_before_it_measures(name, monkeypatch, capsys, tmp_path):
    main = importlib.import_module(f"benchmarks.{name}").main
    text = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    cases = [["--nothing"], ["--json="], [f"--json={tmp_path}"], ["--json=a\x1bb"], ["stray"], ["--json=" + "x" * 5000]]
    for flag in ("size", "batch", "images", "batch_size", "calls", "in_turn", "number", "epochs", "passes", "steps"):
        if f'"--{flag}"' in text:
            cases += [[f"--{flag}={value}"] for value in ("0", "-1", "nan", "1.5", "", "1" * 30, "x" * 100_000)]
    for flag in ("model", "models", "classes"):
        if f'"--{flag}"' in text:
            cases += [[f"--{flag}={value}"] for value in ("", "nothing", "1,1", ",", "-1")]
    for case in cases:
        code, message = answer(monkeypatch, capsys, main, *case)
        assert_one_line_error(code, message)
        assert len(message) < 1000
        assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name"),
        (["cifar10", "--nothing"], "--nothing"),
        (["cifar10", "more"], "more"),
        (["cifar10", "--dir="], "empty"),
        (["cifar10", "--dir=" + "x" * 10_000], "too long"),
        (["cifar10\x1b[2J"], "control characters"),
        (["../no such set", "--dir=nowhere"], "unknown data set"),
    ],
)
def test_the_preparation_of_data_refuses_bad_arguments(arguments, words, monkeypatch, capsys):
    from osp_jax.data import prepare

    assert_one_line_error(*answer(monkeypatch, capsys, prepare.main, *arguments), words)
