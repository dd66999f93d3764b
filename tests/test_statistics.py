"""Class statistics of activations, compared with plain NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osp_jax.data.augment import normalise
from osp_jax.statistics import (
    Moments,
    collect_statistics,
    compensated_add,
    increment,
    layer_statistics,
    merged,
    no_images,
)
from tests.small_networks import CLASSES, assert_close, case, relu_after, sown

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)
LABELS = RNG.integers(0, CLASSES - 1, 11).astype(np.int32)  # the last class has no image


def batches(images, labels, size):
    """All of one size; the last is filled up with images that do not count."""
    for start in range(0, len(images), size):
        x, y = images[start : start + size], labels[start : start + size]
        fill = size - len(x)
        yield np.concatenate([x, np.full((fill, *x.shape[1:]), 255, np.uint8)]), np.append(y, np.full(fill, -1))


def collect(name, images=IMAGES, labels=LABELS, size=4, **options):
    model = case(name).model.replace(mean=MEAN, std=STD)
    return collect_statistics(model, batches(images, labels, size), **options)


@pytest.fixture(scope="module")
def in_batches_of_4():
    return collect("allcnn", keep_features=6)


@pytest.mark.parametrize("name", ["resnet8", "allcnn"])
def test_statistics_equal_numpy_on_the_recorded_activations(name):
    module, variables, _, gates = case(name)
    images = normalise(IMAGES, jnp.array(MEAN), jnp.array(STD))
    _, recorded = jax.jit(lambda variables: sown(module, variables, images))(variables)
    statistics = collect(name)
    assert statistics.layers.keys() == {group.name for group in gates.groups}
    for group, layer in statistics.layers.items():
        activation = np.asarray(recorded[relu_after(group, recorded)], np.float64)
        values = {"mean": activation.mean((1, 2)), "max": activation.max((1, 2))}
        np.testing.assert_array_equal(layer.count, np.bincount(LABELS, minlength=CLASSES))
        for reduction, value in values.items():
            moments = getattr(layer, reduction)
            of_class = [value[c == LABELS] for c in range(CLASSES)]
            assert_close(moments.sum, [v.sum(0) for v in of_class])
            assert_close(moments.sum_of_squares, [(v**2).sum(0) for v in of_class])
            assert_close(moments.deviations, [v.var(0) * len(v) if len(v) else 0 * v.sum(0) for v in of_class])


def test_statistics_of_two_shards_add_up_to_the_whole(in_batches_of_4):
    first, second = collect("allcnn", IMAGES[:4], LABELS[:4]), collect("allcnn", IMAGES[4:], LABELS[4:])
    added = {name: merged(layer, second.layers[name]) for name, layer in first.layers.items()}
    jax.tree.map(assert_close, added, in_batches_of_4.layers)


def test_a_variance_that_is_small_beside_the_mean_does_not_cancel():
    """In float32, E[x^2] - E[x]^2 of these has no digit right."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 2], 60)
    values = (1000 + 0.1 * rng.normal(size=(120, 4)) + 0.3 * labels[:, None]).astype(np.float32)
    total = error = no_images(4, 4)
    for start in range(0, 120, 30):
        rows = slice(start, start + 30)
        batch = layer_statistics(jnp.asarray(values[rows]), jnp.asarray(labels[rows]), 4)
        total, error = compensated_add(total, error, increment(total, batch))
    exact = values.astype(np.float64)
    for moments in (total.mean, total.max):
        np.testing.assert_allclose(moments.variance(total.count), exact.var(0), rtol=1e-3)
        by_class = moments.class_variance(total.count)
        np.testing.assert_allclose(by_class[0], exact[:60].var(0), rtol=1e-3)
        np.testing.assert_allclose(by_class[2], exact[60:].var(0), rtol=1e-3)
        np.testing.assert_array_equal(by_class[1], 0)
    cancelled = total.mean.sum_of_squares[0] / 60 - (total.mean.sum[0] / 60) ** 2
    assert np.any(np.abs(cancelled / exact[:60].var(0) - 1) > 1)


def test_statistics_of_older_versions_have_the_variance_of_their_sums():
    values, count = RNG.exponential(size=(9, 3)), jnp.array([4.0, 5.0, 0.0])
    parts = values[:4], values[4:], values[:0]
    old = Moments(*(jnp.array([(v**power).sum(0) for v in parts], jnp.float32) for power in (1, 2)))
    np.testing.assert_allclose(old.variance(count), values.var(0), rtol=1e-4)
    np.testing.assert_allclose(old.class_variance(count)[1], values[4:].var(0), rtol=1e-4)


