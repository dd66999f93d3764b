"""An imported network becomes a workdir that every command can use."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import serialization, traverse_util
from PIL import Image
from safetensors.numpy import save_file

from osp_jax.loading import load_workdir
from tests.digits import trained_digits
from tests.experiments.conftest import assert_one_line_error, run_command

NETWORKS = """
import jax
from flax import nnx
from neighbour import DigitsNet


def linen():
    return DigitsNet()


def function():
    return lambda variables, images: DigitsNet().apply(variables, images, False)


class Net(nnx.Module):
    def __init__(self, rngs):
        pad = ((1, 1), (1, 1))
        self.conv1 = nnx.Conv(1, 8, (3, 3), padding=pad, use_bias=False, rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), 2, padding=pad, use_bias=False, rngs=rngs)
        self.conv3 = nnx.Conv(16, 32, (3, 3), padding=pad, use_bias=False, rngs=rngs)
        self.bn1, self.bn2, self.bn3 = (nnx.BatchNorm(width, rngs=rngs) for width in (8, 16, 32))
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = jax.nn.relu(self.bn2(self.conv2(x)))
        x = jax.nn.relu(self.bn3(self.conv3(x)))
        return self.head(x.mean((1, 2)))


def nnx_module():
    return Net(nnx.Rngs(0))


def needs(width):
    return DigitsNet()


def raises():
    raise ValueError("no such width")


def text():
    return "a network"


def wide():
    return lambda variables, images: DigitsNet().apply(variables, images, False)[:, :4]
"""
MOMENTS = ["--mean=0.305434", "--std=0.375957"]  # of the training images
SOURCES = {"linen": "weights.msgpack", "nnx_module": "weights.npz", "function": "weights.safetensors"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the source of networks, and the weights of the digits network in three formats."""
    made = tmp_path_factory.mktemp("brought")
    (made / "net.py").write_text(NETWORKS)
    (made / "neighbour.py").write_text("from tests.digits import DigitsNet\n")
    variables = jax.device_get(trained_digits().model.variables)
    (made / "weights.msgpack").write_bytes(serialization.msgpack_serialize(variables))
    flat = traverse_util.flatten_dict(variables, sep=".")
    save_file({key: np.ascontiguousarray(value) for key, value in flat.items()}, made / "weights.safetensors")
    # An NNX state has parameters and statistics side by side.
    whole = {key.partition(".")[2]: value for key, value in flat.items()}
    np.savez(made / "weights.npz", **whole)
    without = jax.device_get(trained_digits((3,)).model.variables)
    (made / "without_3.msgpack").write_bytes(serialization.msgpack_serialize(without))
    return made


def imported(folder: Path, workdir: Path, function: str = "linen", *more: str, weights: str = ""):
    given = [f"--network={folder}/net.py:{function}", f"--weights={folder / (weights or SOURCES.get(function, ''))}"]
    return run_command("experiments.import_model", *given, "--data=digits", *MOMENTS, f"--workdir={workdir}", *more)


@pytest.fixture(scope="module", params=SOURCES)
def model(request, folder) -> Path:
    """The workdir of each kind of network."""
    workdir = folder / f"model_{request.param}"
    done = imported(folder, workdir, request.param)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"imported: {workdir}; test accuracy 97.78% of 360 images\n"
    assert "warning" not in done.stderr
    return workdir


@pytest.fixture(scope="module")
def linen(folder) -> Path:
    workdir = folder / "linen"
    done = imported(folder, workdir, "linen")
    assert done.returncode == 0, done.stderr
    return workdir


def test_a_workdir_has_the_layout_of_the_contract_and_gives_the_same_logits(model):
    assert {path.name for path in model.iterdir()} == {
        "config.json",
        "checkpoints",
        "statistics",
        "imported",
        "SHA256SUMS",
    }
    trained, original = load_workdir(model), trained_digits()
    kept = model / trained.record["network"]["weights"]["file"]
    assert kept.read_bytes() == (model.parent / kept.name).read_bytes()
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    wanted = original.model.apply(original.model.variables, images)
    np.testing.assert_allclose(trained.model.apply(trained.model.variables, images), wanted, atol=1e-4)


