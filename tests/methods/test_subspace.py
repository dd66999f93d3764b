"""Deep Unlearning: the projections from the equations, the samples, and the effect on the class."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import from_linen
from osp_jax.methods import unlearn_classes
from osp_jax.methods.subspace import Subspace, chosen_layers, input_moments, project_kernel, random_window
from osp_jax.program.layer_inputs import find_layers
from osp_jax.runtime.errors import InputError
from tests.methods.digits_by_hand import layer_columns, outputs_by_inputs
from tests.small_networks import assert_close, random_variables

EVERY_PATCH = {"augment": False, "window": False, "max_patches": 0}


def scaled_projection(columns, alpha):
    """P = U diag(lambda) U^T by the singular value decomposition of R."""
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    share = singular**2 / (singular**2).sum()
    return (left * (alpha * share / ((alpha - 1) * share + 1))) @ left.T


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("alpha_retain", "alpha_forget"), [(100.0, 3.0), (0.5, 30.0)])
def test_every_kernel_is_that_of_the_equations_by_singular_values(digits, alpha_retain, alpha_forget):
    data = digits.data((3, 5), retain_per_class=9, forget_per_class=40)
    method = Subspace(alpha_retain, alpha_forget, samples=80, batch_size=30, **EVERY_PATCH)  # 2 retained batches and 42
    given = {"data": data, "statistics": digits.statistics, "rng": jax.random.key(0)}
    new = unlearn_classes(method, digits.model, (3, 5), **given).variables["params"]
    retain, forget = (layer_columns(digits, side()) for side in (data.retain, data.forget))
    for name in retain:
        kernel = outputs_by_inputs(digits.model.variables["params"][name]["kernel"])
        p_r, p_f = scaled_projection(retain[name], alpha_retain), scaled_projection(forget[name], alpha_forget)
        update = np.eye(len(p_r)) - (p_f - p_f @ p_r)
        assert_close(outputs_by_inputs(new[name]["kernel"]) - kernel, kernel @ update.T - kernel, 1e-4)


def test_it_forgets_the_class_keeps_the_others_and_repeats_itself_under_the_same_seed(digits):
    before = digits.accuracies(digits.model, (3,))
    model, data = digits.forget("subspace", (3,), alpha_retain=30.0)
    forget, retain = digits.accuracies(model, (3,))
    assert before[0] > 0.9
    assert forget < 0.1
    assert retain > before[1] - 0.12
    assert data.seen() == {str(c): min(100 if c != 3 else 900, n) for c, n in enumerate(class_sizes(digits))}
    jax.tree.map(
        np.testing.assert_array_equal, digits.forget("subspace", (3,), alpha_retain=30.0)[0].variables, model.variables
    )


def class_sizes(digits):
    return np.bincount(digits.dataset.train.labels)


def test_two_classes_are_forgotten_together_and_share_the_samples(digits):
    model, data = digits.forget("subspace", (3, 5), alpha_retain=30.0, samples=160)
    forget, retain = digits.accuracies(model, (3, 5))
    assert forget < 0.3
    assert retain > 0.85
    assert data.seen() == {str(c): 80 if c in (3, 5) else 20 for c in range(10)}


def test_only_the_layers_asked_for_change(digits):
    model, _ = digits.forget("subspace", (3,), layers="conv[23]", samples=90)
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), model.variables, digits.model.variables)
    assert {name for name, leaves in changed["params"].items() if any(leaves.values())} == {"conv2", "conv3"}
    assert not any(jax.tree.leaves(changed["batch_stats"]))


def test_layers_that_match_nothing_are_an_input_error_before_and_at_the_request(digits):
    with pytest.raises(InputError, match="use layers=''"):
        digits.forget("subspace", (3,), layers="stage", samples=90)
    with pytest.raises(InputError, match="use layers=''"):
        Subspace(layers="bn").check(digits.model, None)
    Subspace(layers="conv1").check(digits.model, None)


@pytest.mark.parametrize(
    "options",
    [{"alpha_retain": 0.0}, {"alpha_forget": -1.0}, {"samples": 0}, {"max_patches": -1}, {"layers": "("}],
    ids=str,
)
def test_bad_options_are_an_input_error(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Subspace(**options)


class PointConv(nn.Module):
    """A 1x1 convolution of one channel: on images of ones its R R^T is the number of rows."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Conv(2, (1, 1), name="conv")(x).mean((1, 2))


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({"window": False, "max_patches": 0}, 640, 640),
        ({"window": True, "max_patches": 0}, 90, 90),
        ({"window": False, "max_patches": 90}, 60, 90),  # half of the last batch only fills it up
        ({"window": False, "max_patches": 2}, 2, 3),  # at least one a batch
    ],
)
def test_patches_count_once_and_are_no_more_than_asked_for(options, least, most):
    images = np.full((10, 8, 8, 1), 255, np.uint8)
    variables = random_variables(PointConv(), np.zeros((1, 8, 8, 1), np.float32))
    model = from_linen(PointConv(), variables, mean=(0.0,), std=(1.0,), class_names=("a", "b"))
    data = SimpleNamespace(images=jnp.asarray(images), preparation=Preparation((0.0,), (1.0,)))
    layers = chosen_layers(model, (8, 8, 1), "")
    moments = input_moments(model, layers, data, np.arange(10), Subspace(**options, batch_size=4), jax.random.key(0))
    assert least <= moments[0].item() <= most


