"""A PyTorch network becomes a workdir: imported by its keys, made to forget, evaluated, and compared."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from osp_jax.loading import load_workdir
from osp_jax.trees import differing_paths
from tests.digits import trained_digits
from tests.experiments.conftest import ROOT, assert_one_line_error, run_command

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

NETWORKS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(8, 16, 3, 2, padding=1, bias=False)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(8), nn.BatchNorm2d(16), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        return self.head(x.mean((2, 3)))


def build():
    return Net()


def untraceable():
    class Choosing(Net):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    return Choosing()


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
"""
NAMES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var", "kernel": "weight"}


def state_dict(exclude: tuple[int, ...] = ()) -> dict:
    """The digits network under the names and in the layout of PyTorch."""
    state = {}
    for collection in trained_digits(exclude).model.variables.values():
        for module, leaves in collection.items():
            for name, leaf in leaves.items():
                array = np.asarray(leaf)
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
                state[f"module.{module}.{NAMES[name]}"] = torch.from_numpy(np.array(array, order="C"))
            if "mean" in leaves:
                state[f"module.{module}.num_batches_tracked"] = torch.tensor(7)
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("torch")
    (made / "net.py").write_text(NETWORKS)
    torch.save({"epoch": 3, "state_dict": state_dict()}, made / "model.pt")
    torch.save(state_dict((3,)), made / "without_3.pt")
    return made


def imported(folder: Path, workdir: Path, *changes: str):
    given = {
        "network": f"{folder}/net.py:build",
        "weights": f"{folder}/model.pt",
        "data": "digits",
        "mean": "0.305434",
        "std": "0.375957",
        "workdir": str(workdir),
    }
    given |= dict(change.split("=", 1) for change in changes)
    return run_command("experiments.import_model", *(f"--{name}={value}" for name, value in given.items()))


@pytest.fixture(scope="module")
def model(folder) -> Path:
    done = imported(folder, folder / "model", "recipe=configs/digits.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"imported: {folder / 'model'}; test accuracy 97.78% of 360 images\n"
    return folder / "model"


@pytest.fixture(scope="module")
def unlearned(folder, model) -> Path:
    out = folder / "unlearned"
    done = run_command("experiments.unlearn", f"--workdir={model}", "--forget=3", f"--out={out}", "--accept")
    assert done.returncode == 0, done.stderr
    return out


def test_the_record_says_where_each_entry_is_in_the_file(model):
    network = json.loads((model / "config.json").read_text())["network"]
    assert (network["framework"], network["function"], network["recipe"]) == ("torch", "net.py:build", True)
    assert network["weights"]["keys"]["bn1.running_mean"] == "module.bn1.running_mean"
    assert (model / network["weights"]["file"]).read_bytes() == (model.parent / "model.pt").read_bytes()


def test_the_model_is_that_of_flax(model):
    original, images = trained_digits().model, np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    found = load_workdir(model).model
    np.testing.assert_allclose(
        found.apply(found.variables, images), original.apply(original.variables, images), atol=1e-4
    )


def test_a_prepared_request_gives_the_same_entries(folder, model, unlearned):
    workdir = shutil.copytree(model, folder / "prepared")
    done = run_command("experiments.prepare", f"--workdir={workdir}", "--classes=3")
    assert done.returncode == 0, done.stderr
    out = folder / "looked_up"
    done = run_command("experiments.unlearn", f"--workdir={workdir}", "--forget=3", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "prepared" in done.stdout
    assert not differing_paths(load_workdir(unlearned).model.variables, [load_workdir(out).model.variables])


def test_it_is_compared_with_an_imported_retrained_network(folder, unlearned):
    reference = folder / "reference"
    done = imported(folder, reference, f"weights={folder}/without_3.pt", "exclude=3")
    assert done.returncode == 0, done.stderr
    done = run_command("experiments.eval", f"--workdir={unlearned}", f"--reference={reference}")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((unlearned / "eval.json").read_text())
    assert evaluation["unlearned"]["test_forget_accuracy"] < 0.05
    assert evaluation["retrained"]["test_forget_accuracy"] == 0
    assert evaluation["model"] == {"name": "build", "parameters": 6274}


def test_a_second_request_and_each_class_in_turn(model, unlearned, tmp_path):
    done = run_command("experiments.unlearn", f"--workdir={unlearned}", "--forget=5", f"--out={tmp_path / 'twice'}")
    assert done.returncode in (0, 3), done.stderr
    done = run_command("experiments.sweep", f"--workdir={model}", "--methods=logit-mask,osp-fit", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "results.json").read_text())["classes"]) == 10


def test_it_trains_further_with_its_recipe_but_is_not_started_anew(model, tmp_path):
    request = [f"--workdir={model}", "--forget=3", "--accept", f"--out={tmp_path / 'out'}"]
    done = run_command("experiments.unlearn", *request, "--method=finetune", "--option=epochs=1")
    assert done.returncode == 0, done.stderr
    done = run_command("experiments.unlearn", *request, "--method=retrain", "--overwrite")
    assert_one_line_error(done.returncode, done.stderr, "retrain", "in its own framework", "--exclude")


def test_commands_do_not_import_torch_where_no_network_needs_it():
    read = "import sys, osp_jax.loading, experiments.unlearn; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", read], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bad_input_is_one_line(folder, tmp_path):
    torch.save({**state_dict(), "module.extra": torch.ones(2)}, folder / "extra.pt")
    torch.save({k: v for k, v in state_dict().items() if "conv2" not in k}, folder / "missing.pt")
    cases = (
        (f"weights={folder}/extra.pt", ("extra.pt", "module.extra")),
        (f"weights={folder}/missing.pt", ("missing.pt", "conv2.weight")),
        (f"network={folder}/net.py:lazy", ("lazy layer",)),
        (f"network={folder}/net.py:untraceable", ("net.py",)),
    )
    for change, words in cases:
        done = imported(folder, tmp_path / "out", change)
        assert_one_line_error(done.returncode, done.stderr, *words)
        assert not (tmp_path / "out").exists()
