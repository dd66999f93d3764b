"""Other people's networks: variable names as published, refusal of wrong files, and their table."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import osp_jax
from benchmarks.brought import __main__ as command
from benchmarks.brought import imports, networks
from benchmarks.brought.home import compared_files, compared_logits
from benchmarks.brought.table import HEADER, HOME_HEADER, home_rows, markdown, rows
from osp_jax.data.sources import Dataset, Split
from osp_jax.runtime.errors import InputError
from osp_jax.trees import edited, leaves_by_path

SMALL = {
    "resnet": networks.ResNet(num_blocks=(1, 1), c_hidden=(2, 4)),
    "preactresnet": networks.ResNet(block_class=networks.PreActResNetBlock, num_blocks=(1, 1), c_hidden=(2, 4)),
    "densenet": networks.DenseNet(num_layers=(1, 2), growth_rate=2),
    "googlenet": networks.GoogleNet(stem=4, stages=((((2, 2), (2, 2, 2, 2)),), (((2, 2), (2, 2, 2, 2)),))),
}


def shapes(module, size=8):
    """By path, of `module` on images of `size` pixels a side."""
    images = jnp.zeros((1, size, size, 3))
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def parameters(found):
    return sum(jnp.zeros(shape).size for path, shape in found.items() if path.startswith("params/"))


def test_the_resnet_has_the_published_names_and_size():
    found = shapes(networks.NETWORKS["resnet"].module)
    assert parameters(found) == 272_378
    assert found["params/ResNetBlock_3/Conv_2/kernel"] == (1, 1, 16, 32)
    assert found["params/Dense_0/kernel"] == (64, 10)


def test_the_densenet_has_the_published_names_and_size():
    found = shapes(networks.NETWORKS["densenet"].module)
    assert found["params/DenseBlock_3/DenseLayer_5/Conv_0/kernel"] == (1, 1, 168, 32)
    assert found["params/TransitionLayer_2/Conv_0/kernel"] == (1, 1, 176, 88)
    assert found["params/Dense_0/kernel"] == (184, 10)
    assert found["params/Conv_0/bias"] == (32,)


@pytest.mark.parametrize("name", SMALL)
def test_train_mode_is_the_default_and_moves_the_running_statistics(name):
    module = SMALL[name]
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = module.init(jax.random.key(0), images)
    logits, moved = module.apply(variables, images, mutable=["batch_stats"])
    assert logits.shape == module.apply(variables, images, train=False).shape == (2, 10)
    before, after = (jax.tree.leaves(tree) for tree in (variables["batch_stats"], moved["batch_stats"]))
    assert any(jnp.any(a != b) for a, b in zip(before, after, strict=True))


def written(folder, module, change=lambda variables: variables):
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    path = folder / "weights.msgpack"
    path.write_bytes(serialization.to_bytes(change(variables)))
    return path, variables


def test_weights_come_back_as_they_were_written(tmp_path):
    path, variables = written(tmp_path, SMALL["densenet"])
    read = networks.read_variables(path, SMALL["densenet"])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, read, variables))


def test_weights_of_another_network_are_refused(tmp_path):
    path, _ = written(tmp_path, SMALL["densenet"])
    with pytest.raises(InputError, match="another network than ResNet"):
        networks.read_variables(path, SMALL["resnet"])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        networks.load("resnet", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xc1not msgpack", b"\x93"])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "weights.msgpack"
    path.write_bytes(content)
    with pytest.raises(InputError, match="download it again"):
        networks.read_variables(path, SMALL["resnet"])


def row(method, forgotten, others, *, refused=False, error=None):
    return {
        "network": "resnet",
        "method": method,
        "forgotten_after": forgotten,
        "others_before": 0.9,
        "others_after": others,
        "refused": refused,
        "seconds": 1.5,
        "error": error,
    }


def test_the_table_has_means_and_worst_and_what_was_handed_back():
    found = [row("osp", 0.0, 0.91), row("osp", 0.5, 0.7, refused=True), row("esc", None, None, error="no kernel")]
    first, second = (dict(zip(enumerate(HEADER), cells, strict=True)) for cells in rows(found))
    assert list(first.values()) == ["resnet", "osp", "25.00", "50.00", "-9.50", "-20.00", "1 of 2", "+1.00", "1.50"]
    assert "cannot act" in second.values()


def home_row(number, **changed):
    given = {"network": "vit", "method": "osp-fit", "class": number, "file": "vit.pt", "refused": False, "images": 100}
    given |= {"entries": 5, "changed": 2, "identical": 3, "wrong": 0, "lost": 0, "added": 0}
    return given | {"differing": 0, "difference": 1e-5, "largest": 8.0} | changed


def test_what_goes_home_has_the_worst_of_all_classes():
    (cells,) = home_rows([home_row(0), home_row(1, differing=3, changed=1, wrong=1), home_row(2, difference=4e-5)])
    found = dict(zip(HOME_HEADER, cells, strict=True))
    assert found["Handed out"] == "3 of 3"
    assert found["Changed by the method"] == "1-2"
    assert found["Others identical"] == "9 of 10"
    assert found["Predictions that differ"] == "3 of 100"
    assert found["Largest difference of a logit"] == "4.0e-05 of 8"


def test_refused_requests_are_counted_and_have_no_figures():
    assert home_rows([home_row(0), {**home_row(1), "refused": True}])[0][3] == "1 of 2"
    refused = {key: home_row(0)[key] for key in ("network", "method", "class", "file")} | {"refused": True}
    assert home_rows([refused])[0][4:] == ["-"] * 5


def test_a_file_is_compared_bit_for_bit():
    before = {"net.a": np.float32([0.0, 1.0]), "net.b": np.float32([2.0]), "net.c": np.int64(7), "best": 91.7}
    after = {"net.a": np.float32([-0.0, 1.0]), "net.b": np.float32([3.0]), "net.c": np.int32(7), "new": 1}
    assert compared_files(before, after, ["b"]) == {
        "entries": 4,
        "changed": 1,
        "identical": 0,
        "wrong": 3,  # a sign of zero, a dtype, and an entry that is lost
        "lost": 1,
        "added": 1,
    }
    assert compared_files(before, before, ["b"])["identical"] == 4
    # 'b' is no name of 'net.sub'; a name stands behind a whole part.
    assert compared_files({"net.sub": np.float32([1.0])}, {"net.sub": np.float32([2.0])}, ["b"])["wrong"] == 1


def test_logits_are_compared_by_prediction_and_by_difference():
    ours, theirs = np.float32([[1.0, 2.0], [3.0, 0.0]]), np.float32([[1.0, 2.5], [-3.0, 0.0]])
    assert compared_logits(ours, theirs) == {"images": 2, "differing": 1, "difference": 6.0, "largest": 3.0}


def test_networks_of_two_data_sets_are_not_measured_together(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["brought", f"--models={tmp_path}", "--networks=vit,micronet"])
    with pytest.raises(InputError, match="cifar10 and cifar100"):
        command.main()


def test_a_command_that_fails_is_reported_with_its_last_line():
    with pytest.raises(InputError, match=r"experiments.unlearn --out=x ended with exit code 2: .*--workdir"):
        imports.run("experiments.unlearn", {"out": "x"})


def small_dataset():
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (80, 8, 8, 3), np.uint8), (np.arange(80) % 10).astype(np.int32)
    split = Split(images, labels)
    return Dataset("cifar10", "small images", tuple("abcdefghij"), split, split)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Runs the command on a small network and small images, and returns what it wrote."""
    module, file = SMALL["resnet"], tmp_path / "brought" / "results.json"
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    monkeypatch.setattr(command, "load_dataset", lambda *_: small_dataset())
    monkeypatch.setattr(command, "load", lambda *_: (module, variables))

    def run(**flags):
        words = {"models": tmp_path, "networks": "resnet", "json": file, **flags}
        monkeypatch.setattr(sys, "argv", ["brought", *(f"--{name}={value}" for name, value in words.items())])
        command.main()
        return json.loads(file.read_text())

    return run


