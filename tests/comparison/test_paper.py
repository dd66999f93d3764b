"""The study of an entry: its commands in order, and time slices that resume."""

import sys
from itertools import takewhile
from pathlib import Path

import pytest

from configs.paper.default import get_config
from osp_jax.comparison.paper import Step, finished, run_steps, steps_of
from osp_jax.methods import METHODS
from osp_jax.runtime.errors import InputError

CONFIG = get_config()


@pytest.mark.parametrize("name", sorted(CONFIG.entries))
def test_every_entry_has_a_config_and_every_folder_that_a_step_reads_is_written_before(name, tmp_path):
    entry = CONFIG.entries[name]
    assert (Path(__file__).parents[2] / entry.config).exists()
    written = set()
    for step in steps_of(entry, CONFIG.methods, tmp_path):
        flags = [argument.removeprefix("--").split("=", 1) for argument in step.arguments if "=" in argument]
        made = [value for flag, value in flags if flag == "out" or (flag == "workdir" and step.name == "train")]
        for flag, value in flags:
            if value.startswith(str(tmp_path)) and value not in made:
                assert value in written or any(Path(value) in Path(one).parents for one in written), (step, flag)
        written |= set(made)


def test_each_retrained_network_leaves_its_class_out(tmp_path):
    steps = steps_of(CONFIG.entries["cifar10_resnet20"], CONFIG.methods, tmp_path)
    trained = [dict(text.split("=", 1) for text in step.arguments) for step in steps if step.name == "train"]
    assert [one.get("--config.data.exclude") for one in trained] == [None, "0", "3", "9"]
    assert len({one["--workdir"] for one in trained}) == 4


def test_every_method_of_the_study_exists():
    assert set(CONFIG.methods) <= set(METHODS)


def test_shadow_models_are_trained_and_asked_where_the_entry_has_some(tmp_path):
    def names(entry: str) -> list[str]:
        return [step.name for step in steps_of(CONFIG.entries[entry], CONFIG.methods, tmp_path)]

    assert names("cifar10_resnet18").count("shadows") == 3
    assert "shadows" not in names("cifar10_cifarnet")


def command(text: str, name: str = "x", resumes: bool = True) -> Step:
    return Step(name, (text,), resumes)


# In place of `python -m experiments.NAME TEXT`, Python runs TEXT.
PREFIX = (sys.executable, "-c", "import sys; exec(sys.argv[2])")


def ran(steps, tmp_path, seconds=60.0, piece=60.0):
    messages = []
    return run_steps(steps, tmp_path / "done", seconds, piece, messages.append, PREFIX), messages


def test_what_is_done_is_not_run_again(tmp_path):
    log = tmp_path / "log"
    steps = [command(f"open({str(log)!r}, 'a').write('{letter}')") for letter in "abc"]
    assert ran(steps[:2], tmp_path)[0]
    assert log.read_text() == "ab"
    complete, messages = ran(steps, tmp_path)
    assert (complete, log.read_text(), len(messages)) == (True, "abc", 1)


def test_a_step_that_changes_is_run_again_and_a_folder_that_moves_changes_nothing(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    step = command(f"pass  # {here}")
    assert run_steps([step], here / "done", 60, 60, lambda text: None, PREFIX)
    here.rename(there)
    assert finished(there / "done", command(f"pass  # {there}"))
    assert not finished(there / "done", command(f"pass  # {there} other"))


def test_a_piece_ends_in_time_and_the_next_one_begins_with_the_step_that_was_stopped(tmp_path):
    mark = tmp_path / "mark"
    slow = command(f"import os, time; os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'w'), time.sleep(600))")
    steps = [command("pass", "first"), slow, command("pass", "last")]
    complete, messages = ran(steps, tmp_path, seconds=3.0)
    assert not complete
    assert [text.split()[0] for text in messages] == ["experiments.first", "experiments.x"]
    complete, messages = ran(steps, tmp_path)
    assert complete
    assert [text.split()[0] for text in messages] == ["experiments.x", "experiments.last"]


def test_what_cannot_be_continued_and_does_not_fit_is_reported(tmp_path):
    slow = command("import time; time.sleep(600)", "eval", resumes=False)
    with pytest.raises(InputError, match=r"experiments\.eval .*--minutes"):
        ran([slow], tmp_path, seconds=1.0, piece=1.0)
    assert not ran([slow], tmp_path, seconds=1.0, piece=60.0)[0]  # it began late: the next piece has room


def test_a_command_that_fails_ends_the_run_and_is_not_done(tmp_path):
    steps = [command("raise SystemExit(2)", "sweep"), command("pass")]
    with pytest.raises(InputError, match=r"experiments\.sweep ended with exit code 2"):
        ran(steps, tmp_path)
    assert not list(takewhile(lambda step: finished(tmp_path / "done", step), steps))
