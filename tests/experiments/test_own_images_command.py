"""A user's images from training to report: a folder elsewhere, moved later, and damaged."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osp_jax.loading import load_workdir
from tests.experiments.conftest import ROOT, TINY, assert_one_line_error, run_command

CLASSES = {"blue dot": (40, 60, 220), "green bar": (40, 200, 60), "red square": (220, 50, 40)}


def shape(name: str, draw: np.random.Generator) -> np.ndarray:
    """A coloured shape on grey noise, 10 pixels high and 12 wide."""
    image = draw.integers(90, 150, (10, 12, 3), np.uint8)
    top, left = draw.integers(1, 4), draw.integers(1, 6)
    height, width = {"blue dot": (2, 2), "green bar": (2, 6), "red square": (5, 5)}[name]
    image[top : top + height, left : left + width] = CLASSES[name]
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root, draw = tmp_path_factory.mktemp("own") / "shapes", np.random.default_rng(0)
    for name in CLASSES:
        for split, images in (("train", 44), ("test", 10)):
            (root / split / name).mkdir(parents=True)
            for i in range(images):
                Image.fromarray(shape(name, draw)).save(root / split / name / f"{i}.png")
    return root


def train(workdir: Path, name: str, *more: str):
    settings = ("--config.training.batch_size=16", "--config.data.image_size=8", *more)
    return run_command("experiments.train", f"--workdir={workdir}", *TINY, f"--config.data.name={name}", *settings)


@pytest.fixture(scope="module")
def model(folder) -> Path:
    """Trained on the folder, named by a path from where the command runs."""
    workdir = folder.with_name("model")
    done = train(workdir, f"folder:{os.path.relpath(folder, ROOT)}")
    assert done.returncode == 0, done.stderr
    return workdir


def test_the_record_has_the_whole_path_and_the_classes(model, folder):
    record = json.loads((model / "config.json").read_text())
    assert record["config"]["data"]["name"] == f"folder:{folder}"
    about = record["dataset"]
    assert (about["name"], about["variant"]) == ("folder:shapes", "folder shapes (PNG, 8x8, 3 classes)")
    assert (about["class_names"], about["image_shape"]) == (list(CLASSES), [8, 8, 3])
    assert (about["num_train"], about["num_test"]) == (132, 30)


def test_a_class_is_forgotten_by_name_and_judged(model, folder):
    out = model.with_name("without_red")
    request = ("--forget=red square", "--method=logit-mask", f"--out={out}", "--accept")
    done = run_command("experiments.unlearn", f"--workdir={model}", *request)
    assert done.returncode == 0, done.stderr
    done = run_command("experiments.eval", f"--workdir={out}")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "eval.json").read_text())["forget"] == [2]
    report = (out / "report.md").read_text()
    assert "red square" in report
    assert "folder shapes (PNG, 8x8, 3 classes)" in report


def sweep(model: Path, out: Path, *more: str):
    return run_command("experiments.sweep", f"--workdir={model}", "--methods=logit-mask", f"--out={out}", *more)


def test_a_folder_that_moved_is_found_by_its_new_place(model, folder, tmp_path):
    moved = folder.rename(folder.with_name("moved"))
    try:
        done = sweep(model, tmp_path / "sweep")
        assert_one_line_error(done.returncode, done.stderr, f"there is no folder '{folder}'", "--data_dir")
        done = sweep(model, tmp_path / "sweep", f"--data_dir={moved}")
        assert done.returncode == 0, done.stderr
    finally:
        moved.rename(folder)


def test_images_that_were_added_since_are_reported(model, folder, tmp_path):
    more = folder / "train" / "blue dot" / "more.png"
    shutil.copy(folder / "train" / "blue dot" / "1.png", more)
    try:
        done = sweep(model, tmp_path / "sweep")
    finally:
        more.unlink()
    assert_one_line_error(done.returncode, done.stderr, "folder:shapes had 132 train examples", "has 133 now")


def test_without_test_images_the_setting_is_named_that_makes_some(folder, tmp_path):
    done = train(tmp_path / "model", f"folder:{folder / 'train'}")
    assert_one_line_error(done.returncode, done.stderr, "has no test images", "--config.data.validation=0.2")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:70]), ("1.png' is damaged", "delete it, or replace it")),
        (lambda path: Image.new("RGB", (7, 7)).save(path), ("images differ in size: 10x12", "7x7", "data.image_size")),
    ],
)
def test_a_bad_image_is_one_line_that_names_it(damage, words, folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "shapes")
    damage(copied / "test" / "red square" / "1.png")
    done = train(tmp_path / "model", f"folder:{copied}", "--config.data.image_size=0")
    assert_one_line_error(done.returncode, done.stderr, *words)
    assert not (tmp_path / "model").exists()


def test_of_an_npz_file_a_share_is_tested_on_and_no_more_is_held_out(tmp_path):
    draw, labels = np.random.default_rng(1), np.arange(60) % 3
    np.savez(tmp_path / "shapes.npz", x=[shape([*CLASSES][label], draw) for label in labels], y=labels)
    settings = ("--config.data.validation=0.25", "--config.data.channels=1", "--config.data.class_names=dot,bar,square")
    done = train(tmp_path / "model", f"npz:{tmp_path / 'shapes.npz'}", *settings)
    assert done.returncode == 0, done.stderr
    about = load_workdir(tmp_path / "model").record["dataset"]
    assert (about["class_names"], about["variant"]) == (["dot", "bar", "square"], "shapes.npz (npz, 8x8, 3 classes)")
    assert (about["num_train"], about["num_test"], about["image_shape"]) == (45, 15, [8, 8, 1])
    assert "validation_accuracy" not in (tmp_path / "model" / "metrics.jsonl").read_text()
