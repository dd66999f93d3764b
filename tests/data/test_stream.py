"""Images in files give the same results as in memory: arrays, batches, trained parameters, statistics."""

import builtins
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default, imagenet_resnet50
from osp_jax.data.sources import Dataset, load_dataset
from osp_jax.data.stored import StoredImages, centre_square, random_area
from osp_jax.data.stream import epoch_batches, pipeline
from osp_jax.loading import load_workdir
from osp_jax.methods.parts.data import request_data
from osp_jax.networks import build_model
from osp_jax.runtime.distributed import make_mesh, own_rows, using
from osp_jax.runtime.errors import InputError, Stopped
from osp_jax.statistics import statistics_over
from osp_jax.training import loop
from osp_jax.training.loop import train
from osp_jax.training.recipe import image_moments, make_recipe, preparation_of
from tests.data.small_records import CLASSES, TEST, TRAIN, write_records
from tests.trees import relative

SIZE = 224


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tfds")
    write_records(path)
    return path


@pytest.fixture(scope="module")
def stored(folder) -> Dataset:
    return load_dataset("imagenet2012", str(folder), SIZE, stream=True)


@pytest.fixture(scope="module")
def in_memory(folder) -> Dataset:
    return load_dataset("imagenet2012", str(folder), SIZE)


@pytest.fixture(scope="module")
def tiny(folder) -> Dataset:
    """The same set so small that a CPU trains on it."""
    return load_dataset("imagenet2012", str(folder), 16, stream=True)


def small(stream: bool) -> ConfigDict:
    """Two epochs of two steps, augmented on the device."""
    config = default.get_config()
    config.data.stream, config.data.flip, config.data.pad = stream, True, 2
    config.data.validation = 0.25
    config.model.width = 4
    config.training.epochs, config.training.batch_size = 2, 8
    return config


# Arrays.


def test_stored_images_are_the_images_in_memory(stored, in_memory):
    assert isinstance(stored.train.images, StoredImages)
    assert (stored.variant, stored.image_shape) == (in_memory.variant, in_memory.image_shape)
    for name, count in (("train", TRAIN), ("test", TEST)):
        left, right = getattr(stored, name), getattr(in_memory, name)
        assert (left.images.shape, left.images.dtype, len(left.images)) == ((count, SIZE, SIZE, 3), np.uint8, count)
        assert left.images.nbytes == right.images.nbytes
        np.testing.assert_array_equal(left.labels, right.labels)
        assert left.labels.dtype == np.int32


@pytest.mark.parametrize(
    "key",
    [3, -1, slice(1, 6, 2), [4, 0, 4], np.array([[1, 2], [3, 0]]), np.arange(TEST) % 3 == 0, np.zeros(0, int)],
    ids=["number", "from the end", "slice", "list", "table", "mask", "nothing"],
)
def test_an_index_picks_what_it_picks_of_an_array(key, stored, in_memory):
    found, wanted = stored.test.images[key], in_memory.test.images[key]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted)


def test_more_images_than_memory_are_refused(stored, monkeypatch):
    monkeypatch.setattr("osp_jax.data.memory.available_memory", lambda: 3 * SIZE**2 * 3)
    assert len(stored.train.images[:3]) == 3
    with pytest.raises(InputError, match="retain_per_class"):
        np.asarray(stored.train.images)


def test_a_request_reads_no_more_images_than_its_budget(stored):
    indices, config = np.arange(TRAIN, dtype=np.int32), default.get_config()
    given = {"retain_per_class": 2, "forget_per_class": 1}
    data = request_data(stored.train, indices, (1,), None, config, **given)
    assert data.images.shape == (5, SIZE, SIZE, 3)
    labels = stored.train.labels
    for side, number, of_side in (("retain", 2, (0, 2)), ("forget", 1, (1,))):
        first = np.sort(np.concatenate([np.flatnonzero(labels == c)[:number] for c in of_side]))
        taken = getattr(data, side)()
        np.testing.assert_array_equal(data.images[taken], stored.train.images[first])
        np.testing.assert_array_equal(data.labels[taken], labels[first])


# Areas.