@pytest.mark.parametrize("size", [11, 3])
def test_statistics_do_not_depend_on_the_batch_size(in_batches_of_4, size):
    jax.tree.map(assert_close, collect("allcnn", size=size).layers, in_batches_of_4.layers)


def test_images_that_fill_up_a_batch_do_not_count(in_batches_of_4):
    padded = np.append(IMAGES, IMAGES[:5], axis=0), np.append(LABELS, np.full(5, -1))
    jax.tree.map(assert_close, collect("allcnn", *padded).layers, in_batches_of_4.layers)


def test_statistics_of_retained_images_follow_from_the_rows_of_retained_classes(in_batches_of_4):
    retained = LABELS != 1
    alone = collect("allcnn", IMAGES[retained], LABELS[retained])
    without = jax.tree.map(lambda rows: np.delete(rows, 1, axis=0).sum(0), in_batches_of_4.layers)
    jax.tree.map(assert_close, without, jax.tree.map(lambda rows: rows.sum(0), alone.layers))


def test_kept_features_are_what_the_head_reads_on_the_first_images(in_batches_of_4):
    module, variables, _, _ = case("allcnn")
    images = normalise(IMAGES[:6], jnp.array(MEAN), jnp.array(STD))
    logits = jax.jit(lambda variables: module.apply(variables, images, False))(variables)
    head = variables["params"]["head"]
    assert in_batches_of_4.features.dtype == jnp.float32
    assert_close(in_batches_of_4.features @ head["kernel"][0, 0] + head["bias"], logits)
    np.testing.assert_array_equal(in_batches_of_4.labels, LABELS[:6])


def test_kept_features_leave_out_images_that_only_fill_up_and_keep_the_whole_flattened_map():
    statistics = collect("PoolNet", keep_features=100)
    head = case("PoolNet").variables["params"]["Dense_0"]["kernel"]
    assert statistics.features.shape == (11, head.shape[0])
    np.testing.assert_array_equal(statistics.labels, LABELS)


def test_no_feature_is_kept_unless_asked_for():
    statistics = collect("FlatMLP")
    assert statistics.features.shape[0] == statistics.labels.shape[0] == 0


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(-1, 3), min_size=6, max_size=6), st.integers(0, 99))
def test_layer_statistics_equal_numpy_for_any_labels(labels, seed):
    activation = np.random.default_rng(seed).exponential(size=(6, 2, 3, 5)).astype(np.float32)
    statistics = layer_statistics(jnp.asarray(activation), jnp.asarray(labels), 4)
    one_hot = np.equal.outer(np.arange(4), labels).astype(np.float64)
    assert_close(statistics.count, one_hot.sum(1))
    exact = activation.astype(np.float64)
    for moments, value in ((statistics.mean, exact.mean((1, 2))), (statistics.max, exact.max((1, 2)))):
        assert_close(moments.sum, one_hot @ value)
        assert_close(moments.sum_of_squares, one_hot @ value**2)


def test_a_layer_without_positions_is_its_own_mean_and_maximum():
    activation = jnp.asarray(RNG.exponential(size=(4, 3)), jnp.float32)
    statistics = layer_statistics(activation, jnp.array([0, 1, 1, 0]), 2)
    jax.tree.map(np.testing.assert_array_equal, statistics.mean, statistics.max)


def test_bfloat16_activations_are_summed_in_float32():
    activation = jnp.full((400, 1), 1 + 2**-7, jnp.bfloat16)  # in bfloat16 a sum of 400 would lose every fraction
    statistics = layer_statistics(activation, jnp.zeros(400, int), 1)
    np.testing.assert_allclose(statistics.mean.sum, 400 * (1 + 2**-7), rtol=1e-6)


@pytest.mark.parametrize("compiled_as", ["steps", "scan"])
def test_a_compensated_sum_keeps_small_terms_that_plain_float32_loses(compiled_as):
    big, terms = np.float32(1e8), np.random.default_rng(0).uniform(0, 4, 3000).astype(np.float32)
    start = {"a": jnp.asarray(big)}, {"a": jnp.zeros((), jnp.float32)}
    step = jax.jit(compensated_add)
    if compiled_as == "steps":
        total, error = start
        for term in terms:
            total, error = step(total, error, {"a": term})
    else:
        add = jax.jit(lambda c, xs: jax.lax.scan(lambda c, x: (compensated_add(*c, {"a": x}), None), c, xs)[0])
        total, error = add(start, terms)
    exact = 1e8 + terms.astype(np.float64).sum()
    plain = big
    for term in terms:
        plain += term
    assert abs(plain - exact) > 5000  # terms below half an ulp, here 4, vanish
    assert abs(float(total["a"]) - exact) <= 8  # one ulp
    assert abs(float(total["a"]) - float(error["a"]) - exact) < 0.1
