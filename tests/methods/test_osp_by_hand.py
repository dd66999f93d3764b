"""OSP from the images to the parameters, in NumPy float64 straight from the equations."""

import numpy as np
import pytest

from tests.methods.two_convolutions import LABELS, assert_parameters, forward, parameters, request

BEHIND = {"conv1": "bn1", "conv2": "relu2"}
GATES = {"conv1": ("bn1/scale", "bn1/bias"), "conv2": ("conv2/kernel", "conv2/bias")}


@pytest.mark.parametrize("forget", [(1,), (0, 3)])
@pytest.mark.parametrize(("layers", "chosen"), [("last", ("conv2",)), ("all", ("conv1", "conv2"))])
def test_osp_is_the_equations_applied_to_the_images(forget, layers, chosen):
    expected = parameters()
    maps, forgotten = forward(expected), np.isin(LABELS, forget)
    for path in chosen:
        activation = maps[BEHIND[path]].max((1, 2))  # m_j(x), the largest post-ReLU value of channel j
        difference = activation[forgotten].mean(0) - activation[~forgotten].mean(0)
        k = round(len(difference) / 4)
        factor = np.ones(len(difference))
        for r, j in enumerate(sorted(range(len(difference)), key=lambda j: -difference[j])[:k], start=1):
            factor[j] = 1 - max(1 / 2, 1 - r / k)
        assert (factor < 1).sum() == k
        expected |= {leaf: expected[leaf] * factor for leaf in GATES[path]}
    actual, _ = request("osp", forget, layers=layers)
    assert_parameters(actual, expected)
