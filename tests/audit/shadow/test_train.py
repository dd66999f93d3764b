"""Shadow models: their images, three ways to the same models, and sets that survive interruptions."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import default
from osp_jax.audit.shadow import sets, train
from osp_jax.audit.shadow.model_epochs import epochs_of_all
from osp_jax.audit.shadow.pool import draw_keep, shadow_pool
from osp_jax.audit.shadow.sets import find_shadows, seconds_per_shadow, shadow_folder
from osp_jax.audit.shadow.train import epoch_orders, order_parts, start_shadows, train_shadows
from osp_jax.data.sources import Dataset, Split
from osp_jax.networks.layers import conv2d
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import read_piece, write_piece
from osp_jax.training import checkpoints as checkpoint

NUMBER = 4


class TinyNet(nn.Module):
    """Compiles in no time, and has what is special about the library's networks: their kernel gradient."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = conv2d(4, (3, 3), use_bias=False, name="conv")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x))
        return nn.Dense(3, name="head")(x.mean(axis=(1, 2)))


@pytest.fixture(scope="module", autouse=True)
def tiny_net():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "build_model", lambda *_: TinyNet())
        yield


def small_config() -> ConfigDict:
    """Three epochs of steps of 16 images."""
    config = default.get_config()
    config.training.epochs = 3
    config.training.batch_size = 16
    return config


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture(scope="module")
def pool(dataset: Dataset) -> Split:
    return shadow_pool(dataset, np.arange(len(dataset.train.labels)))


@pytest.fixture(scope="module")
def keep(pool) -> np.ndarray:
    return draw_keep(pool.labels, NUMBER, seed=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pool, keep) -> tuple[Path, dict]:
    """The folder of the sets, and the models of a set of every class that was trained in turn."""
    folder = tmp_path_factory.mktemp("shadows")
    return folder, train_shadows(small_config(), pool, 3, keep, folder, way="in turn")


# Who sees what.


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(2, 8), st.integers(0, 1000))
def test_every_image_is_in_half_of_the_models_and_every_model_has_as_many_of_a_class(labels, half, seed):
    labels, number = np.array(labels), 2 * half
    keep = draw_keep(labels, number, seed)
    assert keep.shape == (number, len(labels))
    assert keep.dtype == bool
    assert (keep.sum(0) == half).all()
    for c in np.unique(labels):
        counts = keep[:, labels == c].sum(1)
        assert counts.max() - counts.min() <= 1


def test_the_seed_draws_the_halves():
    labels = np.repeat(np.arange(3), 30)
    assert_equal(draw_keep(labels, 8, 1), draw_keep(labels, 8, 1))
    assert (draw_keep(labels, 8, 1) != draw_keep(labels, 8, 2)).any()


def test_two_images_share_a_model_no_more_and_no_less_often_than_by_chance():
    keep = draw_keep(np.zeros(400, int), 64, 0)
    together = (keep[:, ::2] & keep[:, 1::2]).sum(0)  # hypergeometric: 16 on average, standard deviation 2
    assert abs(together.mean() - 16) < 0.6
    assert 1.6 < together.std() < 2.5


@pytest.mark.parametrize("number", [-2, 0, 2, 5])
def test_a_number_that_cannot_be_halved_is_refused(number):
    with pytest.raises(InputError, match="even number"):
        draw_keep(np.zeros(8, int), number, 0)


def test_the_pool_is_the_images_the_original_saw_and_the_test_images_of_its_classes(dataset):
    seen = np.flatnonzero(dataset.train.labels != 2)[::2]
    pool = shadow_pool(dataset, seen)
    assert_equal(pool.images[: len(seen)], dataset.train.images[seen])
    assert_equal(pool.labels[len(seen) :], dataset.test.labels[dataset.test.labels != 2])
    assert len(pool.images) == len(pool.labels)


def test_a_model_is_trained_on_its_own_images_only_and_on_none_left_out(pool, keep):
    start = start_shadows(small_config(), pool, 3, keep, exclude=(1,))
    orders = epoch_orders(start, 1, 16)
    assert orders.shape == (NUMBER, start.steps, 16)
    for order, row in zip(orders, keep, strict=True):
        assert row[order].all()
        assert (pool.labels[order] != 1).all()
        assert len(np.unique(order)) == order.size
    assert (orders[0] != epoch_orders(start, 2, 16)[0]).any()


