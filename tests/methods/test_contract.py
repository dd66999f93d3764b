"""The contract of every method on one tiny network: `unlearn` is a pure function of its inputs."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax import linen as nn

from configs.default import get_config
from osp_jax.data.augment import Preparation
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Split
from osp_jax.interop.linen import from_linen
from osp_jax.methods import METHODS, get_method, unlearn_classes
from osp_jax.methods.parts.data import RequestData, request_data
from osp_jax.model import Model
from osp_jax.networks import init_variables
from osp_jax.statistics import Statistics, collect_statistics

SHAPE, CLASSES, EACH, FORGET = (8, 8, 1), 4, 6, (2,)
EVERYTHING = np.arange(CLASSES * EACH, dtype=np.int32)
PREPARATION = Preparation(mean=(0.5,), std=(0.3,), pad=1)

# Few steps that change something; options that a method does not have are left out.
CHEAP = {
    "epochs": 1, "batch_size": 8, "forget_batch_size": 4, "learning_rate": 0.05, "draws": 8, "per_class": 2,
    "directions": 4, "rounds": 1, "images": 16, "forget_images": 4, "samples": 8, "max_patches": 200, "max_epochs": 1,
    "noise_images": 4, "noise_steps": 2, "noise_repeats": 1, "retain_per_class": 4, "fraction": 0.5, "sparsity": 0.5,
}  # fmt: skip
OWN = {"osp-fit": {"steps": 3}, "ssd": {"alpha": 1.0, "dampening": 0.5}, "esc": {"percent": 20.0}}


class TinyNet(nn.Module):
    """Two convolutions with batch norm and a head."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images
        for i, filters in enumerate((4, 6), start=1):
            x = nn.Conv(filters, (3, 3), strides=2, use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"bn{i}")(x))
        return nn.Dense(CLASSES, name="head")(x.mean(axis=(1, 2)))


class Setting(NamedTuple):
    """What a request starts from."""

    model: Model
    statistics: Statistics
    split: Split


@pytest.fixture(scope="module")
def setting() -> Setting:
    draw = np.random.default_rng(0)
    labels = (EVERYTHING % CLASSES).astype(np.int32)
    pixels = draw.integers(0, 160, (len(labels), *SHAPE)) + 30 * labels[:, None, None, None]
    split, variables = Split(pixels.astype(np.uint8), labels), init_variables(TinyNet(), SHAPE, jax.random.key(0))
    model = from_linen(TinyNet(), variables, mean=(0.5,), std=(0.3,), class_names=("a", "b", "c", "d"))
    statistics = collect_statistics(model, index_batches(split, EVERYTHING, 12), keep_features=24)
    return Setting(model, statistics, split)


def request(setting: Setting, name: str, images: np.ndarray) -> tuple[Model, RequestData]:
    """(model, data) after a request that may see all images but the last of each class."""
    kind, recipe = get_method(name), get_config()
    recipe.training.epochs, recipe.training.batch_size = 1, 8
    data = request_data(
        Split(images, setting.split.labels), EVERYTHING, FORGET, PREPARATION, recipe, retain_per_class=EACH - 1,
        forget_per_class=EACH - 1,
    )  # fmt: skip
    known = {field: value for field, value in CHEAP.items() if hasattr(kind(), field)}
    given = {"data": data, "statistics": setting.statistics, "rng": jax.random.key(1)}
    return unlearn_classes(kind(**known | OWN.get(name, {})), setting.model, FORGET, **given), data


@pytest.mark.parametrize("name", [name for name in METHODS if not get_method(name).only_for])
def test_a_method_is_a_pure_function_of_the_images_that_it_says_it_sees(name, setting):
    sees, labels, old = get_method(name).sees, setting.split.labels, setting.model.variables
    before = jax.tree.map(np.array, (old, setting.statistics))
    images = setting.split.images
    model, data = request(setting, name, images)
    assert model.forgotten == FORGET
    new = model.variables

    # Same structure; something has changed; what was given has not.
    assert jax.tree.structure(new) == jax.tree.structure(old)
    pairs = list(zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True))
    for leaf, was in pairs:
        assert (leaf.shape, leaf.dtype) == (was.shape, was.dtype)
        assert np.isfinite(leaf).all()
    assert any(not np.array_equal(*pair) for pair in pairs)
    jax.tree.map(np.testing.assert_array_equal, (old, setting.statistics), before)
    np.testing.assert_array_equal(data.images, images)

    # What it records as seen is what it may see.
    forgotten = np.isin(labels, FORGET)
    sides = {"retain": set(labels[~forgotten]), "forget": set(labels[forgotten])}
    allowed = {str(c) for side in sees for c in sides[side]}
    assert set(data.seen()) == allowed
    assert all(number < EACH for number in data.seen().values())

    # Another run gives the same result, also where all images that it may not see are others.
    unseen = EVERYTHING >= CLASSES * (EACH - 1)
    for side, members in (("retain", ~forgotten), ("forget", forgotten)):
        unseen = unseen | (members & (side not in sees))
    others = np.where(unseen[:, None, None, None], 255 - images, images)
    assert (others != images).any()
    second, _ = request(setting, name, others)
    jax.tree.map(np.testing.assert_array_equal, new, second.variables)
