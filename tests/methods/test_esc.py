"""ESC: the head by singular values, the erased directions, and the effect on the class."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.data.augment import Preparation
from osp_jax.methods import unlearn_classes
from osp_jax.methods.esc import Esc, erase_directions
from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaves_by_path
from tests.methods.digits_by_hand import layer_columns
from tests.small_networks import SHAPE, assert_close


def request_to(trained, images, **options):
    """The new model; the forgotten images are `images`, uint8."""
    data = SimpleNamespace(
        images=jnp.asarray(images),
        preparation=Preparation((0.5,) * 3, (0.3,) * 3),
        forget=lambda: np.arange(len(images)),
    )
    given = {"data": data, "statistics": trained.statistics, "rng": jax.random.key(0)}
    return Esc(**options).unlearn(trained.model, (1,), **given)


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("percent", "erased"), [(1.5, 1), (10.0, 3)])
def test_the_head_is_that_of_the_singular_value_decomposition(digits, percent, erased):
    data = digits.data((3,), forget_per_class=50)
    given = {"data": data, "statistics": digits.statistics, "rng": jax.random.key(0)}
    method = Esc(percent, augment=False, batch_size=20)
    new = unlearn_classes(method, digits.model, (3,), **given).variables
    left, _, _ = np.linalg.svd(layer_columns(digits, data.forget())["head"])
    kernel = np.asarray(digits.model.variables["params"]["head"]["kernel"], np.float64)
    expected = left[:, erased:] @ left[:, erased:].T @ kernel
    assert_close(new["params"]["head"]["kernel"] - kernel, expected - kernel, 1e-4)


def test_it_forgets_the_class_keeps_the_others_and_never_sees_a_retained_image(digits):
    before = digits.accuracies(digits.model, (3,))
    model, data = digits.forget("esc", (3,))
    forget, retain = digits.accuracies(model, (3,))
    assert before[0] > 0.9
    assert forget < 0.1
    assert retain > before[1] - 0.12
    assert data.seen() == {"3": (digits.dataset.train.labels == 3).sum()}


def test_two_classes_are_forgotten_together_by_two_directions(digits):
    model, data = digits.forget("esc", (3, 5), percent=7.0)
    forget, retain = digits.accuracies(model, (3, 5))
    assert forget < 0.2
    assert retain > 0.85
    assert data.seen().keys() == {"3", "5"}


def test_nothing_but_the_heads_kernel_changes(digits):
    model, _ = digits.forget("esc", (3,))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), model.variables, digits.model.variables)
    assert changed["params"]["head"].pop("kernel")
    assert not any(jax.tree.leaves(changed))


@pytest.mark.parametrize("name", ["flat_mlp", "allcnn"])  # a dense head, and one that reads a map
def test_where_every_direction_is_erased_the_forgotten_images_give_the_bias(name, request):
    trained = request.getfixturevalue(name)
    images = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)
    model = request_to(trained, images, percent=100.0)
    inputs = (images / np.float32(255) - 0.5) / 0.3
    before, after = (np.asarray(jax.jit(m.apply)(m.variables, inputs)) for m in (trained.model, model))
    bias = leaves_by_path(model.variables)[trained.statistics.gates.head.bias]
    bias = np.broadcast_to(bias, after.shape)
    # What is below a thousandth of the largest singular value counts as rounding and stays.
    np.testing.assert_allclose(after, bias, atol=2e-3 * np.abs(before - bias).max())


def test_features_orthogonal_to_every_forgotten_one_give_the_same_logits():
    basis = np.linalg.qr(normal(8, 8))[0]
    features = normal(20, 3) @ basis[:, :3].T
    kernel = normal(8, 4)
    new = np.asarray(erase_directions(kernel, features.T @ features, 8))
    assert_close(basis[:, 3:].T @ new, basis[:, 3:].T @ kernel)
    np.testing.assert_allclose(features @ new, 0, atol=1e-5)


def test_erasing_the_same_directions_again_changes_nothing():
    features, kernel = normal(20, 8), normal(8, 4)
    once = erase_directions(kernel, features.T @ features, 3)
    assert_close(erase_directions(once, features.T @ features, 3), once)
    assert np.abs(once - kernel).max() > 0.1


def test_features_that_are_all_zero_leave_the_head_as_it_is():
    kernel = normal(8, 4)
    np.testing.assert_array_equal(erase_directions(kernel, np.zeros((8, 8), np.float32), 2), kernel)


@pytest.mark.parametrize("options", [{"percent": -1.0}, {"percent": 101.0}, {"batch_size": 0}], ids=str)
def test_bad_options_are_an_input_error(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Esc(**options)
