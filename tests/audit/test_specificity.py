"""Specificity of channels: the quantities by hand, and a trade-off that equals masking the network."""

import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.audit.specificity import feature_correlation, top_class_share, tradeoff
from osp_jax.methods.osp import Osp
from osp_jax.statistics import layer_statistics
from tests.methods.conftest import digits  # noqa: F401


def test_the_share_of_the_top_class_is_its_part_of_the_class_means():
    activations = jnp.asarray([[[6.0, 1, 0]], [[2, 1, 0]], [[1, 1, 0]]])  # images of classes 0, 0 and 1
    share = top_class_share(layer_statistics(activations, jnp.asarray([0, 0, 1]), 2))
    np.testing.assert_allclose(share[:2], [4 / 5, 1 / 2], rtol=1e-6)
    assert np.isnan(share[2])


def test_correlation_is_over_pairs_of_channels_that_are_not_dead():
    wave = np.sin(np.arange(40.0))
    assert feature_correlation(np.stack([wave, -2 * wave, np.zeros(40)], 1)) == pytest.approx(1)
    other = np.cos(np.arange(40.0) * 0.7)
    expected = abs(np.corrcoef(wave, other)[0, 1])
    assert feature_correlation(np.stack([wave, other + 5], 1)) == pytest.approx(expected)


def test_a_mask_of_full_strength_does_what_osp_does_to_the_network(digits):  # noqa: F811
    statistics, labels = digits.statistics, jnp.asarray(digits.statistics.labels)
    head = digits.model.variables["params"]["head"]
    last = statistics.layers[statistics.gates.last.name]
    given = last, (head["kernel"], head["bias"]), statistics.features, labels
    forget, change = tradeoff(*given, amount=0.25, strengths=(0.0, 1.0))
    assert forget.shape == change.shape == (10, 2)
    np.testing.assert_array_equal(change[:, 0], 0)
    method = Osp(amount=0.25, strength="hard", place="head")
    right = (statistics.features @ head["kernel"] + head["bias"]).argmax(-1) == labels
    for c in (0, 7):
        request = {"data": None, "statistics": statistics, "rng": None}
        masked = method.unlearn(digits.model, (c,), **request).variables["params"]["head"]
        after = (statistics.features @ masked["kernel"] + masked["bias"]).argmax(-1) == labels
        np.testing.assert_allclose(forget[c, 1], after[labels == c].mean(), atol=1e-6)
        gained = after[labels != c].mean() - right[labels != c].mean()
        np.testing.assert_allclose(change[c, 1], gained, atol=1e-6)
