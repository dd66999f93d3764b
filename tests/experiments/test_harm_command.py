"""`experiments.unlearn` writes no model that the request harms, unless the harm is accepted."""

import json
from pathlib import Path

import pytest

from tests.experiments.conftest import run_command


def ask(trained: Path, out: Path, *options: str):
    return run_command("experiments.unlearn", f"--workdir={trained}", "--forget=3", f"--out={out}", *options)


def harm_of(out: Path) -> dict:
    return json.loads((out / "unlearn.json").read_text())["harm"]


@pytest.mark.parametrize("option", ["--option=amount=1", "--option=layers=all"])
def test_harm_is_refused_in_one_line_and_nothing_is_written(option, trained, tmp_path):
    done = ask(trained, tmp_path / "out", "--method=osp", option)
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    for part in ("error: refused: ", "still recognised (limit 1%)", "2 points", "osp-fit", "--accept"):
        assert part in line
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_harm_is_written_where_it_is_accepted(trained, tmp_path):
    done = ask(trained, tmp_path / "out", "--method=osp", "--option=amount=1", "--accept")
    assert done.returncode == 0, done.stderr
    assert "accepted: " in done.stdout
    harm = harm_of(tmp_path / "out")
    assert harm["accepted"]
    assert harm["retained_before"] - harm["retained_after"] > 0.02
    assert (harm["source"], harm["retain_images"], harm["forget_images"]) == ("features", 180, 20)


def test_limits_can_be_set(trained, tmp_path):
    options = ("--method=osp", "--option=amount=1", "--max_retained_drop=100", "--max_forgotten=100")
    done = ask(trained, tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    harm = harm_of(tmp_path / "out")
    assert (harm["max_retained_drop"], harm["max_forgotten"], harm["accepted"]) == (100, 100, False)


def test_what_does_no_harm_passes(trained, tmp_path):
    done = ask(trained, tmp_path / "out", "--method=logit-mask")
    assert done.returncode == 0, done.stderr
    harm = harm_of(tmp_path / "out")
    assert harm["forgotten"] == 0
    assert harm["retained_after"] >= harm["retained_before"]


def test_a_change_further_in_is_judged_on_images(trained, tmp_path):
    options = ("--method=osp", "--option=layers=all", "--max_retained_drop=100", "--max_forgotten=100")
    done = ask(trained, tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    harm = harm_of(tmp_path / "out")
    assert (harm["source"], harm["retain_images"]) == ("images", 1000)
