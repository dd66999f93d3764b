"""Readers detect a changed byte in any file, and a command replaces only its own results."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from osp_jax.data.dataset import describe_dataset
from osp_jax.data.sources import Dataset, Split
from osp_jax.loading import load_workdir
from osp_jax.networks import build_model, init_variables
from osp_jax.runtime import integrity
from osp_jax.runtime.arrays import load_tree, save_tree
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import SUMS, check_sums, read_piece, write_piece, write_sums
from osp_jax.runtime.overwriting import check_out, check_results, check_unfinished
from osp_jax.runtime.replacing import write_text
from osp_jax.runtime.workdir import (
    EVALUATION,
    adding,
    claim_workdir,
    close_training,
    load_evaluation,
    read_request,
    replacing,
    write_json,
)
from osp_jax.training import checkpoints as checkpoint
from tests.kills import contents

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def variables() -> dict:
    return init_variables(build_model(small_config(), 3, SHAPE), SHAPE, jax.random.key(0))


def small_config():
    config = default.get_config()
    config.model.width, config.training.epochs = 4, 2
    return config


@pytest.fixture(scope="module")
def trained(variables, tmp_path_factory) -> Path:
    """The workdir of a finished training, with a checkpoint and something in place of the statistics."""
    workdir = tmp_path_factory.mktemp("trained") / "model"
    workdir.mkdir()
    images = Split(np.zeros((4, *SHAPE), np.uint8), np.zeros(4, np.int32))
    data = Dataset("animals", "three animals", ("cat", "dog", "bird"), images, images)
    claim_workdir(workdir, small_config(), describe_dataset(data, (0.5,), (0.25,)))
    write_text(workdir / "metrics.jsonl", '{"epoch": 1}\n{"epoch": 2}\n')
    checkpoint.save_variables(workdir, variables)
    (workdir / "checkpoints" / "0").rename(workdir / "checkpoints" / "2")
    save_tree(workdir / "statistics", {"a": jnp.arange(100.0)}, {"b": 1})
    close_training(workdir)
    return workdir


@pytest.fixture(scope="module")
def evaluated(trained, variables) -> Path:
    """An unlearned and evaluated workdir."""
    out = trained.with_name("unlearned")
    with replacing(out) as folder:
        shutil.copy(trained / "config.json", folder)
        shutil.copy(trained / "metrics.jsonl", folder)
        checkpoint.save_variables(folder, variables)
        save_tree(folder / "statistics", {"a": jnp.arange(100.0)}, {"b": 1})
        request = {"method": "osp", "options": {}, "forget": [0], "original": str(trained), "channels": {}}
        write_json(folder / "unlearn.json", request)
    with adding(out, EVALUATION) as folder:
        judged = {"dataset": {"name": "animals"}, "model": {"name": "resnet8"}, "forget": [0], "method": "osp"}
        write_json(folder / "eval.json", judged | {"original": {}})
        write_text(folder / "report.md", "words")
        write_text(folder / "report.html", "<p>words")
    return out


def read_all(workdir: Path) -> None:
    """Reads a workdir as the commands do: the model, its statistics and its evaluation."""
    load_workdir(workdir)
    read_request(workdir)
    load_tree(workdir / "statistics")
    if (workdir / "eval.json").exists():
        load_evaluation(workdir)


def flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


# Damage.


@pytest.mark.parametrize("kind", ["trained", "evaluated"])
def test_a_flipped_byte_in_any_file_is_noticed_and_the_message_says_what_to_do(kind, request, tmp_path):
    workdir, rng = request.getfixturevalue(kind), np.random.default_rng(0)
    copy = shutil.copytree(workdir, tmp_path / "copy")
    read_all(copy)
    names = [name for name, content in contents(workdir).items() if content]
    assert len(names) > 20
    for name in names:
        for _ in range(3):
            flip(copy / name, rng)
            with pytest.raises(InputError, match=r"copy/.* is damaged.*(restore|delete|again)") as caught:
                read_all(copy)
            assert "\n" not in str(caught.value)
            assert SUMS in name or str(copy / name) in str(caught.value)
            shutil.copy(workdir / name, copy / name)


def test_a_missing_file_is_noticed(evaluated, tmp_path):
    copy = shutil.copytree(evaluated, tmp_path / "copy")
    for name in contents(evaluated):
        if name in ("eval.json", SUMS):  # without these there is no evaluation, or no checksum
            continue
        (copy / name).unlink()
        with pytest.raises(InputError, match=r"is missing|damaged"):
            read_all(copy)
        shutil.copy(evaluated / name, copy / name)


def test_a_checkpoint_of_another_run_is_noticed_though_it_is_whole(trained, variables, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints")
    checkpoint.save_variables(copy, jax.tree.map(jnp.zeros_like, variables))
    (copy / "checkpoints" / "0").rename(copy / "checkpoints" / "2")
    with pytest.raises(InputError, match=r"checkpoints/2/SHA256SUMS is damaged.*delete .*/checkpoints/2"):
        load_workdir(copy)


def test_sha256sum_agrees(evaluated):
    for path in evaluated.rglob(SUMS):
        command = ["sha256sum", "--check", "--strict", SUMS]
        done = subprocess.run(command, cwd=path.parent, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout


def test_statistics_may_be_removed(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    shutil.rmtree(copy / "statistics")
    load_workdir(copy)
    close_training(copy)
    assert "statistics" not in (copy / SUMS).read_text()


def test_closing_a_training_again_does_not_cover_up_damage(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "metrics.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged.*run the same experiments.train again"):
        close_training(copy)


def test_an_evaluation_keeps_the_checksums_of_what_it_did_not_write(evaluated, tmp_path):
    copy = shutil.copytree(evaluated, tmp_path / "copy")
    (copy / "unlearn.json").write_text("{}")
    with adding(copy, EVALUATION) as folder:
        for name in EVALUATION:
            write_text(folder / name, "new")
    with pytest.raises(InputError, match=r"unlearn\.json is damaged"):
        load_workdir(copy)


def test_an_old_workdir_is_read_with_one_warning(trained, tmp_path, capsys):
    copy = shutil.copytree(trained, tmp_path / "copy")
    for path in list(copy.rglob(SUMS)):
        path.unlink()
    read_all(copy)
    read_all(copy)
    warning = f"warning: {copy} has no {SUMS} (an older version wrote it); damage is not noticed\n"
    assert capsys.readouterr().err == warning


@pytest.mark.parametrize("text", ["", "\n", "0" * 64, f"{'0' * 64} a\n", f"{'0' * 64}  a\r\n", f"{'0' * 64}  a"])
def test_checksums_that_are_none_are_reported(text, tmp_path):
    (tmp_path / SUMS).write_bytes(text.encode())
    with pytest.raises(InputError, match=rf"{SUMS} is damaged; restore it"):
        check_sums(tmp_path, "restore it")


def test_a_file_that_has_to_be_listed_is_missed(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    write_sums(tmp_path, ["a"])
    assert check_sums(tmp_path, "")
    for asked in ({"complete": True}, {"required": ["b"]}):
        with pytest.raises(InputError, match="it does not list b; do it again"):
            check_sums(tmp_path, "do it again", **asked)


@pytest.mark.parametrize("content", [[], [1.5], {"a": {"b": None}}, "é", 3], ids=str)
def test_a_piece_comes_back_and_every_flipped_bit_in_it_is_noticed(content, tmp_path):
    path = tmp_path / "0.json"
    write_piece(path, content)
    assert read_piece(path) == content
    assert json.loads(path.read_bytes())["content"] == content
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"0\.json is damaged; delete it, and the same command makes it again"):
            read_piece(path)


def test_a_piece_of_an_older_version_is_read_with_a_warning(tmp_path, capsys):
    for content in ([1, 2], {"a": 1}):
        write_json(tmp_path / "0.json", content)
        assert read_piece(tmp_path / "0.json") == content
    assert capsys.readouterr().err.count("warning") == 1


def test_errors_of_our_own_code_are_not_taken_for_damage(trained, variables, monkeypatch):
    def wrong(*_):
        raise TypeError("a bug")

    monkeypatch.setattr(checkpoint, "abstract", wrong)
    with pytest.raises(TypeError, match="a bug"):
        checkpoint.load_variables(trained, variables)


# Unfinished trainings.


def test_a_training_that_is_not_finished_is_refused(trained, tmp_path):
    for sums in (True, False):
        copy = shutil.copytree(trained, tmp_path / str(sums))
        (copy / "checkpoints" / "2").rename(copy / "checkpoints" / "1")
        if not sums:
            for path in list(copy.rglob(SUMS)):
                path.unlink()
        with pytest.raises(InputError, match=r"trained for 1 of 2 epochs; run the same experiments\.train again"):
            load_workdir(copy)


def test_a_run_on_other_data_is_not_continued(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    data = json.loads((copy / "config.json").read_text())["dataset"]
    claim_workdir(copy, small_config(), data)
    claim_workdir(copy, small_config(), data | {"mean": [0.5 + 1e-7]})  # another machine rounds otherwise
    for change in ({"mean": [0.51]}, {"num_train": 5}, {"class_names": ["cat", "dog", "cow"]}):
        with pytest.raises(InputError, match=f"holds a run on other data \\({next(iter(change))}\\)"):
            claim_workdir(copy, small_config(), data | change)


# What --overwrite may replace.


def refused(out: Path, workdir: Path, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_out(out, workdir, overwrite=True)


def test_an_unlearned_model_may_be_overwritten(trained, evaluated, tmp_path):
    copy = shutil.copytree(evaluated, tmp_path / "copy")
    check_out(copy, trained, overwrite=True)
    check_out(tmp_path / "new", trained, overwrite=False)
    with pytest.raises(InputError, match="copy exists; choose another --out or add --overwrite"):
        check_out(copy, trained, overwrite=False)
    flip(copy / "unlearn.json", np.random.default_rng(0))
    check_out(copy, trained, overwrite=True)
    for path in list(copy.rglob(SUMS)):
        path.unlink()
    check_out(copy, trained, overwrite=True)


def test_the_model_itself_and_what_lies_above_or_below_it_are_never_overwritten(trained, evaluated, tmp_path):
    (tmp_path / "link").symlink_to(trained)
    (tmp_path / "folder").symlink_to(trained.parent)
    refused(trained, trained, "is the model that --workdir names; choose another --out")
    refused(evaluated, evaluated, "is the model that --workdir names")
    refused(tmp_path / "folder" / trained.name, trained, "is the model that --workdir names")
    refused(trained / ".." / trained.name, trained, "is the model that --workdir names")
    refused(trained.parent, trained, "unlearned|holds .*model; choose another --out")
    refused(Path("/"), trained, "holds .*model; choose another --out")
    refused(trained / "checkpoints" / "9", trained, "lies in .*model; choose an --out outside of it")
    refused(tmp_path / "link", trained, "is a link; give the folder itself")
    refused(tmp_path / "link", evaluated, "is a link")


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/mine", "statistics/mine.txt", "deep/er/mine"])
def test_a_model_with_a_file_of_somebody_is_not_overwritten(name, old, trained, evaluated, tmp_path):
    copy = shutil.copytree(evaluated, tmp_path / "copy")
    for path in list(copy.rglob(SUMS)) if old else []:
        path.unlink()
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).touch()
    if not old or not name.startswith("statistics"):  # of old statistics nobody knows which files they had
        refused(copy, trained, rf"replaces an unlearned model only, but .*copy holds {name.split('/')[0]}")


def write_files(out: Path) -> None:
    (out / "a").touch()


def write_trained(out: Path) -> None:
    (out / "config.json").touch()
    (out / "checkpoints").mkdir()


def write_listed(out: Path) -> None:
    (out / "a").touch()
    write_sums(out)


@pytest.mark.parametrize("write", [write_files, write_trained, write_listed])
def test_another_folder_is_not_overwritten(write: Callable[[Path], None], trained, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    check_out(out, trained, overwrite=True)  # empty
    write(out)
    refused(out, trained, "replaces an unlearned model only")


def test_a_trained_model_or_a_file_is_not_overwritten(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    refused(copy, trained, "copy is not one; choose another --out")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", trained, "file is not a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", trained, "pipe is not a folder")


def test_results_of_somebody_are_not_overwritten(tmp_path):
    names = "results.json", "table.md"
    check_results(tmp_path, names, overwrite=False)
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(InputError, match=r"table\.md was not written by this command"):
        check_results(tmp_path, names)
    (tmp_path / "results.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match=r"results\.json was not written by this command"):
        check_results(tmp_path, names)
    (tmp_path / "results.json").write_text('{"dataset": 1}')  # of an older version
    check_results(tmp_path, names)
    (tmp_path / "results.json").write_text("damaged")
    write_sums(tmp_path, names)
    check_results(tmp_path, names)
    with pytest.raises(InputError, match=re.escape("results.json exists; choose another --out or add --overwrite")):
        check_results(tmp_path, names, overwrite=False)
    (tmp_path / "table.md").unlink()
    (tmp_path / "table.md").mkdir()
    with pytest.raises(InputError, match=r"table\.md is not a file"):
        check_results(tmp_path, names)


def test_an_unfinished_folder_of_somebody_is_not_removed(tmp_path):
    folder = tmp_path / "unfinished"
    check_unfinished(folder)
    folder.mkdir()
    (folder / ".config.json.0badf00d.osp_jax").touch()  # a killed command left it
    check_unfinished(folder)
    (folder / "mine").touch()
    with pytest.raises(InputError, match="unfinished holds mine of another command; move it away"):
        check_unfinished(folder)
    (folder / "config.json").touch()
    check_unfinished(folder)
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path)
    with pytest.raises(InputError, match="unfinished is not a folder"):
        check_unfinished(folder)


def test_a_training_of_an_older_version_stays_without_checksums(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    for path in list(copy.rglob(SUMS)):
        path.unlink()
    close_training(copy)
    assert not (copy / SUMS).exists()
    with adding(copy, EVALUATION) as folder:
        for name in EVALUATION:
            write_text(folder / name, "new")
    data = json.loads((copy / "config.json").read_text())["dataset"]
    claim_workdir(copy, small_config(), data)
    close_training(copy)
    load_workdir(copy)
    assert set((copy / SUMS).read_text().split()[1::2]) == set(EVALUATION)


@pytest.fixture(autouse=True)
def unwarned(monkeypatch) -> None:
    monkeypatch.setattr(integrity, "_warned", set())
