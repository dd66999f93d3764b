"""Fitted gains: the loss they minimise, and their effect on separable features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from scipy.special import log_softmax, softmax

from osp_jax.methods.osp_fit import OspFit, draw_features, fit_gains, fitting_sample, gains_suffice
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import collect_statistics, layer_statistics
from osp_jax.trees import changed_paths
from tests.methods.conftest import Trained, request_of
from tests.small_networks import SmoothLast, assert_close, model_of, random_variables

CLASSES, CHANNELS = 3, 6
KERNEL = np.kron(np.eye(CLASSES), np.ones((2, 1))).astype(np.float32)  # class c reads channels 2c and 2c + 1
BIAS = np.array([0.1, 0.0, -0.1], np.float32)
EACH = np.arange(CHANNELS)  # a feature for each channel


def separable(images: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features where a class is strong on its own two channels and weak on all others."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    return (rng.uniform(0.2, 0.5, (images, CHANNELS)) + 3 * KERNEL[:, labels].T).astype(np.float32), labels


def fit(features, labels, forget, channels=EACH, kernel=KERNEL, bias=BIAS, **options):
    vector = jnp.zeros(kernel.shape[1]).at[jnp.array(forget)].set(1)
    arrays = (jnp.asarray(a) for a in (features, labels, kernel, bias))
    fitted = jax.jit(lambda *arrays: fit_gains(*arrays, channels, OspFit(**options)))
    return np.asarray(fitted(*arrays, vector)[0])


@pytest.mark.parametrize("forget", [(0,), (2,), (0, 1)])
def test_the_forgotten_classes_lose_on_their_own_features_and_the_others_keep_theirs(forget):
    features, labels = separable()
    gains = fit(features, labels, forget)
    predictions = (features * gains @ KERNEL + BIAS).argmax(1)
    forgotten = np.isin(labels, forget)
    assert not np.isin(predictions, forget).any()
    np.testing.assert_array_equal(predictions[~forgotten], labels[~forgotten])
    assert gains.min() >= 0
    assert gains.max() <= 1
    assert gains[np.repeat(np.isin(range(CLASSES), forget), 2)].max() < 0.5


def test_without_a_step_every_gain_is_1():
    np.testing.assert_array_equal(fit(*separable(), (0,), steps=0), np.ones(CHANNELS))


def test_the_bias_falls_beside_the_gains_where_features_of_both_signs_serve_all_classes():
    """Classes lie around a circle: no gain of a coordinate takes one without its opposite."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    angles = np.pi / 2 * labels + rng.normal(0, 0.15, 200)
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    kernel = 4 * np.float32([[1, 0, -1, 0], [0, 1, 0, -1]])
    given = (*map(jnp.asarray, (features, labels, kernel, np.zeros(4, np.float32))), jnp.float32([1, 0, 0, 0]))

    def judged(with_bias):
        gains, falls = fit_gains(*given, np.arange(2), OspFit(), with_bias)
        logits = (features * gains) @ kernel - falls
        right = logits.argmax(1) == labels
        return falls, logits, right[labels == 0].mean(), right[labels != 0].mean()

    falls, logits, left, others = judged(False)
    assert not falls.any()
    assert others < 0.9
    assert not gains_suffice(features @ kernel, logits, given[1], given[4], OspFit())
    falls, logits, left, others = judged(True)
    assert falls[0] > 1
    assert not falls[1:].any()
    assert left == 0
    assert others == 1
    assert gains_suffice(features @ kernel, logits, given[1], given[4], OspFit())


def loss_by_hand(gains, features, labels, forget, kernel, bias, margin, weight) -> float:
    """Image by image, with a list of classes instead of masks."""
    retained_classes = [c for c in range(kernel.shape[1]) if c not in forget]
    kept, forgotten = [], []
    for feature, label in zip(features.astype(np.float64), labels, strict=True):
        logits = (feature * gains) @ kernel + bias
        if label in forget:
            gap = logits[list(forget)].max() - logits[retained_classes].max()
            forgotten.append(max(0.0, margin + gap))
        elif label >= 0:
            target = softmax((feature @ kernel + bias)[retained_classes])
            kept.append(target @ (np.log(target) - log_softmax(logits)[retained_classes]))
    return np.mean(kept) + weight * np.mean(forgotten)


def adam_by_hand(loss, channels, steps, learning_rate) -> np.ndarray:
    """Projected Adam under a cosine schedule, with the gradient from differences."""
    gains, first, second = np.ones(channels), 0.0, 0.0
    for t in range(steps):
        shifts = 1e-6 * np.eye(channels)
        gradient = np.array([(loss(gains + s) - loss(gains - s)) / 2e-6 for s in shifts])
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        direction = (first / (1 - 0.9 ** (t + 1))) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8)
        gains = np.clip(gains - learning_rate * 0.5 * (1 + np.cos(np.pi * t / steps)) * direction, 0, 1)
    return gains