def test_the_command_judges_each_class_and_keeps_what_it_found(measured, capsys):
    results = measured(methods="logit-mask,osp", classes="b,3")

    assert [(row["method"], row["class"]) for row in results["rows"]] == [
        (method, number) for method in ("logit-mask", "osp") for number in (1, 3)
    ]
    for found in results["rows"]:
        assert found["error"] is None
        assert found["harm"]["max_forgotten"] == 1
        assert 0 <= found["others_after"] <= 1
    assert results["rows"][0]["forgotten_after"] == 0
    assert "logit-mask" in markdown(results)
    assert "Taken home" not in markdown(results)
    assert "vit.pt" in markdown(results | {"home": [home_row(0)]}).partition("Taken home")[2]
    assert "logit-mask" in capsys.readouterr().out


def test_a_second_measurement_replaces_its_own_rows_only(measured):
    first = measured(methods="logit-mask,osp", classes="1")
    second = measured(methods="osp", classes="2")

    assert [(row["method"], row["class"]) for row in second["rows"]] == [("logit-mask", 1), ("osp", 2)]
    assert second["rows"][0] == first["rows"][0]
    assert [run["methods"] for run in second["networks"]["resnet"]["runs"]] == [["logit-mask"], ["osp"]]


def test_methods_that_change_convolutions_are_judged_by_themselves():
    module = SMALL["resnet"]
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    model = osp_jax.from_linen(module, variables, mean=(0.5,) * 3, std=(0.5,) * 3, class_names=tuple("abcdefghij"))

    def answer(path):
        leaf = leaves_by_path(variables)[path]
        return [command._Answer(model.replace(variables=edited(variables, {path: leaf + 1})), 0.0)]

    answers = {
        "head": answer("params/Dense_0/kernel"),
        "convolution": answer("params/Conv_0/kernel"),
        "norm": answer("params/BatchNorm_0/scale"),
        "error": [command._Answer(None, 0.0, error="no")],
    }
    assert command._judged_together(model, answers) == [["head", "norm", "error"], ["convolution"]]
