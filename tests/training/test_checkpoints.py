"""Stored values are restored, and damage is reported."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.serialization import to_state_dict

from osp_jax import statistics_files
from osp_jax.interop.linen import from_linen
from osp_jax.networks import create_model, init_variables, variable_shapes
from osp_jax.runtime.arrays import save_tree
from osp_jax.runtime.distributed import count_compilations
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import SUMS
from osp_jax.statistics import collect_statistics
from osp_jax.training import checkpoints as checkpoint
from osp_jax.training.state import create_optimiser, create_state

SHAPE = (8, 8, 1)
MODEL = create_model("resnet8", 3, SHAPE, width=4)


def assert_equal(left, right):
    def same(a, b):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)

    jax.tree.map(same, left, right)


@pytest.fixture(scope="module")
def variables() -> dict:
    return init_variables(MODEL, SHAPE, jax.random.key(0))


@pytest.fixture(scope="module")
def abstract() -> dict:
    return variable_shapes(MODEL, SHAPE)


@pytest.fixture(scope="module")
def stored(variables, tmp_path_factory) -> Path:
    """A workdir with one checkpoint; to be copied before it is changed."""
    workdir = tmp_path_factory.mktemp("stored")
    checkpoint.save_variables(workdir, variables)
    return workdir


@pytest.fixture
def state(variables):
    state = create_state(variables, create_optimiser(optax.constant_schedule(0.1), 0.9, 1e-4))
    momentum = jax.tree.map(lambda leaf: leaf + 1 if leaf.ndim else leaf, state.opt_state)
    return dataclasses.replace(state, step=jnp.int32(7), opt_state=momentum)


def statistics(variables, keep_features: int, cached_inputs: int = 0):
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (12, *SHAPE), np.uint8), np.arange(12, dtype=np.int32) % 3
    model = from_linen(MODEL, variables, mean=(0.5,), std=(0.3,), class_names=["a", "b", "c"])
    return collect_statistics(model, [batch], keep_features=keep_features, cached_inputs=cached_inputs)


# Round trips.


def test_variables_come_back_as_they_were(stored, variables, abstract):
    assert_equal(checkpoint.load_variables(stored, abstract), variables)


def test_a_program_over_what_was_loaded_and_what_was_not_is_compiled_once(stored, variables, abstract):
    add = jax.jit(lambda left, right: jax.tree.map(jnp.add, left, right))
    loaded = checkpoint.load_variables(stored, abstract)
    with count_compilations() as compiled:
        add(add(loaded, variables), loaded)
    assert compiled() == 1


def test_the_newest_epoch_is_loaded_by_number_not_by_name(variables, abstract, tmp_path):
    checkpoint.save_variables(tmp_path, variables)
    older = jax.tree.map(jnp.zeros_like, variables)
    checkpoint.save_variables(tmp_path / "older", older)
    (tmp_path / "checkpoints" / "0").rename(tmp_path / "checkpoints" / "10")
    (tmp_path / "older" / "checkpoints" / "0").rename(tmp_path / "checkpoints" / "9")
    (tmp_path / "checkpoints" / "11.orbax-checkpoint-tmp").mkdir()  # what a killed run leaves
    assert_equal(checkpoint.load_variables(tmp_path, abstract), variables)


def test_a_training_state_comes_back_as_it_was(state, abstract, variables, tmp_path):
    with checkpoint.training_checkpoints(tmp_path, every=1, keep=2) as checkpoints:
        assert checkpoint.restore_state(checkpoints, state) == (0, state)
        checkpoint.save_state(checkpoints, 1, state, last=False)
    like = jax.tree.map(jnp.zeros_like, state)
    with checkpoint.training_checkpoints(tmp_path, every=1, keep=2) as checkpoints:
        epoch, restored = checkpoint.restore_state(checkpoints, like)
    assert epoch == 1
    assert_equal(restored, state)
    assert_equal(checkpoint.load_variables(tmp_path, abstract), variables)


@pytest.mark.parametrize(("keep_features", "cached_inputs"), [(5, 0), (0, 0), (5, 3)])
def test_statistics_come_back_as_they_were_with_the_table_of_gates(keep_features, cached_inputs, variables, tmp_path):
    before = statistics(variables, keep_features, cached_inputs)
    statistics_files.save_statistics(tmp_path / "statistics", before)
    after = statistics_files.load_statistics(tmp_path / "statistics")
    assert_equal(after, before)
    assert after.gates == before.gates
    assert after.features.shape[0] == keep_features
    assert {len(values) for values in after.cached_inputs} == ({cached_inputs} if cached_inputs else set())


# What the first version with stored statistics wrote: a table of channel groups instead of gates.


def of_older_version(statistics, path: Path, channels: int = 0) -> None:
    """The last block of the residual stream was one group with the stem, and there were no groups of reads."""
    new = set(statistics.layers) - {"stem_bn", "stage2_block1/conv1/input"}
    layers = {name: statistics.layers[name] for name in new}
    layers |= {"stage1_block1/bn2": statistics.layers["stage2_block1/conv1/input"]}
    layers = jax.tree.map(lambda sums: sums if channels == 0 or sums.ndim < 2 else sums[:, :channels], layers)
    layers = to_state_dict(layers)
    for layer in layers.values():
        for reduction in ("mean", "max"):
            del layer[reduction]["deviations"]
    groups = [
        {
            "name": name,
            "channels": layer["mean"]["sum"].shape[1],
            "writers": [{"path": name, "leaves": ["scale", "bias"], "kernel": name.replace("bn", "conv")}],
        }
        for name, layer in layers.items()
    ]
    table = {"groups": groups, "head": "head", "features": "stage3_block1/bn_shortcut"}
    tree = {"layers": layers, "features": statistics.features, "labels": statistics.labels}
    save_tree(path, tree, {"channels": table})


def test_statistics_of_an_older_version_are_taken_with_the_gates_that_both_versions_have(variables, tmp_path):
    before = statistics(variables, 5)
    of_older_version(before, tmp_path / "statistics")
    after = statistics_files.load_statistics(tmp_path / "statistics", lambda: before.gates)
    kept = [group for group in before.gates.groups if group.name not in ("stem_bn", "stage2_block1/conv1/input")]
    assert after.gates == dataclasses.replace(before.gates, groups=tuple(kept))
    assert list(after.layers) == [group.name for group in kept]
    assert_equal(after.features, before.features)
    assert_equal(after.labels, before.labels)
    for name, layer in after.layers.items():
        assert_equal(layer.count, before.layers[name].count)
        assert_equal(layer.max.sum, before.layers[name].max.sum)
        assert layer.mean.deviations is None


def test_what_the_head_reads_is_taken_from_an_older_version_under_its_new_name(variables, tmp_path):
    before = statistics(variables, 5)
    of_older_version(before, tmp_path / "statistics")
    *others, last = before.gates.groups
    renamed = dataclasses.replace(last, name="head/input", writers=())
    gates = dataclasses.replace(before.gates, groups=(*others, renamed), features="head/input")
    after = statistics_files.load_statistics(tmp_path / "statistics", lambda: gates)
    assert after.gates.last == renamed
    assert_equal(after.layers["head/input"].max.sum, before.layers[last.name].max.sum)


def test_statistics_of_an_older_version_are_refused_without_the_network_or_with_another(variables, tmp_path):
    before = statistics(variables, 5)
    of_older_version(before, tmp_path / "statistics")
    with pytest.raises(InputError, match="older version; delete it and collect them again"):
        statistics_files.load_statistics(tmp_path / "statistics")
    of_older_version(before, tmp_path / "narrow", channels=3)
    with pytest.raises(InputError, match="older version; delete it and collect them again"):
        statistics_files.load_statistics(tmp_path / "narrow", lambda: before.gates)


# Damage.


def damages(path: Path):
    whole = path.read_bytes()
    yield "deleted", path.unlink
    yield "empty", lambda: path.write_bytes(b"")
    yield "cut off", lambda: path.write_bytes(whole[: len(whole) // 2])
    yield "overwritten", lambda: path.write_bytes(b"\x55" * len(whole))


def test_a_damaged_checkpoint_is_never_read_as_another(stored, variables, abstract, tmp_path):
    """Each file of it in turn. Without checksums a file that nothing depends on may be missing."""
    for file in sorted(path.relative_to(stored) for path in stored.rglob("*") if path.is_file()):
        copy = shutil.copytree(stored, tmp_path / "copy")
        for what, damage in damages(copy / file):
            damage()
            unchanged = (copy / file).exists() and (copy / file).read_bytes() == (stored / file).read_bytes()
            if unchanged or (file.name, what) == (SUMS, "deleted"):
                continue
            with pytest.raises(InputError, match=r"checkpoints/0/.* is (damaged|missing).*; restore it, or delete"):
                checkpoint.load_variables(copy, abstract)
        (copy / "checkpoints" / "0" / SUMS).unlink(missing_ok=True)
        for _, damage in damages(shutil.copy(stored / file, copy / file)) if file.name != SUMS else ():
            damage()
            try:
                loaded = checkpoint.load_variables(copy, abstract)
            except InputError:
                continue
            assert_equal(loaded, variables)
        shutil.rmtree(copy)


@pytest.mark.parametrize("what", ["deleted", "empty", "cut off", "overwritten"])
def test_a_checkpoint_whose_arrays_are_damaged_is_refused(what, stored, abstract, tmp_path):
    copy = shutil.copytree(stored, tmp_path / "copy")
    largest = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    dict(damages(largest))[what]()
    with pytest.raises(InputError, match=r"checkpoints/0/.* is (damaged|missing).*; restore it, or delete .*/0 "):
        checkpoint.load_variables(copy, abstract)


def test_damaged_statistics_are_refused(variables, tmp_path):
    statistics_files.save_statistics(tmp_path / "statistics", statistics(variables, 5))
    for path in (tmp_path / "statistics").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(InputError, match=r"statistics/.*d/\w+ is damaged: .* delete .*/statistics and"):
        statistics_files.load_statistics(tmp_path / "statistics")


def test_what_is_no_statistics_is_refused(tmp_path):
    save_tree(tmp_path / "tree", {"a": jnp.ones(2)}, {"channels": {"groups": [], "head": "head"}})
    with pytest.raises(InputError, match=r"tree holds no class statistics \(no 'layers'\)"):
        statistics_files.load_statistics(tmp_path / "tree")
    save_tree(tmp_path / "bare", {"a": jnp.ones(2)}, {})
    with pytest.raises(InputError, match="holds no class statistics"):
        statistics_files.load_statistics(tmp_path / "bare")


def test_statistics_that_are_not_there_are_reported(tmp_path):
    with pytest.raises(InputError, match="statistics does not exist"):
        statistics_files.load_statistics(tmp_path / "statistics")


def test_a_workdir_without_checkpoint_is_reported(abstract, tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint; train one"):
        checkpoint.load_variables(tmp_path, abstract)
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoint.load_variables(tmp_path, abstract)


@pytest.mark.parametrize("other", [("resnet8", 8), ("resnet20", 4), ("vgg11", 4)], ids=str)
def test_a_checkpoint_of_another_model_is_refused(other, stored):
    model = create_model(other[0], 3, (32, 32, 1), width=other[1])
    like = variable_shapes(model, (32, 32, 1))
    with pytest.raises(InputError, match="checkpoints/0 is of another model"):
        checkpoint.load_variables(stored, like)


def test_a_training_state_of_another_optimiser_is_refused(state, tmp_path):
    with checkpoint.training_checkpoints(tmp_path, every=1, keep=2) as checkpoints:
        checkpoint.save_state(checkpoints, 1, state, last=False)
    like = create_state(state.variables, optax.adam(0.1))
    with (
        checkpoint.training_checkpoints(tmp_path, every=1, keep=2) as checkpoints,
        pytest.raises(InputError, match="checkpoints/1 is of another model"),
    ):
        checkpoint.restore_state(checkpoints, like)