def test_it_forgets_a_class_and_then_another_and_is_evaluated(model, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    for source, out, number in ((model, once, 3), (once, twice, 5)):
        done = run_command(
            "experiments.unlearn", f"--workdir={source}", f"--forget={number}", f"--out={out}", "--accept"
        )
        assert done.returncode == 0, done.stderr
    record = json.loads((twice / "config.json").read_text())
    assert record["network"] == json.loads((model / "config.json").read_text())["network"]
    assert load_workdir(twice).model.forgotten == (3, 5)
    assert (twice / record["network"]["weights"]["file"]).exists()
    done = run_command("experiments.eval", f"--workdir={twice}", "--audit=none")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((twice / "eval.json").read_text())
    assert evaluation["original"]["test_forget_accuracy"] > 0.9
    assert evaluation["unlearned"]["test_forget_accuracy"] < 0.05
    assert evaluation["model"]["name"] == model.name.removeprefix("model_")
    assert evaluation["model"]["parameters"] == 6274


def test_it_is_compared_with_an_imported_retrained_network(folder, linen, tmp_path):
    reference, out = tmp_path / "reference", tmp_path / "out"
    done = imported(folder, reference, "linen", "--exclude=3", weights="without_3.msgpack")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"imported: {reference}; test accuracy 96.59% of 323 images\n"
    assert load_workdir(reference).model.forgotten == (3,)
    for arguments in (
        ("unlearn", f"--workdir={linen}", "--forget=3", f"--out={out}", "--accept"),
        ("eval", f"--workdir={out}", f"--reference={reference}"),
    ):
        done = run_command(f"experiments.{arguments[0]}", *arguments[1:])
        assert done.returncode == 0, done.stderr
    evaluation = json.loads((out / "eval.json").read_text())
    assert evaluation["retrained"]["test_forget_accuracy"] == 0
    assert "relearning" in evaluation["unlearned"]["measures"]

    done = run_command("experiments.eval", f"--workdir={out}", f"--reference={linen}")
    assert_one_line_error(done.returncode, done.stderr, "without classes []", "imported with --exclude=3")


@pytest.mark.slow  # the sweep of a network of ours runs on every change
def test_each_class_in_turn(linen, tmp_path):
    done = run_command("experiments.sweep", f"--workdir={linen}", "--methods=logit-mask,osp-fit", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["classes"]) == 10
    assert results["accuracy"] == pytest.approx(352 / 360)


def test_methods_that_train_need_the_recipe(folder, linen, tmp_path):
    for name in ("finetune", "retrain"):
        request = ["--forget=3", f"--method={name}", "--accept", f"--out={tmp_path / name}"]
        done = run_command("experiments.unlearn", f"--workdir={linen}", *request)
        assert_one_line_error(done.returncode, done.stderr, name, "import it again with --recipe=configs/")
    done = run_command("experiments.sweep", f"--workdir={linen}", "--methods=finetune", f"--out={tmp_path / 'sweep'}")
    assert_one_line_error(done.returncode, done.stderr, "--recipe=configs/")
    done = run_command("experiments.shadows", f"--workdir={linen}", "--forget=3", f"--out={tmp_path / 'shadows'}")
    assert_one_line_error(done.returncode, done.stderr, "--recipe=configs/")

    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from configs import digits\n\n\ndef get_config():\n    config = digits.get_config()\n"
        "    config.training.epochs = 1\n    config.data.name = 'another'\n    return config\n"
    )
    model = tmp_path / "with_recipe"
    done = imported(folder, model, "linen", f"--recipe={recipe}")
    assert done.returncode == 0, done.stderr
    config = json.loads((model / "config.json").read_text())["config"]
    assert (config["training"]["epochs"], config["data"]["name"], config["model"]["name"]) == (
        1,
        "digits",
        "net.py:linen",
    )
    for name, options in (("finetune", ["--option=epochs=1"]), ("retrain", [])):
        request = ["--forget=3", f"--method={name}", "--accept", f"--out={tmp_path / name}", *options]
        done = run_command("experiments.unlearn", f"--workdir={model}", *request)
        assert done.returncode == 0, done.stderr


def test_what_cannot_be_trained_anew_is_reported(folder, tmp_path):
    model = tmp_path / "function"
    done = imported(folder, model, "function", "--recipe=configs/digits.py")
    assert done.returncode == 0, done.stderr
    for name, words in (
        ("retrain", "retrain it without the class in its own framework"),
        ("finetune", "no train mode"),
    ):
        request = ["--forget=3", f"--method={name}", f"--out={tmp_path / 'out'}"]
        done = run_command("experiments.unlearn", f"--workdir={model}", *request)
        assert_one_line_error(done.returncode, done.stderr, name, words)
    done = run_command("experiments.shadows", f"--workdir={model}", "--forget=3", f"--out={tmp_path / 'shadows'}")
    assert_one_line_error(done.returncode, done.stderr, "shadow models", "Linen")


def test_the_order_of_the_classes_is_found_and_can_be_given(folder, tmp_path):
    order = "1,0,2,3,4,5,6,7,9,8"
    done = imported(folder, tmp_path / "wrong", "linen", f"--class_names={order}")
    assert done.returncode == 0, done.stderr
    assert "warning: test accuracy is 59" in done.stderr
    assert "--class_names=0,1,2,3,4,5,6,7,8,9 it is 97.8%" in done.stderr


def test_another_normalisation_is_found(folder, tmp_path):
    done = imported(folder, tmp_path / "wrong", "linen", "--mean=0", "--std=0.00392157")
    assert done.returncode == 0, done.stderr
    assert "warning: test accuracy is" in done.stderr
    assert "(of these images)" in done.stderr