def test_a_window_is_three_kernels_wide_and_its_place_random():
    inputs = jnp.arange(2 * 12 * 7 * 2.0).reshape(2, 12, 7, 2)
    module = nn.Conv(1, (3, 2))
    (layer,) = find_layers(module.apply, module.init(jax.random.key(0), inputs), inputs)
    windows = [np.asarray(random_window(layer, inputs, jax.random.key(i))) for i in range(40)]
    places = {(int(w[0, 0, 0, 0]) // 14, int(w[0, 0, 0, 0]) % 14 // 2) for w in windows}
    assert places == {(row, column) for row in range(4) for column in range(2)}
    for window in windows:
        row, column = int(window[0, 0, 0, 0]) // 14, int(window[0, 0, 0, 0]) % 14 // 2
        np.testing.assert_array_equal(window, inputs[:, row : row + 9, column : column + 6])


def test_a_layer_that_reads_nothing_but_zeros_of_the_forgotten_images_stays():
    kernel, rows = normal(6, 4), normal(20, 6)
    np.testing.assert_array_equal(project_kernel(kernel, rows.T @ rows, np.zeros((6, 6)), 100.0, 3.0), kernel)


def test_a_layer_that_reads_nothing_but_zeros_of_the_retained_images_loses_the_forgotten_share():
    kernel, rows = normal(6, 4), normal(20, 6)
    new = project_kernel(kernel, np.zeros((6, 6), np.float32), rows.T @ rows, 100.0, 3.0)
    assert_close(new, kernel - scaled_projection(rows.T, 3.0) @ kernel)


def test_where_the_forgotten_images_share_all_their_space_with_the_retained_ones_nothing_changes():
    kernel, rows = normal(6, 4), normal(20, 6)
    moment = rows.T @ rows
    assert_close(project_kernel(kernel, moment, moment, 1e5, 3.0), kernel, 1e-3)


def test_the_output_for_an_input_orthogonal_to_every_forgotten_one_stays():
    basis = np.linalg.qr(normal(6, 6))[0]
    forgotten, retained = normal(20, 2) @ basis[:, :2].T, normal(20, 6)
    kernel = normal(6, 4)
    new = np.asarray(project_kernel(kernel, retained.T @ retained, forgotten.T @ forgotten, 3.0, 30.0))
    assert_close(basis[:, 2:].T @ new, basis[:, 2:].T @ kernel)
    assert np.abs(basis[:, :2].T @ (new - kernel)).max() > 0.1
