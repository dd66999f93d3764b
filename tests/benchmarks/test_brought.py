"""The networks of other people: their variables have the published names, and wrong files are refused; their table."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from benchmarks.brought import __main__ as command
from benchmarks.brought import networks
from benchmarks.brought.table import HEADER, markdown, rows
from osp_jax.data.sources import Dataset, Split
from osp_jax.runtime.errors import InputError

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


def test_the_command_judges_each_class_and_keeps_what_it_found(tmp_path, monkeypatch, capsys):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (80, 8, 8, 3), np.uint8), (np.arange(80) % 10).astype(np.int32)
    split = Split(images, labels)
    dataset = Dataset("cifar10", "small images", tuple("abcdefghij"), split, split)
    module = SMALL["resnet"]
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    monkeypatch.setattr(command, "load_dataset", lambda *_: dataset)
    monkeypatch.setattr(command, "load", lambda *_: (module, variables))
    file = tmp_path / "brought" / "results.json"
    given = [f"--models={tmp_path}", "--networks=resnet", "--methods=logit-mask,osp", "--classes=b,3", f"--json={file}"]
    monkeypatch.setattr(sys, "argv", ["brought", *given])

    command.main()

    results = json.loads(file.read_text())
    assert [(row["method"], row["class"]) for row in results["rows"]] == [
        (method, number) for method in ("logit-mask", "osp") for number in (1, 3)
    ]
    for found in results["rows"]:
        assert found["error"] is None
        assert found["harm"]["max_forgotten"] == 1
        assert 0 <= found["others_after"] <= 1
    assert results["rows"][0]["forgotten_after"] == 0
    assert "logit-mask" in markdown(results)
    assert "logit-mask" in capsys.readouterr().out
