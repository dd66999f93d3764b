"""Class-difference scores, compared with the definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osp_jax.masks import class_difference
from osp_jax.statistics import ClassStatistics, Moments, layer_statistics

CLASSES, CHANNELS = 4, 5


def sample(labels, seed=0) -> tuple[np.ndarray, np.ndarray, ClassStatistics]:
    activation = np.random.default_rng(seed).exponential(size=(len(labels), 3, 3, CHANNELS)).astype(np.float32)
    return activation, np.array(labels), layer_statistics(jnp.asarray(activation), jnp.asarray(labels), CLASSES)


def by_definition(activation, labels, forget, reduction, standardised, against) -> np.ndarray:
    """From the images themselves, image by image."""
    values = getattr(activation.astype(np.float64), reduction)(axis=(1, 2))
    forgotten = np.isin(labels, forget)
    if against == "mean":
        rest = values[~forgotten].mean(0)
    else:
        rest = np.max([values[labels == c].mean(0) for c in set(labels) - set(forget)], axis=0)
    score = values[forgotten].mean(0) - rest
    return score / values.std(0) if standardised else score


def vector(*forget) -> jax.Array:
    return jnp.zeros(CLASSES).at[jnp.array(forget)].set(1)


@pytest.mark.parametrize("forget", [(1,), (0, 3)])
@pytest.mark.parametrize("against", ["mean", "max"])
@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_scores_equal_the_definition(reduction, standardised, against, forget):
    activation, labels, statistics = sample([0, 0, 1, 1, 1, 2, 3, 3, 3, 3])
    options = {"reduction": reduction, "standardised": standardised, "against": against}
    np.testing.assert_allclose(
        class_difference(statistics, vector(*forget), **options),
        by_definition(activation, labels, forget, **options),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_score_by_hand():
    # Two images of class 0 with maxima 1 and 3, one of class 1 with 0.5, and one of class 2 with 1.5.
    sums, squares = jnp.array([[4.0], [0.5], [1.5]]), jnp.array([[10.0], [0.25], [2.25]])
    statistics = ClassStatistics(jnp.array([2.0, 1, 1]), Moments(sums * 0, squares * 0), Moments(sums, squares))
    forget = jnp.array([1.0, 0, 0])
    deviation = (12.5 / 4 - 1.5**2) ** 0.5
    for options, expected in [
        ({}, 2 - 1),
        ({"against": "max"}, 2 - 1.5),
        ({"standardised": True}, 1 / deviation),
        ({"reduction": "mean"}, 0),
        ({"reduction": "mean", "standardised": True}, 0),  # a channel that never changes
    ]:
        np.testing.assert_allclose(class_difference(statistics, forget, **options), [expected], rtol=1e-6)


@pytest.mark.parametrize("against", ["mean", "max"])
@pytest.mark.parametrize("standardised", [False, True])
def test_a_class_without_images_counts_for_nothing(standardised, against):
    activation, labels, statistics = sample([0, 0, 1, 3, 3])
    options = {"reduction": "max", "standardised": standardised, "against": against}
    expected = by_definition(activation, labels, (1,), **options)
    for forget in [(1,), (1, 2)]:  # class 2 has none, whether it is retained or forgotten
        np.testing.assert_allclose(
            class_difference(statistics, vector(*forget), **options), expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("forget", [(2,), (0, 1, 2, 3)])
@pytest.mark.parametrize("against", ["mean", "max"])
@pytest.mark.parametrize("standardised", [False, True])
def test_scores_are_finite_if_no_image_is_forgotten_or_none_is_retained(standardised, against, forget):
    _, _, statistics = sample([0, 0, 1, 3, 3])
    score = class_difference(statistics, vector(*forget), standardised=standardised, against=against)
    assert np.isfinite(score).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.integers(0, CLASSES - 1))
def test_against_the_mean_the_score_changes_its_sign_if_forgotten_and_retained_change_places(seed, forget):
    _, _, statistics = sample([0, 0, 1, 1, 1, 2, 3, 3], seed)
    chosen = vector(forget)
    np.testing.assert_allclose(
        class_difference(statistics, 1 - chosen), -class_difference(statistics, chosen), atol=1e-6
    )


def test_one_compiled_program_serves_every_request():
    _, _, statistics = sample([0, 1, 2, 3])
    traces = []

    @jax.jit
    def score(statistics, forget):
        traces.append(forget)
        return class_difference(statistics, forget, against="max", standardised=True)

    scores = [np.asarray(score(statistics, vector(*forget))) for forget in [(0,), (1,), (0, 2)]]
    assert len(traces) == 1
    assert not np.allclose(scores[0], scores[1])
