"""MSG: its gradient, its reset and its rates by hand, and its effect on the digits."""

import jax
import numpy as np
import pytest

from osp_jax.methods import get_method, msg
from osp_jax.program.kernels import KernelAxes
from osp_jax.runtime.errors import InputError
from tests.methods.linear import MODEL, assert_close, gradient, images_of, request


@pytest.mark.parametrize(("counts", "forget"), [((3, 3), (1,)), ((3, 4, 2), (1, 2))])
def test_the_gradient_is_that_of_as_many_retained_images_as_there_are_minus_that_of_the_forgotten(counts, forget):
    split = images_of(counts)  # no more retained than forgotten images, so the draw is all of them
    found = msg.gradient_difference(MODEL, request(split, forget), 64, jax.random.key(0))
    forgotten = np.isin(split.labels, forget)
    sides = [gradient(split, side, split.labels[side]) for side in map(np.flatnonzero, (~forgotten, forgotten))]
    assert_close(found["params"], jax.tree.map(np.subtract, *sides))


def test_weights_of_each_convolution_with_the_smallest_gradients_are_drawn_anew_and_learn_faster():
    draw = np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 3, 8, 16), "bias": (16,)}, "head": {"kernel": (16, 4)}}
    leaves = {"is_leaf": lambda shape: isinstance(shape, tuple)}
    params, gradients = (
        jax.tree.map(lambda shape: draw.normal(size=shape).astype(np.float32), shapes, **leaves) for _ in range(2)
    )
    kernels = {"conv/kernel": KernelAxes((2,), (3,), (0, 1))}
    new, factors = msg.reset(params, gradients, kernels, 0.25, 0.1, jax.random.key(0))
    size = np.abs(gradients["conv"]["kernel"])
    chosen = size <= np.sort(size.ravel())[288 - 1]  # a quarter of 3 * 3 * 8 * 16
    np.testing.assert_array_equal(new["conv"]["kernel"] != params["conv"]["kernel"], chosen)
    np.testing.assert_allclose(factors["conv"]["kernel"], np.where(chosen, 1, 0.1))
    fresh = np.asarray(new["conv"]["kernel"])[chosen]
    assert fresh.std() == pytest.approx(np.sqrt(2 / (3 * 3 * 16)), rel=0.15)
    for module, leaf in (("conv", "bias"), ("head", "kernel")):
        np.testing.assert_array_equal(new[module][leaf], params[module][leaf])
        np.testing.assert_array_equal(factors[module][leaf], np.ones_like(params[module][leaf]))


@pytest.mark.parametrize(
    ("epochs", "expected"), [(0, []), (1, [1]), (4, [1 / 2, 1, 2 / 3, 1 / 3]), (5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])]
)
def test_the_rate_rises_and_falls_linearly(epochs, expected):
    np.testing.assert_allclose(msg.epoch_rates(0.2, epochs), 0.2 * np.array(expected))


@pytest.mark.parametrize("forget", [(3,), pytest.param((3, 8), marks=pytest.mark.slow)])
def test_it_forgets_the_digits_and_keeps_the_others(digits, forget):
    model, data = digits.forget("msg", forget, learning_rate=0.1)
    forgotten, retained = digits.accuracies(model, forget)
    assert forgotten < 0.1
    assert retained > digits.accuracies(digits.model, forget)[1] - 0.05
    assert sum(data.seen().values()) == len(digits.dataset.train.labels)


def test_without_epochs_only_convolutions_are_reset(digits):
    model, _ = digits.forget("msg", (3,), epochs=0)
    same = jax.tree.map(np.array_equal, model.variables, digits.model.variables)
    assert same["batch_stats"] == jax.tree.map(lambda _: True, same["batch_stats"])
    changed = {path[0].key for path, equal in jax.tree_util.tree_leaves_with_path(same["params"]) if not equal}
    assert changed == {"conv1", "conv2", "conv3"}


def test_a_network_without_convolutions_is_an_input_error(flat_mlp):
    with pytest.raises(InputError, match="2-D convolution"):
        msg.Msg().check(flat_mlp.model, flat_mlp.statistics.gates)


@pytest.mark.parametrize("options", [{"fraction": 2.0}, {"kept_rate": -1.0}, {"epochs": -1}, {"momentum": 1.5}])
def test_a_bad_option_is_an_input_error_that_names_it(options):
    with pytest.raises(InputError, match=next(iter(options))):
        get_method("msg")(**options)
