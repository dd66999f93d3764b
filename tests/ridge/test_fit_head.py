"""`fit_head` and requests to its result, from Python."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import osp_jax
from osp_jax.harm import HarmError
from osp_jax.runtime.errors import InputError

NAMES = ("a", "b", "c", "d")
MOMENTS = {"mean": (0.5,), "std": (0.25,)}


class Backbone(nn.Module):
    """Two convolutions, for two classes of other images."""

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Conv(6, (3, 3), strides=2)(images))
        return nn.Dense(2)(nn.relu(nn.Conv(8, (3, 3))(x)).mean((1, 2)))


@pytest.fixture(scope="module")
def given():
    draw = np.random.default_rng(0)
    labels = np.arange(160) % 4
    pattern = draw.integers(0, 255, (4, 8, 8, 1))
    images = (0.7 * pattern[labels] + 0.3 * draw.integers(0, 255, (160, 8, 8, 1))).astype(np.uint8)
    variables = Backbone().init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    backbone = osp_jax.from_linen(Backbone(), variables, **MOMENTS, class_names=("x", "y"))
    return backbone, images, labels


def fit(given, kept=None, **options):
    backbone, images, labels = given
    kept = np.ones(len(labels), bool) if kept is None else kept
    options = {"stages": 2, "random_features": 5, "ridge": 0.1, **options}
    return osp_jax.fit_head(backbone, images[kept], labels[kept], class_names=NAMES, **options)


def weights(model):
    return np.concatenate([model.variables["head"]["kernel"], model.variables["head"]["bias"][None]])


def test_requests_in_turn_equal_a_fit_without_the_classes(given):
    fitted = fit(given)
    model = fitted.model
    for name in ("b", "d"):
        model = osp_jax.unlearn(model, [name], "exact-head", statistics=fitted.statistics).model
    refitted = fit(given, ~np.isin(given[2], (1, 3))).model
    assert model.forgotten == refitted.forgotten == (1, 3)
    np.testing.assert_allclose(weights(model), weights(refitted), rtol=1e-5, atol=1e-5)


def test_images_leave_model_and_statistics(given):
    fitted, kept = fit(given), np.ones(160, bool)
    kept[[3, 8, 50]] = False
    left, refitted = osp_jax.forget_images(fitted.model, fitted.statistics, [3, 8, 50]), fit(given, kept)
    np.testing.assert_allclose(weights(left.model), weights(refitted.model), rtol=1e-5, atol=1e-5)
    found, expected = (of.statistics.layers["head/input"].mean.sum for of in (left, refitted))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_network_stays_and_other_methods_act_on_the_head_alone(given):
    fitted = fit(given)
    try:
        new = osp_jax.unlearn(fitted.model, ["a"], "osp-fit", statistics=fitted.statistics).model
    except HarmError as error:
        new = error.result.model
    assert jax.tree.all(
        jax.tree.map(lambda a, b: a is b, new.variables["backbone"], fitted.model.variables["backbone"])
    )


def test_what_cannot_be_fitted_or_forgotten_is_refused_in_one_line(given):
    backbone, images, labels = given
    for options, words in (
        ({"ridge": 0.0}, r"head\.ridge"),
        ({"stages": 9}, r"head\.stages is 9"),
        ({"random_features": 1.5}, r"head\.random_features"),
    ):
        with pytest.raises(InputError, match=words):
            fit(given, **options)
    with pytest.raises(InputError, match="give a Model"):
        osp_jax.fit_head("net", images, labels, class_names=NAMES)
    with pytest.raises(InputError, match="closed form"):
        osp_jax.forget_images(backbone, fit(given).statistics, [3])
    statistics = fit(given, keep_features=False).statistics
    with pytest.raises(InputError, match="keep_features"):
        osp_jax.forget_images(fit(given).model, statistics, [3])