# Seeds where the weight, the margin and the label -1 each show in the gains: Adam alone hides the scale of a gradient.
@pytest.mark.parametrize("forget", [(0,), (0, 3)])
@pytest.mark.parametrize("seed", [2, 6, 10])
def test_the_fit_descends_the_loss_as_written_down(seed, forget):
    """Three images, one forgotten and two retained, and a fourth without a label."""
    rng = np.random.default_rng(seed)
    features = rng.exponential(size=(4, 5)).astype(np.float32)
    kernel, bias = rng.normal(size=(5, 4)).astype(np.float32), np.array([3, 0, 0, 2.5], np.float32)
    labels = np.array([0, 1, 2, -1])
    fitted = fit(features, labels, forget, np.arange(5), kernel, bias, margin=2.0, forget_weight=0.4, steps=30)
    expected = adam_by_hand(
        lambda gains: loss_by_hand(gains, features, labels, forget, kernel, bias, 2.0, 0.4), 5, 30, 0.05
    )
    assert expected.min() < 0.9  # it did go somewhere
    np.testing.assert_allclose(fitted, expected, atol=1e-4)


def test_gains_of_a_flattened_map_are_shared_by_the_positions():
    features, labels = separable()
    positions = np.concatenate([features, features], axis=1) / 2  # channels fastest
    twice = np.concatenate([KERNEL, KERNEL])
    shared = fit(positions, labels, (1,), np.tile(EACH, 2), twice)
    np.testing.assert_allclose(shared, fit(features, labels, (1,)), atol=1e-4)


def test_drawn_features_have_the_moments_of_their_class():
    rng = np.random.default_rng(0)
    mean, deviation = np.array([[5.0, 8.0], [9.0, 6.0]]), 0.5  # so far from 0 that nothing is cut off
    labels = np.arange(4000) % 2
    statistics = layer_statistics(jnp.asarray(rng.normal(mean[labels], deviation)), jnp.asarray(labels), 3)
    features, drawn = map(np.asarray, draw_features(statistics, jax.random.key(0), 3000))
    assert features.shape == (9000, 2)
    for c in (0, 1):
        np.testing.assert_allclose(features[drawn == c].mean(0), mean[c], atol=0.05)
        np.testing.assert_allclose(features[drawn == c].std(0), deviation, atol=0.05)
    assert (drawn == -1).sum() == 3000  # the class without images
    assert set(drawn) == {-1, 0, 1}


def test_drawn_features_are_never_negative():
    statistics = layer_statistics(jnp.asarray(np.eye(4)), jnp.array([0, 0, 1, 1]), 2)
    features, _ = draw_features(statistics, jax.random.key(0), 500)
    assert features.min() == 0


def separable_mlp(flat_mlp) -> Trained:
    """The two-layer network with a head and features that can be told apart, three classes out of five."""
    features, labels = separable()
    kernel = np.zeros((CHANNELS, 5), np.float32)
    kernel[:, :CLASSES] = KERNEL
    bias = np.array([*BIAS, -9, -9], np.float32)  # the last two classes are never predicted
    params = {
        **flat_mlp.model.variables["params"],
        "Dense_2": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)},
    }
    layers = {**flat_mlp.statistics.layers, "Dense_1": layer_statistics(jnp.asarray(features), jnp.asarray(labels), 5)}
    statistics = dataclasses.replace(
        flat_mlp.statistics, layers=layers, features=jnp.asarray(features), labels=jnp.asarray(labels)
    )
    return Trained(flat_mlp.model.replace(variables={**flat_mlp.model.variables, "params": params}), statistics)


@pytest.mark.parametrize("forget", [(0,), (0, 1)])
def test_a_class_that_wins_by_its_bias_loses_by_a_lower_one(flat_mlp, forget):
    """Its features turned down, class 0 is ahead by its bias alone: no gain can change that."""
    trained = separable_mlp(flat_mlp)
    variables = trained.model.variables
    head = variables["params"]["Dense_2"]
    head = {**head, "bias": head["bias"].at[0].set(4.0)}
    model = trained.model.replace(variables={**variables, "params": {**variables["params"], "Dense_2": head}})

    def after(**options):
        new = request_of("osp-fit", Trained(model, trained.statistics), forget, place="head", **options)
        return new.variables["params"]["Dense_2"]

    features, labels = separable(seed=1)
    alone, both = after(allowed=1.0), after()
    forgotten = np.isin(labels, forget)
    assert np.isin((features @ alone["kernel"] + alone["bias"]).argmax(1), forget)[forgotten].any()
    predictions = (features @ both["kernel"] + both["bias"]).argmax(1)
    assert not np.isin(predictions, forget).any()
    np.testing.assert_array_equal(predictions[~forgotten], labels[~forgotten])
    assert set(np.flatnonzero(both["bias"] != head["bias"])) <= set(forget)


