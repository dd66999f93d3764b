"""A kill at any step of a write leaves all of the old or all of the new content; the next process cleans up."""

import os
import shutil
import types
from functools import partial
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from osp_jax.runtime import replacing
from osp_jax.runtime.arrays import save_tree
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import SUMS, check_sums, read_piece, write_piece, write_sums
from osp_jax.runtime.replacing import (
    MARKER,
    building,
    copy_to_new_file,
    discard,
    remove_leftovers,
    updating,
    write_text,
)
from osp_jax.runtime.workdir import EVALUATION, adding, claim_workdir, close_training, open_training
from osp_jax.runtime.workdir import replacing as replacing_out
from osp_jax.training import checkpoints as checkpoint
from tests.kills import contents, kills, run_killed_at


@pytest.fixture(autouse=True)
def started() -> None:
    jax.process_index()  # before any fork


@pytest.fixture(params=["exchange", "rename"])
def way(request, monkeypatch) -> str:
    """How a folder takes its place; the second is that of systems without an exchange."""
    if request.param == "rename":
        monkeypatch.setattr(replacing, "_exchange", lambda *_: False)
    return request.param


# A fork of a large process takes a while: by default a part of the steps.
some_and_all = pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])


def strays(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if replacing.is_temporary(path.name)]


def write_all(folder: Path, word: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "b").write_text(f"{word} b")
    (folder / "a").write_text(word)


def replace(out: Path, word: str) -> None:
    with replacing_out(out) as folder:
        write_all(folder, word)


def evaluate(folder: Path, word: str) -> None:
    with adding(folder, EVALUATION) as content:
        for name in EVALUATION:
            write_text(content / name, f"{word} {name}")


def tabulate(out: Path, word: str) -> None:
    with adding(out, ["results.json"], drop=["unfinished"]) as content:
        write_text(content / "results.json", word)


# The writes of the commands.


@some_and_all
@pytest.mark.parametrize("write", [replace, evaluate, tabulate])
def test_a_folder_is_all_old_or_all_new(write, way, every, tmp_path):
    out, model = tmp_path / "out", tmp_path / "model"
    model.mkdir()
    write_all(model, "old")
    (model / "unfinished").mkdir()
    write_piece(model / "unfinished" / "0.json", 1)
    write_sums(model, ["a", "deep/b"])
    wanted = []
    for word in ("old", "new"):
        shutil.copytree(model, out)
        write(out, word)
        wanted.append(contents(out))
        shutil.rmtree(out)
    before = contents(model)

    def prepare() -> None:
        shutil.rmtree(out, ignore_errors=True)
        assert not strays(tmp_path)
        shutil.copytree(model, out)
        write(out, "old") if write is not tabulate else None

    old = wanted[0] if write is not tabulate else before
    seen = set()
    for _ in kills(partial(write, out, "new"), prepare, every):
        if way == "rename":
            remove_leftovers(out)
        found = contents(out)
        assert found in (old, wanted[1])
        seen.add(found == wanted[1])
        check_sums(out, "")
        write(out, "new")
        assert contents(out) == wanted[1]
        assert not strays(tmp_path)
    assert seen == {False, True}


def test_a_new_folder_is_not_there_or_whole(tmp_path):
    out = tmp_path / "out"
    for _ in kills(lambda: replace(out, "new"), lambda: shutil.rmtree(out, ignore_errors=True)):
        assert not out.exists() or len(contents(out)) == 3
        replace(out, "new")
        assert not strays(tmp_path)


def test_a_file_is_all_old_or_all_new(tmp_path):
    path = tmp_path / "x"
    for _ in kills(lambda: write_text(path, "new and longer"), lambda: path.write_text("old")):
        assert path.read_text() in ("old", "new and longer")
        write_text(path, "new and longer")
        assert os.listdir(tmp_path) == ["x"]


def test_a_piece_is_not_there_or_whole(tmp_path):
    path = tmp_path / "0.json"
    for _ in kills(lambda: write_piece(path, [1, 2]), lambda: path.unlink(missing_ok=True)):
        assert not path.exists() or read_piece(path) == [1, 2]
        write_piece(path, [1, 2])
        assert os.listdir(tmp_path) == ["0.json"]


# A training, with a stand-in for Orbax, whose threads do not outlive a fork.


def save_plainly(folder: Path, items, **_) -> types.SimpleNamespace:
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).write_text(f"{items}")
    return types.SimpleNamespace(result=lambda: None)