def test_random_areas_lie_in_the_image_and_have_the_sizes_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([random_area(400, 300, rng) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert boxes.min() >= 0
    assert right.max() == 400
    assert bottom.max() == 300
    share, ratio = (right - left) * (bottom - top) / (400 * 300), (right - left) / (bottom - top)
    assert share.min() < 0.1
    assert share.max() > 0.95
    assert share.min() > 0.078
    assert ratio.min() > 0.73
    assert ratio.max() < 1.37
    assert abs(np.log(ratio[share < 0.3]).mean()) < 0.03


def test_an_image_that_is_far_too_long_gives_its_middle():
    assert random_area(1000, 10, np.random.default_rng(0)) == (493, 0, 506, 10)
    assert centre_square(301, 229) == (36, 0, 265, 229)


# Batches.


def read(split, rows, *, first=0, epoch=1, random_crops=True):
    order = np.random.default_rng(0).permutation(TRAIN).reshape(3, 8)
    batches = pipeline(split, order, rows, first=first, random_crops=random_crops, seed=0, epoch=epoch)
    images, labels = (np.stack(parts) for parts in zip(*batches, strict=True))
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(labels, split.labels[order[first:, rows]])
    return images, order


def test_processes_read_together_what_one_reads(stored):
    whole, order = read(stored.train, np.arange(8))
    halves = [read(stored.train, rows)[0] for rows in (np.arange(4), np.arange(4, 8))]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)
    plain, _ = read(stored.train, np.arange(8), random_crops=False)
    np.testing.assert_array_equal(plain, stored.train.images[order])


def test_random_crops_differ_by_epoch(stored):
    (one, _), (other, order) = read(stored.train, np.arange(2)), read(stored.train, np.arange(2), epoch=2)
    assert all((a != b).any() for a, b in zip(one[0], other[0], strict=True))
    assert all((a != b).any() for a, b in zip(one[0], stored.train.images[order[0, :2]], strict=True))


def test_beginning_at_a_step_is_going_on_from_a_saved_iterator(stored):
    order = np.arange(TRAIN).reshape(6, 4)
    given = {"random_crops": True, "seed": 0, "epoch": 3}
    begun = iter(pipeline(stored.train, order, np.arange(4), first=0, **given))
    for _ in range(4):
        next(begun)
    restored = iter(pipeline(stored.train, order, np.arange(4), first=0, **given))
    restored.set_state(begun.get_state())
    fresh = iter(pipeline(stored.train, order, np.arange(4), first=4, **given))
    for _ in range(2):
        jax.tree.map(np.testing.assert_array_equal, next(restored), next(fresh))


def test_batches_come_split_over_the_devices_and_whole(stored):
    order = np.arange(TRAIN).reshape(3, 8)
    with using(make_mesh()):
        np.testing.assert_array_equal(own_rows(8), np.arange(8))
        batches = list(epoch_batches(stored.train, order, first=1, random_crops=False, seed=0, epoch=1))
    assert [images.sharding.shard_shape(images.shape)[0] for images, _ in batches] == [1, 1]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), stored.train.images[8:])


# Whole runs.


def test_streamed_training_ends_where_training_in_memory_ends(tiny, folder, tmp_path):
    found = train(small(True), tiny, tmp_path / "streamed")
    wanted = train(small(False), load_dataset("imagenet2012", str(folder), 16), tmp_path / "in_memory")
    assert relative(found, wanted) < 1e-6


def test_a_stopped_run_goes_on_to_the_same_end_to_the_bit(tiny, tmp_path, monkeypatch):
    config = small(True)
    config.data.crop = "resized"
    wanted = train(config, tiny, tmp_path / "whole")
    questions = iter([False, False, False, True])  # the fourth comes after the first step of the second epoch

    class Asked:
        def __enter__(self):
            return lambda: next(questions, False)

        def __exit__(self, *_):
            return None

    with monkeypatch.context() as patch:
        patch.setattr(loop, "termination", Asked)
        with pytest.raises(Stopped, match="in epoch 2"):
            train(config, tiny, tmp_path / "stopped")
    jax.tree.map(np.testing.assert_array_equal, train(config, tiny, tmp_path / "stopped"), wanted)


def test_statistics_count_every_image_once(tiny, folder, tmp_path):
    config = small(True)
    config.training.epochs = 1
    train(config, tiny, tmp_path)
    model = load_workdir(tmp_path).model
    settings = ConfigDict({"batch_size": 5, "features": 6})  # 24 images: four batches, and four images left
    one, other = (
        statistics_over(model, data.train, np.arange(TRAIN), settings, 0)
        for data in (tiny, load_dataset("imagenet2012", str(folder), 16))
    )
    assert all((layer.count == TRAIN / CLASSES).all() for layer in one.layers.values())
    jax.tree.map(np.testing.assert_array_equal, one.layers, other.layers)


def test_the_imagenet_config_has_a_step_on_what_is_streamed(stored):
    config = imagenet_resnet50.get_config()
    config.model.width = 4
    loop.check_settings(config, stored.image_shape)
    model = build_model(config, CLASSES, stored.image_shape)
    mean, std = image_moments(config, stored.train.images, np.arange(TRAIN))
    assert mean == (0.485, 0.456, 0.406)
    recipe = make_recipe(config, model, stored.image_shape, preparation_of(config, mean, std), steps=10)
    order = np.arange(TRAIN).reshape(6, 4)
    batch = next(epoch_batches(stored.train, order, first=0, random_crops=True, seed=0, epoch=1))
    # Traced, not compiled, which takes a CPU a minute.
    after, metrics = jax.eval_shape(recipe.batch_step, recipe.start, batch, recipe.step_key, jnp.float32(1))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, recipe.start)
    assert metrics["loss"].dtype == jnp.float32


# What is refused.


def test_sets_that_cannot_be_streamed_are_refused(folder, monkeypatch):
    with pytest.raises(InputError, match=r"give data\.image_size"):
        load_dataset("imagenet2012", str(folder), stream=True)
    with pytest.raises(InputError, match=r"leave data\.stream out"):
        load_dataset("digits", image_size=8, stream=True)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("crop", "random", "unknown data.crop 'random'"),
        ("crop", "resized", "set data.stream"),
        ("mean", (0.5,), "for each of 3 channels"),
        ("std", (0.5, 0.5, 0.5), "go together"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting, value, message, in_memory, tmp_path):
    config = small(False)
    config.data[setting] = value
    with pytest.raises(InputError, match=message):
        train(config, in_memory, tmp_path)


def test_without_grain_one_line_says_how_to_get_it(stored, tmp_path, monkeypatch):
    imported = builtins.__import__

    def without_grain(name, *given, **options):
        if name == "grain":
            raise ModuleNotFoundError("No module named 'grain'")
        return imported(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", without_grain)
    with pytest.raises(InputError, match=r"pip install 'osp_jax\[stream\]'"):
        train(small(True), stored, tmp_path)
