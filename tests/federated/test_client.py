"""Local training compared with explicit steps, and sums with NumPy; padding affects neither."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from osp_jax.data.augment import normalise
from osp_jax.federated import ClientData, LocalTraining, Query, client_of, client_query, client_update, total
from osp_jax.federated.client import local_order, units_of
from osp_jax.program.gates import capture
from osp_jax.runtime.errors import InputError
from osp_jax.training.orthogonality import penalty
from tests.federated.small import assert_close, assert_equal, small_federation

LOCAL = LocalTraining(batch_size=8, learning_rate=0.05, momentum=0.0)


def steps_by_hand(model, data, key, settings, reference=None):
    """Plain SGD on cross-entropy, the penalty and the pull, without any of the functions under test but the order."""
    indices = local_order(np.flatnonzero(data.present), settings, jax.random.split(key)[0])
    params, stats = model.variables["params"], model.variables["batch_stats"]
    reference = params if reference is None else reference["params"]

    def loss(params, stats, chosen):
        inputs = normalise(data.images[chosen], jnp.array(model.mean), jnp.array(model.std))
        logits, new = model.train_apply({"params": params, "batch_stats": stats}, inputs, key)
        value = optax.softmax_cross_entropy_with_integer_labels(logits, data.labels[chosen]).mean()
        value += settings.penalty_weight * penalty(params, settings.penalty)
        distance = sum(jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (params, reference)), strict=True))
        return value + settings.align * distance, new["batch_stats"]

    for chosen in indices:
        gradient, stats = jax.grad(loss, has_aux=True)(params, stats, chosen)
        params = jax.tree.map(lambda p, g: p - settings.learning_rate * g, params, gradient)
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize(
    "changes",
    [{}, {"align": 0.3}, {"penalty": "so", "penalty_weight": 0.1}, {"steps": 2}, {"epochs": 2}],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_local_training_is_the_steps_written_out(changes):
    small, key = small_federation(), jax.random.key(3)
    settings = dataclasses.replace(LOCAL, **changes)
    data = client_of(small.clients, 1)
    actual = client_update(small.model, data, key, settings)
    assert actual.num_examples == 22
    assert_close(actual.variables, steps_by_hand(small.model, data, key, settings))


def test_the_pull_is_towards_the_given_reference():
    small, key = small_federation(), jax.random.key(3)
    settings = dataclasses.replace(LOCAL, align=2.0)
    reference = jax.tree.map(lambda leaf: leaf + 0.5, small.model.variables)
    data = client_of(small.clients, 0)
    pulled = client_update(small.model, data, key, settings, reference=reference).variables
    assert_close(pulled, steps_by_hand(small.model, data, key, settings, reference), atol=1e-5)
    free = client_update(small.model, data, key, LOCAL).variables

    def distance(variables):
        pairs = zip(*map(jax.tree.leaves, (variables["params"], reference["params"])), strict=True)
        return sum(float(jnp.sum((a - b) ** 2)) for a, b in pairs)

    assert distance(pulled) < distance(free)


def test_images_that_only_fill_up_have_no_part():
    small, key = small_federation(), jax.random.key(0)
    part = small.parts[2]
    alone = ClientData(small.images[part], small.labels[part], np.ones(len(part), bool))
    padded = client_of(small.clients, 2)
    assert len(padded.labels) > len(alone.labels)
    first, second = (client_update(small.model, data, key, LOCAL) for data in (alone, padded))
    assert_close(first.variables, second.variables)
    groups = [np.asarray(data.labels) for data in (alone, padded)]
    sums = [client_query(small.model, d, g, Query(groups=3)) for d, g in zip((alone, padded), groups, strict=True)]
    assert_close(sums[0], sums[1], atol=1e-4)


def test_each_image_is_seen_in_each_epoch_and_all_batches_are_full():
    order = local_order(np.arange(5, 18), LocalTraining(batch_size=8, epochs=3), jax.random.key(0))
    assert order.shape == (6, 8)
    for epoch in np.split(order, 3):
        assert set(epoch.ravel()) == set(range(5, 18))


def test_a_client_without_images_cannot_train_and_answers_zeros():
    small = small_federation()
    data = client_of(small.clients, 0)._replace(present=np.zeros(max(map(len, small.parts)), bool))
    with pytest.raises(InputError, match="leave it out of the round"):
        client_update(small.model, data, jax.random.key(0), LOCAL)
    sums = client_query(small.model, data, np.asarray(data.labels), Query(groups=3))
    assert not sums.count.any()
    assert not any(values.any() for values in sums.sums.values())


def test_masked_parameters_do_not_change():
    small = small_federation()
    zeros = jax.tree.map(jnp.zeros_like, small.model.variables["params"])
    mask = {"params": zeros, "batch_stats": jax.tree.map(lambda _: None, small.model.variables["batch_stats"])}
    update = client_update(small.model, client_of(small.clients, 0), jax.random.key(0), LOCAL, mask=mask)
    assert_equal(update.variables["params"], small.model.variables["params"])


@pytest.mark.parametrize("source", ["gates", "filters"])
@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_sums_of_all_clients_are_those_of_all_images(source, reduction):
    small, query = small_federation(), Query(source, reduction, groups=3)
    answers = [
        client_query(small.model, data, np.asarray(data.labels), query)
        for data in (client_of(small.clients, number) for number in range(3))
    ]
    together = total(answers)
    inputs = normalise(jnp.asarray(small.images), jnp.array(small.model.mean), jnp.array(small.model.std))
    if source == "gates":
        units = units_of(small.model, small.images.shape[1:], query)
        values = capture(small.model.apply, units, small.model.variables, inputs)[1]
    else:
        kernel = small.model.variables["params"]["conv"]
        convolved = jax.lax.conv_general_dilated(
            inputs, kernel["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        values = {"conv": jnp.maximum(convolved + kernel.get("bias", 0), 0)}
    assert set(together.sums) == set(values)
    np.testing.assert_array_equal(together.count, np.bincount(small.labels))
    for name, value in values.items():
        numbers = getattr(np, reduction)(np.asarray(value).reshape(len(value), -1, value.shape[-1]), axis=1)
        by_class = np.stack([numbers[small.labels == c].sum(0) for c in range(3)])
        np.testing.assert_allclose(together.sums[name], by_class, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimiser": "lion"}, "sgd, adam"),
        ({"penalty": "l1"}, "so"),
        ({"batch_size": 0}, "at least 1"),
        ({"align": -1.0}, "at least 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        LocalTraining(**changes)
