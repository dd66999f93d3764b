"""A hidden class is recovered; a class that was never learned is not."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.audit.recovery import Settings, fine_tuned, inversion, quantised, recovery, rescaled, with_batch_statistics
from osp_jax.trees import edited, leaves_by_path

SETTINGS = Settings(steps=20, inversion_images=8, inversion_steps=60)


def changed(subject, changes):
    """The subject with other leaves; `changes` are functions of a leaf, by path."""
    variables = subject.model.variables
    leaves = leaves_by_path(variables)
    new = edited(variables, {path: change(leaves[path]) for path, change in changes.items()})
    return subject._replace(model=subject.model.replace(variables=new))


def test_a_class_hidden_by_its_bias_comes_back_with_an_even_one_and_one_never_seen_does_not(controls):
    hidden = changed(controls.original, {"params/head/bias": lambda bias: bias.at[3].set(-1e9)})
    given = controls.images, controls.original, SETTINGS
    found = recovery(hidden, *given, training=False)
    assert found["int8_forget_accuracy"]["value"] == 0
    assert found["even_bias_forget_accuracy"]["value"] > 0.9
    assert found["rescaled_forget_accuracy"]["value"] > 0.5
    for name, found in recovery(controls.retrained, *given, training=False).items():
        assert found["value"] < 0.2, name
    assert recovery(controls.original, *given, training=False)["int8_forget_accuracy"]["value"] > 0.9


def test_rescaling_undoes_a_mask_on_a_norm_up_to_its_size(controls):
    factor, norm = jnp.ones(32).at[:5].set(1e-3), controls.original.model.variables["params"]["bn3"]
    gated = {f"params/bn3/{leaf}": lambda leaf: leaf * factor for leaf in ("scale", "bias")}
    after = rescaled(changed(controls.original, gated), controls.images.dataset.image_shape)
    scale, bias = (np.asarray(after["params"]["bn3"][leaf]) for leaf in ("scale", "bias"))
    median = np.median(np.abs(norm["scale"] * factor))
    assert np.abs(scale).min() >= median * (1 - 1e-6)
    ratio = np.asarray(norm["bias"] / norm["scale"])
    np.testing.assert_allclose(bias / scale, ratio, rtol=1e-4)  # scale and bias by the same factor


def test_a_channel_that_is_gone_stays_gone(controls):
    erased = {f"params/bn3/{leaf}": lambda leaf: leaf.at[0].set(0) for leaf in ("scale", "bias")}
    after = rescaled(changed(controls.original, erased), controls.images.dataset.image_shape)
    assert after["params"]["bn3"]["scale"][0] == 0


def test_kernels_are_rounded_to_255_steps_and_nothing_else_is(controls):
    after, before = (
        quantised(controls.original.model, controls.images.dataset.image_shape),
        controls.original.model.variables,
    )
    kernel, old = (np.asarray(v["params"]["conv2"]["kernel"]) for v in (after, before))
    steps = kernel / (np.abs(old).max((0, 1, 2)) / 127)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert np.abs(steps).max() <= 127 + 1e-3
    np.testing.assert_allclose(kernel, old, atol=np.abs(old).max() / 127)
    np.testing.assert_array_equal(after["params"]["bn1"]["scale"], before["params"]["bn1"]["scale"])
    assert all(map(operator.is_, *map(jax.tree.leaves, (after["batch_stats"], before["batch_stats"]))))


def test_statistics_are_taken_anew_from_retained_images(controls):
    model = controls.original.model
    stats = jax.tree.map(lambda leaf: leaf + 5.0, model.variables["batch_stats"])
    spoilt = model.replace(variables={**model.variables, "batch_stats": stats})
    after = with_batch_statistics(controls.original._replace(model=spoilt), controls.images)
    jax.tree.map(np.testing.assert_array_equal, after["params"], model.variables["params"])
    for layer in ("bn1", "bn2", "bn3"):
        true = model.variables["batch_stats"][layer]["mean"]
        np.testing.assert_allclose(after["batch_stats"][layer]["mean"], true, atol=0.35)


def test_fine_tuning_sees_retained_images_only_and_leaves_the_statistics(controls):
    after = fine_tuned(controls.retrained, controls.images, SETTINGS, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], controls.retrained.model.variables["batch_stats"])
    assert not np.array_equal(
        after["params"]["conv1"]["kernel"], controls.retrained.model.variables["params"]["conv1"]["kernel"]
    )
    labels = controls.images.dataset.train.labels[controls.images.parts["train_retain"]]
    assert 3 not in labels


def test_images_of_the_class_can_be_drawn_from_the_original_but_not_from_one_that_never_saw_it(controls):
    given = controls.images, controls.original, SETTINGS, jax.random.key(1)
    known, unknown = inversion(controls.original, *given), inversion(controls.retrained, *given)
    assert known["value"] == pytest.approx(1.0, abs=0.2)
    assert unknown["value"] < known["value"]
    assert known["n"] == SETTINGS.inversion_images