def test_the_bias_stays_where_gains_are_enough(flat_mlp):
    trained = separable_mlp(flat_mlp)
    new = request_of("osp-fit", trained, (1,), place="head")
    assert changed_paths(trained.model.variables, new.variables) == ("params/Dense_2/kernel",)


@pytest.mark.parametrize("source", ["features", "statistics"])
def test_both_sources_make_the_class_lose_and_keep_the_rest(flat_mlp, source):
    trained = separable_mlp(flat_mlp)
    new = request_of("osp-fit", trained, (1,), source=source, place="head").variables["params"]["Dense_2"]
    features, labels = separable(seed=1)
    predictions = (features @ new["kernel"] + new["bias"]).argmax(1)
    assert not (predictions == 1).any()
    np.testing.assert_array_equal(predictions[labels != 1], labels[labels != 1])


def test_gating_the_features_and_scaling_the_rows_of_the_head_give_the_same_logits(flat_mlp):
    trained = separable_mlp(flat_mlp)
    images = jnp.asarray(np.random.default_rng(5).normal(size=(4, 16, 16, 3)), jnp.float32)
    models = (*(request_of("osp-fit", trained, (1,), place=place) for place in ("gate", "head")), trained.model)
    gate, head, before = (model.apply(model.variables, images) for model in models)
    assert_close(gate, head)
    assert not np.allclose(gate, before)


def test_the_fitted_gains_stand_where_the_last_features_are_produced(resnet8):
    before, after = (
        traverse_util.flatten_dict(model.variables["params"], sep="/")
        for model in (resnet8.model, request_of("osp-fit", resnet8, (1,)))
    )
    norms = ("stage3_block1/bn2", "stage3_block1/bn_shortcut")
    assert {path for path in before if after[path] is not before[path]} == {
        f"{norm}/{leaf}" for norm in norms for leaf in ("scale", "bias")
    }
    first, second = (after[f"{norm}/scale"] / before[f"{norm}/scale"] for norm in norms)
    np.testing.assert_allclose(first, second, rtol=1e-5)
    assert first.min() < 1


@pytest.mark.parametrize(
    ("fixture", "source"), [("allcnn", "features"), ("allcnn", "statistics"), ("pool_net", "features")]
)
def test_a_head_that_reads_a_map_can_be_fitted(request, fixture, source):
    trained = request.getfixturevalue(fixture)
    new = request_of("osp-fit", trained, (1,), source=source, steps=5, draws=10).variables
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: not np.array_equal(a, b), new, trained.model.variables))
    assert any(changed)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))


def test_without_stored_features_there_is_nothing_to_fit_on_but_the_statistics(flat_mlp):
    none = dataclasses.replace(flat_mlp.statistics, features=jnp.zeros((0, CHANNELS)), labels=jnp.zeros(0, int))
    with pytest.raises(InputError, match="source=statistics"):
        fitting_sample(none, OspFit(), jax.random.key(0))
    features, _ = fitting_sample(none, OspFit(source="statistics", draws=7), jax.random.key(0))
    assert features.shape == (35, CHANNELS)


@pytest.mark.parametrize(
    ("options", "message"), [({"source": "images"}, "features, statistics"), ({"place": "kernel"}, "gate, head")]
)
def test_an_option_that_makes_no_sense_is_an_input_error(flat_mlp, options, message):
    with pytest.raises(InputError, match=message):
        request_of("osp-fit", flat_mlp, (1,), **options)


def test_statistics_do_not_stand_for_the_positions_of_a_flattened_map(pool_net):
    with pytest.raises(InputError, match="source=features"):
        request_of("osp-fit", pool_net, (1,), source="statistics")


@pytest.mark.parametrize(("method", "options"), [("osp-fit", {}), ("osp", {}), ("osp", {"place": "head"})])
def test_behind_a_smooth_layer_the_gains_of_its_features_stand_in_the_rows_of_the_head(method, options):
    """And not on the channels below it."""
    images = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    model = model_of(SmoothLast(), random_variables(SmoothLast(), jnp.zeros(images.shape)))
    statistics = collect_statistics(model, [(images, np.arange(10) % 5)], keep_features=10)
    new = request_of(method, Trained(model, statistics), (1,), **options)
    assert changed_paths(model.variables, new.variables) == ("params/head/kernel",)
    before, after = (each.variables["params"]["head"]["kernel"] for each in (model, new))
    gains = np.asarray(after / before)
    np.testing.assert_allclose(gains, np.broadcast_to(gains[:, :1], gains.shape), rtol=1e-5)
    assert 0 <= gains.min() < 1