def test_a_kept_last_batch_shows_each_model_as_many_of_its_images_as_all_have(pool, keep):
    start, most = start_shadows(small_config(), pool, 3, keep), keep.sum(1).min()
    parts = order_parts(start, 1, 10, "keep")
    assert [part.shape for part in parts] == [(NUMBER, most // 10, 10), (NUMBER, 1, most % 10)]
    assert_equal(parts[0], order_parts(start, 1, 10, "drop")[0])
    for row, *orders in zip(keep, *parts, strict=True):
        shown = np.concatenate([order.ravel() for order in orders])
        assert row[shown].all()
        assert len(np.unique(shown)) == most


def test_shadow_models_with_a_kept_last_batch_take_a_step_more(pool, keep, tmp_path):
    config = small_config()
    config.training.epochs, config.training.batch_size = 1, 20
    dropped = shadow_folder(config, pool, keep, tmp_path)
    config.training.last_batch = "keep"
    assert shadow_folder(config, pool, keep, tmp_path) != dropped
    assert start_shadows(config, pool, 3, keep).steps == -(-keep.sum(1).min() // 20) == 3
    variables = train_shadows(config, pool, 3, keep, tmp_path)
    config.training.last_batch = "drop"
    other = train_shadows(config, pool, 3, keep, tmp_path)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(other), strict=True))


def test_settings_of_later_versions_leave_the_key_of_a_set_as_it_was(pool, keep, tmp_path):
    config = small_config()
    found = shadow_folder(config, pool, keep, tmp_path)
    del config.data["pad_mode"], config.training["last_batch"], config.training["optimiser"]
    assert shadow_folder(config, pool, keep, tmp_path) == found


def test_every_model_starts_from_parameters_of_its_own(pool, keep):
    kernels = start_shadows(small_config(), pool, 3, keep).states.params["conv"]["kernel"]
    assert len(np.unique(kernels.reshape(NUMBER, -1)[:, 0])) == NUMBER


def test_models_without_a_class_do_not_depend_on_its_images(pool, keep, tmp_path):
    left_out = np.flatnonzero(pool.labels == 1)
    changed = pool.images.copy()
    changed[left_out] = pool.images[left_out[::-1]]  # the normalisation, which is the pool's, stays as it is
    config = small_config()
    config.training.epochs = 1
    given_ = config, pool, 3, keep, tmp_path / "a"
    first = train_shadows(*given_, exclude=(1,))
    other = train_shadows(config, Split(changed, pool.labels), 3, keep, tmp_path / "b", exclude=(1,))
    assert_equal(first, other)
    assert shadow_folder(config, pool, keep, tmp_path, (1,)) != shadow_folder(config, pool, keep, tmp_path)


# Three ways.


@pytest.mark.parametrize("way", ["together", "a model a device"])
def test_every_way_ends_like_models_trained_in_turn(way, pool, keep):
    if way == "a model a device" and jax.device_count() < 2:
        pytest.skip("one device only")
    start = start_shadows(small_config(), pool, 3, keep)
    orders = epoch_orders(start, 1, 16)
    given_ = start.states, orders, start.step_keys, jnp.float32(1e-3)
    ends, metrics = epochs_of_all("in turn", start.recipe.step, pool, NUMBER)(*given_)
    others, other_metrics = epochs_of_all(way, start.recipe.step, pool, NUMBER)(*given_)
    assert (ends.step == start.steps).all()
    for a, b in zip(jax.tree.leaves(ends), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    for name in ("loss", "accuracy"):
        assert metrics[name].shape == (NUMBER,)
        np.testing.assert_allclose(metrics[name], other_metrics[name], rtol=1e-4)


def test_a_way_that_does_not_fit_is_refused(pool, keep, tmp_path):
    with pytest.raises(InputError, match="unknown way"):
        train_shadows(small_config(), pool, 3, keep, tmp_path, way="at once")
    labels = np.zeros(4, int)
    with pytest.raises(InputError, match="cannot be divided over"):
        epochs_of_all("a model a device", None, Split(np.zeros((4, 1, 1, 1), np.uint8), labels), 4 * 1000 + 1)


# Sets.


@pytest.mark.parametrize("way", ["in turn", "together"])
def test_a_killed_run_loses_at_most_an_interval_and_ends_to_the_bit_like_one_that_was_not(
    way, finished, pool, keep, tmp_path, monkeypatch
):
    def train(folder: Path, on_epoch=lambda _: None) -> dict:
        return train_shadows(small_config(), pool, 3, keep, folder, way=way, checkpoint_every=2, on_epoch=on_epoch)

    def power_failure(epoch: dict) -> None:
        if epoch["epoch"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_state", _unless_epoch(3, checkpoint.save_state))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", power_failure)
    monkeypatch.undo()
    epochs = []
    resumed = train(tmp_path / "killed", lambda epoch: epochs.append(epoch["epoch"]))
    assert epochs == [3]
    undisturbed = finished[1] if way == "in turn" else train(tmp_path / "undisturbed")
    assert_equal(resumed, undisturbed)
    record = read_piece(next((tmp_path / "killed").glob("*/record.json")))
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3]


def _unless_epoch(last: int, save):
    """Saves all but one epoch: the process was killed before."""

    def save_or_not(checkpointer, epoch, state, *, last: bool, broken=last) -> None:
        if epoch != broken:
            save(checkpointer, epoch, state, last=last)

    return save_or_not


def test_a_finished_set_is_read_back_and_not_trained_again(finished, pool, keep, monkeypatch):
    folder, variables = finished
    monkeypatch.setattr(train, "epochs_of_all", lambda *_: pytest.fail("trained again"))
    assert_equal(train_shadows(small_config(), pool, 3, keep, folder), variables)
    (here,) = folder.iterdir()
    assert here == shadow_folder(small_config(), pool, keep, folder)
    assert not (here / "checkpoints").exists()
    assert seconds_per_shadow(here) > 0


def test_the_folder_of_a_set_follows_from_what_its_models_depend_on_and_from_nothing_else(pool, keep):
    def changed(**fields) -> ConfigDict:
        config = small_config()
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config

    home = shadow_folder(small_config(), pool, keep, Path())
    for fields in ({"data__dir": "elsewhere"}, {"checkpoint__every": 7}, {"statistics__features": 3}):
        assert shadow_folder(changed(**fields), pool, keep, Path()) == home
    others = [
        shadow_folder(changed(seed=1), pool, keep, Path()),
        shadow_folder(changed(training__epochs=9), pool, keep, Path()),
        shadow_folder(changed(features__penalty="decorrelation", features__weight=0.1), pool, keep, Path()),
        shadow_folder(small_config(), pool, ~keep, Path()),
        shadow_folder(small_config(), Split(pool.images, pool.labels[::-1]), keep, Path()),
        shadow_folder(small_config(), pool, keep, Path(), (0,)),
        shadow_folder(small_config(), pool, keep, Path(), (0, 1)),
    ]
    assert len({home, *others}) == 8
    assert shadow_folder(small_config(), pool, keep, Path(), (1, 0)) == others[-1]


def test_a_set_of_before_is_taken_for_its_own_recipe_only(pool, keep, tmp_path, monkeypatch):
    """Names of before left out the penalty on features, so that sets of two recipes had one."""
    trained = small_config()
    trained.update_from_flattened_dict({"features.penalty": "decorrelation", "features.weight": 0.1})
    with monkeypatch.context() as patch:
        whole = sets._settings
        patch.setattr(sets, "_settings", lambda c: {k: v for k, v in whole(c).items() if k != "features"})
        old = shadow_folder(trained, pool, keep, tmp_path)
        assert shadow_folder(small_config(), pool, keep, tmp_path) == old
    old.mkdir()
    record = {"number": NUMBER, "exclude": [], "seed": 0, "images": len(pool.labels), "epochs": []}
    write_piece(old / "record.json", record | {"config": trained.to_dict()})
    assert shadow_folder(trained, pool, keep, tmp_path) == old
    assert shadow_folder(small_config(), pool, keep, tmp_path) != old
    without = small_config().to_dict()
    del without["features"]  # of a version that had no such penalty
    write_piece(old / "record.json", record | {"config": without})
    assert shadow_folder(small_config(), pool, keep, tmp_path) == old


def test_a_pair_of_sets_is_found_by_its_recipe(finished, pool, keep):
    folder, variables = finished
    other_length = small_config()
    other_length.training.epochs = 50
    with pytest.raises(InputError, match=r"experiments.shadows .*--forget=2"):
        find_shadows(other_length, pool, 3, folder, (2,))
    without = train_shadows(small_config(), pool, 3, keep, folder, exclude=(2,))
    every, rest = find_shadows(other_length, pool, 3, folder, (2,))
    assert_equal(every.model.variables, variables)
    assert_equal(rest.model.variables, without)
    assert_equal(every.keep, keep)
    assert (every.exclude, rest.exclude) == (every.model.forgotten, rest.model.forgotten) == ((), (2,))
    assert every.config.training.epochs == 3
    other_recipe = small_config()
    other_recipe.training.learning_rate = 0.1
    with pytest.raises(InputError, match="no finished shadow models"):
        find_shadows(other_recipe, pool, 3, folder, (2,))


# What cannot be used.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training.batch_size": 49}, "exceeds the 48 examples of the smallest shadow model"),
        ({"training.start_from": "elsewhere"}, "start_from"),
        ({"training.epochs": 0}, "epochs"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_before_anything_is_written(change, words, pool, keep, tmp_path):
    config = small_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=words):
        train_shadows(config, pool, 3, keep, tmp_path / "sets")
    assert not (tmp_path / "sets").exists()


def test_sets_that_nothing_could_be_trained_for_are_refused(pool, keep, tmp_path):
    with pytest.raises(InputError, match="no example is left"):
        train_shadows(small_config(), pool, 3, keep, tmp_path, exclude=(0, 1, 2))
    with pytest.raises(InputError, match="even number"):
        train_shadows(small_config(), pool, 3, keep[:3], tmp_path)
    with pytest.raises(InputError, match="checkpoint_every"):
        train_shadows(small_config(), pool, 3, keep, tmp_path, checkpoint_every=0)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_is_reported_with_the_model(pool, keep, tmp_path):
    config = small_config()
    config.training.learning_rate = 1e30
    with pytest.raises(InputError, match=r"shadow model \d is not finite in epoch"):
        train_shadows(config, pool, 3, keep, tmp_path)
