"""Convolution Transpose: the transposed kernels, those that stay, and the fine-tuning."""

import jax
import numpy as np
import pytest

from osp_jax.methods.conv_transpose import ConvTranspose, transposed
from osp_jax.program.kernels import KernelAxes
from osp_jax.runtime.errors import InputError

WINDOWS = {"square": (0, 1), "wide": (None, 1), "point": (None, None)}
FAST = {"epochs": 5, "learning_rate": 0.03}


def test_height_and_width_of_square_kernels_are_swapped_and_nothing_else():
    rng = np.random.default_rng(0)
    shapes = {"square": (3, 3, 2, 5), "wide": (1, 3, 2, 2), "point": (1, 1, 4, 4), "dense": (6, 6), "bias": (5,)}
    params = {name: {"kernel": rng.normal(size=shape)} for name, shape in shapes.items()}
    layouts = {f"{name}/kernel": window for name, window in WINDOWS.items()}
    new = transposed(params, {path: KernelAxes((2,), (3,), window) for path, window in layouts.items()})
    for name in ("wide", "point", "dense", "bias"):
        np.testing.assert_array_equal(new[name]["kernel"], params[name]["kernel"])
    for row in range(3):
        for column in range(3):
            mirrored, kernel = new["square"]["kernel"][row, column], params["square"]["kernel"][column, row]
            np.testing.assert_array_equal(mirrored, kernel)


def test_without_an_epoch_the_filters_are_mirrored_and_all_else_is_as_it_was(digits):
    model, _ = digits.forget("conv-transpose", (3,), epochs=0)
    old, new = digits.model.variables["params"], model.variables["params"]
    np.testing.assert_array_equal(new["conv2"]["kernel"], np.swapaxes(old["conv2"]["kernel"], 0, 1))
    jax.tree.map(np.testing.assert_array_equal, (new["head"], new["bn1"]), (old["head"], old["bn1"]))
    assert digits.accuracies(model, (3,))[1] < 0.8


def test_fine_tuning_brings_back_the_others_but_not_the_class_and_never_sees_it(digits):
    model, data = digits.forget("conv-transpose", (3,), **FAST)
    forget, retain = digits.accuracies(model, (3,))
    assert forget < 0.1
    assert retain > 0.93
    assert "3" not in data.seen()


def test_two_classes_are_forgotten_at_once(digits):
    model, _ = digits.forget("conv-transpose", (3, 7), **FAST)
    forget, retain = digits.accuracies(model, (3, 7))
    assert forget < 0.1
    assert retain > 0.93


def test_a_network_without_such_a_kernel_is_an_input_error_that_names_the_remedy(flat_mlp):
    with pytest.raises(InputError, match="another method"):
        ConvTranspose().check(flat_mlp.model, flat_mlp.statistics.gates)


@pytest.mark.parametrize(
    "options", [{"epochs": -1}, {"learning_rate": -1.0}, {"batch_size": 0}, {"weight_decay": -1.0}]
)
def test_an_option_out_of_range_is_an_input_error(options):
    with pytest.raises(InputError, match=next(iter(options))):
        ConvTranspose(**options)