def train_plainly(workdir: Path) -> None:
    """Three epochs, of which each is the number of its predecessor and one; two checkpoints are kept."""
    workdir.mkdir(exist_ok=True)
    claim_workdir(workdir, ConfigDict({"seed": 0}), {"name": "numbers"}, lambda config: config)
    with checkpoint.training_checkpoints(workdir, every=1, keep=2) as checkpoints:
        done = checkpoint.newest_epoch(checkpoints) or 0
        if done:
            check_sums(checkpoints.folder / str(done), "")
            assert (checkpoints.folder / str(done) / "one").read_text() == str(done)
        if done < 3:
            open_training(workdir)
        log = (checkpoint.attached_to(checkpoints, done, "metrics.jsonl") if done else None) or ""
        if not (workdir / "metrics.jsonl").exists() or (workdir / "metrics.jsonl").read_text() != log:
            write_text(workdir / "metrics.jsonl", log)
        for epoch in range(done + 1, 4):
            log += f"{epoch}\n"
            with (workdir / "metrics.jsonl").open("a") as file:
                file.write(f"{epoch}\n")
            checkpoint.save_state(checkpoints, epoch, epoch, last=False, attached={"metrics.jsonl": log})
    close_training(workdir)
    if not (workdir / "statistics").exists():
        save_tree(workdir / "statistics", 5, {})
        close_training(workdir)


@pytest.fixture
def plain_orbax(monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "_items", lambda state: state)
    monkeypatch.setattr(checkpoint, "uncommitted", lambda tree: tree)
    monkeypatch.setattr(checkpoint.jax.tree, "map", lambda _, state: state)
    monkeypatch.setattr(checkpoint.ocp, "save_checkpointables_async", save_plainly)
    monkeypatch.setattr(checkpoint.ocp, "save", save_plainly)


@some_and_all
def test_a_training_ends_the_same_wherever_it_is_killed(every, plain_orbax, monkeypatch, tmp_path):
    monkeypatch.setattr("osp_jax.runtime.workdir.provenance", lambda seed: {"seed": seed})
    train_plainly(tmp_path / "undisturbed")
    wanted, run = contents(tmp_path / "undisturbed"), tmp_path / "run"
    assert sorted(os.listdir(run.with_name("undisturbed"))) == sorted(
        ["config.json", "metrics.jsonl", "checkpoints", "statistics", SUMS]
    )
    for step in kills(lambda: train_plainly(run), lambda: shutil.rmtree(run, ignore_errors=True), every):
        if step % 3 == 0:  # killed a second time, further on
            run_killed_at(40, lambda: train_plainly(run))
        train_plainly(run)
        assert contents(run) == wanted
        assert not strays(tmp_path)


def test_a_disk_that_fails_while_a_checkpoint_is_completed_is_reported_and_leaves_the_one_before(
    plain_orbax, monkeypatch, tmp_path
):
    def fail() -> None:
        raise OSError(5, "Input/output error")

    with checkpoint.training_checkpoints(tmp_path, every=1, keep=2) as checkpoints:
        checkpoint.save_state(checkpoints, 1, 1, last=False)
    before = contents(tmp_path)
    response = types.SimpleNamespace(result=fail)
    monkeypatch.setattr(checkpoint.ocp, "save_checkpointables_async", lambda *_: response)
    with (
        pytest.raises(OSError, match="Input/output"),
        checkpoint.training_checkpoints(tmp_path, every=1, keep=2) as checkpoints,
    ):
        checkpoint.save_state(checkpoints, 2, 2, last=False)
    assert contents(tmp_path) == before


# What belongs to others.


def test_names_of_others_are_left_alone(tmp_path):
    others = ["out.new", ".out.new", ".out.0badf00d.osp_jax", ".out.12345678.osp_jax", ".out.abcdef01.osp_jax"]
    for name in others[:3]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    (tmp_path / others[3]).symlink_to(tmp_path / others[0])
    (tmp_path / others[4]).mkdir()
    (tmp_path / others[4] / MARKER).write_text("something else")
    (tmp_path / others[4] / "mine").write_text("mine")
    replace(tmp_path / "out", "new")
    replace(tmp_path / "out", "newer")
    assert all((tmp_path / name).exists() for name in others)
    assert all((tmp_path / name / "mine").read_text() == "mine" for name in others)


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    out = tmp_path / "out"
    with building(out) as theirs:
        theirs.mkdir()
        (theirs / "a").write_text("theirs")
        replace(out, "mine")
        assert (theirs / "a").read_text() == "theirs"
        shutil.rmtree(out)
    assert contents(out) == {"a": b"theirs"}


