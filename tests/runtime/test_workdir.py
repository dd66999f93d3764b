"""Workdirs: reads are checked, and writes are complete."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import default
from osp_jax.data.dataset import describe_dataset
from osp_jax.data.sources import Dataset, Split
from osp_jax.loading import load_workdir
from osp_jax.networks import build_model, init_variables
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.workdir import check_writable, read_json, write_json, write_text
from osp_jax.training import checkpoints as checkpoint

SHAPE = (8, 8, 1)
NAMES = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def record() -> dict:
    config = default.get_config()
    config.model.width = 4
    images = Split(np.zeros((4, *SHAPE), np.uint8), np.zeros(4, np.int32))
    dataset = describe_dataset(Dataset("animals", "three animals", NAMES, images, images), (0.5,), (0.25,))
    return {"config": config.to_dict(), "dataset": dataset}


@pytest.fixture(scope="module")
def variables() -> dict:
    config = default.get_config()
    config.model.width = 4
    return init_variables(build_model(config, len(NAMES), SHAPE), SHAPE, jax.random.key(0))


@pytest.fixture
def workdir(record, variables, tmp_path) -> Path:
    write_json(tmp_path / "config.json", record)
    checkpoint.save_variables(tmp_path, variables)
    return tmp_path


def test_a_workdir_gives_the_model_and_its_variables(workdir, record, variables):
    trained = load_workdir(workdir)
    jax.tree.map(np.testing.assert_array_equal, trained.model.variables, variables)
    assert trained.record == json.loads(json.dumps(record))
    assert trained.model.apply(variables, np.zeros((2, *SHAPE), np.float32)).shape == (2, 3)
    about = record["dataset"]
    assert trained.model.class_names == tuple(about["class_names"])
    assert (trained.model.mean, trained.model.std) == (tuple(about["mean"]), tuple(about["std"]))


def test_a_missing_config_is_reported(workdir):
    (workdir / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json does not exist; is .* a workdir"):
        load_workdir(workdir)


def test_a_workdir_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_workdir(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"config": {}, "dataset": {}}',
        b'{"config": 3, "dataset": {"image_shape": [8, 8, 1], "class_names": []}}',
        b'{"config": {"model": {}}, "dataset": {"image_shape": 8, "class_names": []}}',
    ],
)
def test_a_garbled_config_is_reported(content, workdir):
    (workdir / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json"):
        load_workdir(workdir)


@pytest.mark.parametrize(("field", "value"), [("name", "resnet20"), ("width", 8), ("name", "allcnn")])
def test_a_checkpoint_of_another_model_is_refused(field, value, workdir, record):
    model = {**record["config"]["model"], field: value}
    write_json(workdir / "config.json", {**record, "config": {**record["config"], "model": model}})
    with pytest.raises(InputError, match=r"checkpoints/0 is of another model"):
        load_workdir(workdir)


def test_a_model_that_is_unknown_is_refused(workdir, record):
    model = {**record["config"]["model"], "name": "resnet9"}
    write_json(workdir / "config.json", {**record, "config": {**record["config"], "model": model}})
    with pytest.raises(InputError, match="unknown model 'resnet9'"):
        load_workdir(workdir)


# Writing.


def test_json_comes_back_as_it_was_written(tmp_path):
    content = {"a": [1, 2.5, None], "é": "ü"}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content


@pytest.mark.parametrize("content", [{"a": {1, 2}}, {"a": float("nan")}, {"a": np.float32(1)}], ids=str)
def test_what_is_no_json_leaves_the_old_file_as_it_was(content, tmp_path):
    write_json(tmp_path / "x.json", {"old": 1})
    with pytest.raises((TypeError, ValueError)):
        write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("write", [write_json, write_text])
@pytest.mark.parametrize("old", [True, False])
def test_a_disk_that_fails_while_writing_leaves_no_half_file(old, write, tmp_path, monkeypatch):
    if old:
        write(tmp_path / "x", "old")
    before = (tmp_path / "x").read_text() if old else None

    def fail(handle):
        raise OSError("disk failed")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk failed"):
        write(tmp_path / "x", "new and longer")
    assert ((tmp_path / "x").read_text() if old else None) == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"] * old


def test_a_failing_rename_leaves_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", 1)

    def fail(*args):
        raise OSError("disk failed")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk failed"):
        write_json(tmp_path / "x.json", 2)
    assert read_json(tmp_path / "x.json") == 1


def test_a_folder_is_made_and_left_empty_by_the_check(tmp_path):
    check_writable(tmp_path / "a" / "b", 1)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_too_little_space_is_reported_with_both_figures(tmp_path):
    with pytest.raises(InputError, match=r"MB free and 1000000000000 MB are needed"):
        check_writable(tmp_path, 10**18)


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"cannot write to {folder}"):
            check_writable(folder, 1)


def test_the_forgotten_classes_are_those_of_all_requests_and_those_left_out_of_training(workdir, record):
    assert load_workdir(workdir).model.forgotten == ()
    request = {"method": "osp", "options": {}, "forget": [2], "original": "runs/animals", "channels": {}}
    write_json(workdir / "unlearn.json", request)  # as older versions recorded it
    assert load_workdir(workdir).model.forgotten == (2,)
    config = record["config"] | {"data": record["config"]["data"] | {"exclude": "cat"}}
    write_json(workdir / "config.json", record | {"config": config, "forgotten": [1]})
    assert load_workdir(workdir).model.forgotten == (0, 1)
