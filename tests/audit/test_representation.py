"""Similarities and distances, compared with their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osp_jax.audit.representation import (
    NO_INIT,
    activation_distance,
    cka,
    cka_without_each,
    js_divergence,
    representation,
    similarity,
    weight_distances,
)
from osp_jax.audit.subject import Look
from osp_jax.interop.function import from_function
from osp_jax.model import in_params


def features(seed: int, n: int = 40, c: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, c))


def model(params):
    """Whose parameters are `params`; it has a running mean, too."""
    given_ = {"mean": (0.5,), "std": (0.3,), "class_names": ("a", "b"), "is_parameter": in_params}
    return from_function(lambda variables, images: images, {"params": params, "batch_stats": np.ones(1)}, **given_)


@given(st.integers(0, 1000), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_similarity_ignores_rotation_scale_and_shift(seed, scale):
    x = features(seed)
    rotation = np.linalg.qr(features(seed + 1, 6, 6))[0]
    assert cka(x, scale * x @ rotation + 3.0) == pytest.approx(1.0, abs=1e-6)
    y = features(seed + 2)
    assert cka(x, y) == pytest.approx(cka(y, x))


def test_features_that_have_nothing_in_common_have_none_however_many_channels_there_are():
    values = [cka(features(seed, 30, 60), features(seed + 500, 30, 60)) for seed in range(40)]
    assert np.mean(values) == pytest.approx(0, abs=0.03)  # the biased estimate is about 0.8 here


def test_features_that_do_not_vary_are_like_nothing():
    assert cka(np.zeros((10, 3)), features(0, 10)) == 0


def test_leaving_out_each_image_equals_doing_it_by_hand():
    x, y = features(0, 12, 4), features(1, 12, 5)
    by_hand = [cka(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(12)]
    np.testing.assert_allclose(cka_without_each(x, y), by_hand, rtol=1e-9)


@pytest.mark.parametrize("noise", [0.3, 2.0])
def test_the_interval_of_a_similarity_covers_the_truth_about_as_often_as_it_says(noise):
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(4, 6))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.maximum(rng.normal(size=(n, 4)) * [2, 1, 1, 0.5], 0)
        return x, x @ turn + noise * rng.normal(size=(n, 6))

    truth = np.mean([cka(*draw(1500)) for _ in range(4)])
    hits = 0
    for _ in range(300):
        low, high = similarity(*draw(100))["ci95"]
        hits += low <= truth <= high
    assert 0.9 <= hits / 300 <= 0.99


def test_outputs_that_agree_are_at_no_distance_and_opposite_ones_at_the_largest():
    one, two = np.array([[50.0, 0.0]]), np.array([[0.0, 50.0]])
    assert activation_distance(one, one) == pytest.approx([0])
    assert activation_distance(one, two) == pytest.approx([np.sqrt(2)])
    assert js_divergence(one, one) == pytest.approx([0])
    assert js_divergence(one, two) == pytest.approx([np.log(2)])
    assert np.isfinite(js_divergence(np.array([[-np.inf, 0.0]]), one)).all()


def test_js_divergence_by_hand():
    p, q = np.log([[0.75, 0.25]]), np.log([[0.25, 0.75]])
    assert js_divergence(p, q) == pytest.approx([0.75 * np.log(1.5) + 0.25 * np.log(0.5)])


def test_the_distance_of_weights_is_relative_and_by_layer():
    old = {"a": {"kernel": np.array([3.0, 4.0])}, "b": {"kernel": np.ones(4), "bias": np.zeros(2)}}
    new = {"a": {"kernel": np.array([3.0, 5.0])}, "b": {"kernel": np.ones(4), "bias": np.zeros(2)}}
    assert weight_distances(model(new), model(old)) == {"a": pytest.approx(0.2), "b": 0.0}


def test_a_parameter_outside_any_layer_has_its_own_name():
    old = {"embedding": np.array([3.0, 4.0]), "positions": np.ones(2), "head": {"kernel": np.ones(4)}}
    new = old | {"embedding": np.array([3.0, 5.0])}
    assert weight_distances(model(new), model(old)) == {"embedding": pytest.approx(0.2), "positions": 0.0, "head": 0.0}


def test_the_original_is_at_no_distance_from_itself():
    rng = np.random.default_rng(0)

    def look(x):
        return Look(rng.normal(size=(40, 3)), np.zeros(40, int), {"a": x})

    network, original = model({"a": {"kernel": np.ones(3)}}), look(features(0))
    others = {"original": (original, network), "retrained": (look(features(1)), network)}
    found, similarities = representation(original, network, others, look(features(2)), "a")
    assert found["cka_to_original_a"]["value"] == pytest.approx(1)
    assert found["activation_distance_to_original"]["value"] == 0
    assert found["weight_distance_a"]["value"] == 0
    assert found["zrf"]["value"] < 1
    assert similarities["retrained"]["a"] < 0.3
    assert representation(original, network, others, None, "a")[0]["zrf"]["why"] == NO_INIT