def test_a_folder_that_came_in_between_is_not_overwritten(tmp_path):
    out = tmp_path / "out"

    def build() -> None:
        with building(out) as mine:
            mine.mkdir()
            out.mkdir()
            (out / "theirs").touch()

    with pytest.raises(OSError, match="not empty"):
        build()
    assert contents(tmp_path) == {"out/theirs": b""}


def test_a_failure_while_building_leaves_the_old(way, tmp_path):
    replace(tmp_path / "out", "old")
    before = contents(tmp_path)

    def fail() -> None:
        with replacing_out(tmp_path / "out") as folder:
            (folder / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert contents(tmp_path) == before


def test_what_a_user_keeps_in_a_folder_stays_when_it_is_updated(way, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "link").symlink_to("notes.txt")
    (folder / "empty").mkdir(mode=0o700)
    folder.chmod(0o750)
    evaluate(folder, "new")
    assert (folder / "notes.txt").read_text() == "mine"
    assert os.readlink(folder / "link") == "notes.txt"
    assert [oct(path.stat().st_mode & 0o777) for path in (folder, folder / "empty")] == ["0o750", "0o700"]
    assert set((folder / SUMS).read_text().split()[1::2]) == set(EVALUATION)


def test_a_link_to_a_folder_is_followed_when_it_is_updated(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    evaluate(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "model" / "eval.json").read_text() == "new eval.json"


def test_a_folder_that_cannot_be_exchanged_is_updated_in_place(tmp_path, monkeypatch):
    (tmp_path / "model" / "unfinished").mkdir(parents=True)
    inode = (tmp_path / "model").stat().st_ino
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    tabulate(tmp_path / "model", "new")
    assert (tmp_path / "model").stat().st_ino == inode
    assert os.listdir(tmp_path) == ["model"]
    assert sorted(os.listdir(tmp_path / "model")) == [SUMS, "results.json"]


def test_files_that_cannot_be_linked_are_copied(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("a")

    def fail(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(os, "link", fail)
    with updating(tmp_path / "model") as content:
        (content / "b").touch()
    assert contents(tmp_path / "model") == {"a": b"a", "b": b""}


@some_and_all
def test_results_that_are_copied_over_others_appear_all_at_once(every, tmp_path):
    out, wanted = tmp_path / "out", {"a": b"new", "deep/b": b"new b", "mine": b"mine"}
    (tmp_path / "new").mkdir()
    write_all(tmp_path / "new", "new")

    def prepare() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        write_all(out, "old")
        (out / "mine").write_text("mine")

    def copy() -> None:
        with updating(out) as folder:
            shutil.copytree(tmp_path / "new", folder, dirs_exist_ok=True, copy_function=copy_to_new_file)

    prepare()
    old = contents(out)
    for _ in kills(copy, prepare, every):
        assert contents(out) in (old, wanted)
        copy()
        assert contents(out) == wanted
        assert not strays(tmp_path)


def test_a_discarded_folder_is_gone_at_once(tmp_path):
    def prepare() -> None:
        remove_leftovers(tmp_path / "old")
        (tmp_path / "old").mkdir(exist_ok=True)
        write_all(tmp_path / "old", "old") if not any((tmp_path / "old").iterdir()) else None

    for _ in kills(lambda: discard(tmp_path / "old"), prepare):
        assert not (tmp_path / "old").exists() or len(contents(tmp_path / "old")) == 2
        remove_leftovers(tmp_path / "old")
        assert not strays(tmp_path)


def test_names_of_250_characters_are_written_and_tidied_up(tmp_path):
    out = tmp_path / ("o" * 250)
    for _ in kills(lambda: replace(out, "new"), lambda: shutil.rmtree(out, ignore_errors=True)):
        replace(out, "new")
        assert not strays(tmp_path)


def test_a_run_without_its_config_is_not_begun_anew(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("mine")
    with pytest.raises(InputError, match=r"holds metrics\.jsonl but no config\.json; restore it"):
        claim_workdir(tmp_path, ConfigDict({"seed": 0}), {}, lambda config: config)
    assert contents(tmp_path) == {"metrics.jsonl": b"mine"}
