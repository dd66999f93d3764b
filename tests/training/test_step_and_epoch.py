"""The training step is pure, and both ways to run an epoch are the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from osp_jax.data.augment import Preparation
from osp_jax.training.epoch import batch_sizes, epoch_order, epoch_parts, make_epoch, run_parts
from osp_jax.training.loop import training_indices
from osp_jax.training.state import create_optimiser, create_state
from osp_jax.training.step import gathering, make_batch_step


@pytest.fixture
def optimiser():
    return create_optimiser(optax.constant_schedule(0.1), 0.9, 1e-3)


@pytest.fixture
def state(small_variables, optimiser):
    """Copied, since an epoch gives its buffers away."""
    return create_state(jax.tree.map(jnp.copy, small_variables), optimiser)


@pytest.fixture
def data(dataset):
    return jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)


def step_with(small_net, optimiser, **augmentation):
    step = make_batch_step(
        small_net,
        optimiser,
        preparation=Preparation((0.3,), (0.4,), **augmentation),
        penalty=lambda params: jnp.sum(params["conv"]["kernel"] ** 2),
        label_smoothing=0.0,
    )
    return gathering(step)


def same(left, right) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), left, right)))


def test_a_step_depends_on_the_key_and_the_number_of_the_step_only(small_net, optimiser, state, data, key):
    step = jax.jit(step_with(small_net, optimiser, pad=2))
    batch, weight = jnp.arange(16), jnp.float32(0.1)

    def params_after(number, key):
        start = dataclasses.replace(state, step=jnp.int32(number))
        after, _ = step(start, batch, *data, key, weight)
        assert after.step == number + 1
        return after.params

    reference = params_after(5, key)
    assert same(params_after(5, key), reference)
    assert not same(params_after(6, key), reference)
    assert not same(params_after(5, jax.random.key(1)), reference)


def test_without_augmentation_a_step_draws_nothing(small_net, optimiser, state, data, key):
    step = jax.jit(step_with(small_net, optimiser))
    first, _ = step(state, jnp.arange(16), *data, key, jnp.float32(0.1))
    second, _ = step(state, jnp.arange(16), *data, jax.random.key(1), jnp.float32(0.1))
    assert same(first.params, second.params)


def test_the_penalty_weight_is_an_argument_of_the_compiled_step(small_net, optimiser, state, data, key):
    step = jax.jit(step_with(small_net, optimiser))
    _, off = step(state, jnp.arange(16), *data, key, jnp.float32(0))
    _, on = step(state, jnp.arange(16), *data, key, jnp.float32(2))
    np.testing.assert_allclose(on["loss"] - off["loss"], 2 * off["penalty"], rtol=1e-5)
    assert step._cache_size() == 1


def test_scanned_and_looped_epochs_are_the_same(small_net, optimiser, small_variables, data, key):
    step = step_with(small_net, optimiser, pad=1, flip=True, cutout=2)
    order = epoch_order(jnp.arange(len(data[1])), key, 1, 16)
    results = []
    for scan in (True, False):
        state = create_state(jax.tree.map(jnp.copy, small_variables), optimiser)
        calls = []
        state, metrics = make_epoch(step, scan=scan)(state, order, *data, key, jnp.float32(0.01), on_step=calls.append)
        assert state.step == len(order)
        assert sum(call["loss"].size for call in calls) == len(order)
        results.append((state.variables, metrics))
    (left, left_metrics), (right, right_metrics) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), left, right)
    assert {name: values.shape for name, values in left_metrics.items()} == dict.fromkeys(
        ("loss", "accuracy", "penalty"), (len(order),)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), left_metrics, right_metrics)


@pytest.mark.parametrize("scan", [True, False])
def test_an_epoch_of_no_step_changes_nothing(scan, small_net, optimiser, state, small_variables, data, key):
    run = make_epoch(step_with(small_net, optimiser), scan=scan)
    after, metrics = run(state, jnp.zeros((0, 16), jnp.int32), *data, key, jnp.float32(0))
    assert same(after.variables, dict(small_variables))
    assert all(values.size == 0 for values in metrics.values())


def test_an_epoch_shows_each_image_once_and_drops_what_fills_no_batch(key):
    indices = jnp.array([3, 5, 8, 13, 21, 34, 55, 89])
    order = epoch_order(indices, key, 0, 3)
    assert (order.shape, order.dtype) == ((2, 3), jnp.int32)
    shown = order.ravel().tolist()
    assert len(set(shown)) == 6
    assert set(shown) <= set(indices.tolist())
    assert sorted(epoch_order(indices, key, 0, 4).ravel().tolist()) == indices.tolist()


@pytest.mark.parametrize(("batch", "sizes"), [(3, [3, 3, 2]), (4, [4, 4]), (9, [8]), (8, [8])])
def test_a_kept_last_batch_shows_each_image_once(batch, sizes, key):
    indices = jnp.array([3, 5, 8, 13, 21, 34, 55, 89])
    parts = epoch_parts(indices, key, 0, batch, "keep")
    assert [row.size for part in parts for row in part] == sizes == batch_sizes(8, batch, "keep").tolist()
    assert sorted(np.concatenate([part.ravel() for part in parts]).tolist()) == indices.tolist()
    assert same(parts[0], epoch_order(indices, key, 0, batch))  # the full batches stay what they were
    assert batch_sizes(8, batch).tolist() == [size for size in sizes if size == batch]


@pytest.mark.parametrize("scan", [True, False])
def test_an_epoch_in_parts_is_its_steps_one_by_one(scan, small_net, optimiser, state, small_variables, data, key):
    step = step_with(small_net, optimiser, pad=1)
    parts = epoch_parts(jnp.arange(40), key, 1, 16, "keep")  # 16, 16 and 8 images
    run, given = make_epoch(step, scan=scan), (*data, key, jnp.float32(0.01))
    calls, expected = [], create_state(jax.tree.map(jnp.copy, small_variables), optimiser)
    after, metrics = run_parts(run, state, parts, *given, on_step=calls.append)
    for row in [row for part in parts for row in part]:
        expected, _ = jax.jit(step)(expected, row, *given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.variables, expected.variables)
    assert {name: values.shape for name, values in metrics.items()} == dict.fromkeys(metrics, (3,))
    assert sum(call["loss"].size for call in calls) == 3


@pytest.mark.parametrize("done", [0, 1, 2])
def test_an_epoch_in_parts_stops_and_goes_on_at_any_step(done, small_net, optimiser, small_variables, data, key):
    parts = epoch_parts(jnp.arange(40), key, 1, 16, "keep")
    run, given = make_epoch(step_with(small_net, optimiser), scan=False), (*data, key, jnp.float32(0))

    def start():
        return create_state(jax.tree.map(jnp.copy, small_variables), optimiser)

    whole, history = run_parts(run, start(), parts, *given)
    calls, begun, before = [], start(), {}
    if done:
        begun, before = run_parts(run, begun, parts, *given, on_step=calls.append, stop=lambda: len(calls) == done)
        if done == 2:  # between the parts nothing asks again
            assert len(before["loss"]) == 3
            return
    ended, rest = run_parts(run, begun, parts, *given, first=done)
    assert same(ended.variables, whole.variables)
    assert same({name: np.concatenate([before.get(name, v[:0]), v]) for name, v in rest.items()}, history)


def test_the_order_differs_by_epoch_and_follows_from_the_key(key):
    indices = jnp.arange(50)
    assert same(epoch_order(indices, key, 3, 10), epoch_order(indices, key, 3, 10))
    assert not same(epoch_order(indices, key, 3, 10), epoch_order(indices, key, 4, 10))
    assert not same(epoch_order(indices, key, 3, 10), epoch_order(indices, jax.random.key(1), 3, 10))


def test_excluded_and_held_out_images_are_never_shown(config, dataset, key):
    config.data.exclude, config.data.validation = "1", 0.25
    train, validation = training_indices(config, dataset)
    labels = dataset.train.labels
    assert (len(train), len(validation)) == (36, 12)
    assert set(labels[train]) == set(labels[validation]) == {0, 2}
    shown = np.concatenate([epoch_order(jnp.asarray(train), key, epoch, 10).ravel() for epoch in range(20)])
    assert 1 not in labels[shown]
    assert not set(validation.tolist()) & set(shown.tolist())
    assert set(shown.tolist()) == set(train.tolist())  # what one epoch leaves out, another shows


def test_the_images_of_other_classes_do_not_depend_on_which_are_excluded(config, dataset):
    config.data.validation = 0.25
    everything, _ = training_indices(config, dataset)
    config.data.exclude = "1"
    retained, _ = training_indices(config, dataset)
    np.testing.assert_array_equal(retained, everything[dataset.train.labels[everything] != 1])