def test_a_source_that_was_changed_is_refused(folder, linen, tmp_path):
    workdir, source = shutil.copytree(linen, tmp_path / "copy"), tmp_path / "net.py"
    again = ["--forget=3", f"--out={tmp_path / 'out'}"]
    shutil.copy(folder / "neighbour.py", tmp_path)
    shutil.copy(folder / "net.py", source)
    done = imported(tmp_path, workdir, "linen", "--overwrite", weights=str(folder / "weights.msgpack"))
    assert done.returncode == 0, done.stderr
    source.write_text(source.read_text() + "\n# another line\n")
    done = run_command("experiments.unlearn", f"--workdir={workdir}", *again)
    assert_one_line_error(done.returncode, done.stderr, str(source), "was changed since the import", "import_model")
    source.unlink()
    done = run_command("experiments.unlearn", f"--workdir={workdir}", *again)
    assert_one_line_error(done.returncode, done.stderr, str(source), "does not exist any more", "import_model")


def test_only_an_imported_model_is_replaced(folder, linen, trained, tmp_path):
    done = imported(folder, linen)
    assert_one_line_error(done.returncode, done.stderr, f"{linen} exists", "--overwrite")
    done = imported(folder, trained, "linen", "--overwrite")
    assert_one_line_error(done.returncode, done.stderr, "replaces an imported model only", "is not one")
    copy = shutil.copytree(linen, tmp_path / "copy")
    (copy / "mine.txt").write_text("not theirs")
    done = imported(folder, copy, "linen", "--overwrite")
    assert_one_line_error(done.returncode, done.stderr, "holds mine.txt")
    done = imported(folder, folder, "linen", "--overwrite")
    assert_one_line_error(done.returncode, done.stderr, "holds", "choose another --workdir")


def test_damage_is_named_with_the_command_that_makes_it_again(linen, tmp_path):
    workdir = shutil.copytree(linen, tmp_path / "copy")
    (workdir / "imported" / "weights.msgpack").write_bytes(b"damaged")
    done = run_command("experiments.unlearn", f"--workdir={workdir}", "--forget=3", f"--out={tmp_path / 'out'}")
    assert_one_line_error(done.returncode, done.stderr, "weights.msgpack is damaged", "experiments.import_model")


def test_bad_input_is_one_line(folder, tmp_path):
    def refused(*changes: str, words: tuple[str, ...]) -> None:
        given = {
            "network": f"{folder}/net.py:linen",
            "weights": f"{folder}/weights.msgpack",
            "data": "digits",
            "mean": "0.3",
            "std": "0.4",
            "workdir": str(tmp_path / "out"),
        }
        for change in changes:
            name, _, value = change.partition("=")
            given[name] = value
        arguments = [f"--{name}={value}" for name, value in given.items() if value]
        done = run_command("experiments.import_model", *arguments)
        assert_one_line_error(done.returncode, done.stderr, *words)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not (tmp_path / "out").exists()

    net = f"{folder}/net.py"
    refused("network=linen", words=("'linen'", "MODULE:FUNCTION"))
    refused("network=no_such_module:build", words=("no module no_such_module", "MODULE:FUNCTION"))
    refused(f"network={folder}/none.py:build", words=("none.py does not exist", "FUNCTION"))
    refused(f"network={net}:build", words=("has no function build", "linen"))
    refused(f"network={net}:needs", words=("needs arguments (width)", "def network()"))
    refused(f"network={net}:raises", words=("net.py, line ", "ValueError: no such width"))
    refused(f"network={net}:text", words=("'a network'", "torch.nn.Module"))
    refused(f"network={net}:wide", words=("(2, 4)", "(2, 10)"))
    refused("weights=" + net, words=(net,))
    refused(f"weights={folder}/none.msgpack", words=("none.msgpack does not exist",))
    refused(f"weights={folder}/weights.npz", f"network={net}:nnx_module", "image_size=4", "std=", words=("--std",))
    refused("mean=", words=("--mean is missing", "0.485,0.456,0.406", "--mean=0 --std=1"))
    refused("mean=a", words=("--mean is 'a'", "0.485,0.456,0.406"))
    refused("mean=123.7", words=("--mean is '123.7'", "255"))
    refused("std=0", words=("--std is '0'",))
    refused("mean=0.1,0.2", words=("--mean has 2 numbers", "1 channels"))
    refused("class_names=a,b", words=("--class_names", "'a'"))
    refused("exclude=12", words=("unknown class '12'",))
    refused("recipe=none.py", words=("none.py does not exist",))
    refused("data=no_such_set_of_images", words=("no_such_set_of_images",))
    refused("validation=nan", words=("validation",))
    for size, name in enumerate("ab", start=8):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            image = Image.fromarray(np.zeros((size, size), np.uint8))
            image.save(tmp_path / "images" / name / f"{number}.png")
    images = f"data=folder:{tmp_path}/images"
    refused(images, words=("as in --validation=0.2",))
    refused(images, "validation=0.5", words=("8x8", "9x9", "set --image_size to"))
