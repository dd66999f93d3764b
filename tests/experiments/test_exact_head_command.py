"""A closed-form head: trained, made to forget, evaluated and exported by the commands, exactly."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from osp_jax.loading import load_workdir
from osp_jax.ridge.files import FOLDER
from tests.experiments.conftest import assert_one_line_error, run_command

RIDGE = [
    "--config=configs/digits.py",
    "--config.training.head=ridge",
    "--config.head.stages=2",
    "--config.head.random_features=16",
    "--config.head.ridge=0.1",
    "--config.statistics.features=200",
]


def fit(backbone, workdir, *options):
    return run_command(
        "experiments.train", *RIDGE, f"--config.training.start_from={backbone}", f"--workdir={workdir}", *options
    )


def unlearn(workdir, out, *options):
    return run_command("experiments.unlearn", f"--workdir={workdir}", f"--out={out}", "--method=exact-head", *options)


def assert_refused(done, *words):
    assert_one_line_error(done.returncode, done.stderr, *words)


def head(workdir):
    model = load_workdir(workdir).model
    return np.concatenate([model.variables["head"]["kernel"], model.variables["head"]["bias"][None]])


@pytest.fixture(scope="module")
def fitted(trained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ridge") / "model"
    done = fit(trained, workdir)
    assert done.returncode == 0, done.stderr
    assert "the network keeps what it learned from the class" in done.stderr
    return workdir


def test_a_class_leaves_as_in_a_fit_without_it_through_every_command_and_a_second_request(trained, fitted, tmp_path):
    done = unlearn(fitted, tmp_path / "out", "--forget=3")
    assert done.returncode == 0, done.stderr
    assert fit(trained, tmp_path / "refit", "--config.data.exclude=3").returncode == 0
    np.testing.assert_allclose(head(tmp_path / "out"), head(tmp_path / "refit"), rtol=1e-6, atol=1e-6)
    done = run_command("experiments.eval", f"--workdir={tmp_path / 'out'}", f"--reference={tmp_path / 'refit'}")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert report["unlearned"]["test_forget_accuracy"] == 0
    assert report["unlearned"]["test_retain_accuracy"] == report["retrained"]["test_retain_accuracy"]
    given = f"--workdir={tmp_path / 'out'}", f"--out={tmp_path / 'w.safetensors'}"
    assert run_command("experiments.export", *given).returncode == 0
    np.testing.assert_array_equal(load_file(tmp_path / "w.safetensors")["head/kernel"], head(tmp_path / "out")[:-1])
    assert unlearn(tmp_path / "out", tmp_path / "second", "--forget=7").returncode == 0
    assert {path.stem for path in (tmp_path / "second" / FOLDER / "moments").iterdir()} == set("01245689")
    assert (head(tmp_path / "second")[-1, [3, 7]] < -1e8).all()


def test_images_leave_as_if_they_had_never_been_there(fitted, tmp_path):
    (tmp_path / "numbers.txt").write_text("5\n17\n40, 200\n")
    done = unlearn(fitted, tmp_path / "out", f"--images={tmp_path / 'numbers.txt'}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["forgotten_images"] == [5, 17, 40, 200]
    assert not {5, 17, 40, 200} & set(np.load(tmp_path / "out" / FOLDER / "numbers.npy").tolist())
    again = unlearn(tmp_path / "out", tmp_path / "again", f"--images={tmp_path / 'numbers.txt'}")
    assert_refused(again, "image 5", "is already forgotten")
    evaluated = run_command("experiments.eval", f"--workdir={tmp_path / 'out'}")
    assert evaluated.returncode == 0, evaluated.stderr


def test_a_head_stands_on_any_network_that_is_imported_as_a_backbone(tmp_path):
    """Here on one whose own head is computed, which no other method could act on."""
    (tmp_path / "net.py").write_text(
        "import jax\n\n\ndef masked():\n"
        "    return lambda v, x: jax.nn.relu(x.reshape(len(x), -1) @ v['first']) @ (v['head'] * v['mask'])\n"
    )
    draw = np.random.default_rng(0)
    shapes = {"first": (64, 40), "head": (40, 10), "mask": (40, 10)}
    np.savez(tmp_path / "w.npz", **{name: draw.normal(size=size).astype(np.float32) for name, size in shapes.items()})
    given = [f"--network={tmp_path / 'net.py'}:masked", f"--weights={tmp_path / 'w.npz'}", "--data=digits"]
    given += ["--mean=0.3", "--std=0.4"]
    assert_refused(run_command("experiments.import_model", *given, f"--workdir={tmp_path / 'no'}"), "no linear head")
    done = run_command("experiments.import_model", *given, f"--workdir={tmp_path / 'net'}", "--backbone")
    assert done.returncode == 0, done.stderr
    done = fit(tmp_path / "net", tmp_path / "head", "--config.head.stages=1", "--config.head.random_features=0")
    assert done.returncode == 0, done.stderr
    assert unlearn(tmp_path / "head", tmp_path / "out", "--forget=3").returncode == 0
    assert load_workdir(tmp_path / "out").model.forgotten == (3,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--forget=3", "--images=n.txt"], ["--forget", "--images"]),
        (["--images=absent.txt"], ["absent.txt", "cannot be read"]),
    ],
)
def test_a_request_that_cannot_be_answered_gets_one_line(fitted, tmp_path, options, words):
    assert_refused(unlearn(fitted, tmp_path / "out", *options), *words)


def test_a_network_without_such_a_head_says_how_to_fit_one(trained, tmp_path):
    assert_refused(unlearn(trained, tmp_path / "out", "--forget=3"), "closed form", "--config.training.head")
    assert_refused(fit("", tmp_path / "out"), "training.start_from")
    assert_refused(fit(trained, tmp_path / "out", "--config.head.stages=99"), "head.stages is 99")
