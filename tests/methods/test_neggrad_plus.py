"""NegGrad+: the terms of its loss by hand, the images it uses, and its effect on the class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.methods.neggrad_plus import NegGradPlus, two_sided_loss
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import in_eval_mode, in_train_mode, split_variables
from tests.methods.loss_by_hand import cross_entropy_by_hand, without_augmentation

FAST = {"epochs": 5, "learning_rate": 0.02, "pull": 0.3}


@pytest.mark.parametrize("train_mode", [False, True])
@pytest.mark.parametrize(("alpha", "pull"), [(0.95, 0.0), (0.7, 0.2)])
def test_the_loss_weighs_both_sides_and_the_distance_from_the_original(digits, train_mode, alpha, pull):
    train, batch = digits.dataset.train, {"retain": np.array([5, 40, 41]), "forget": np.array([3, 13, 23])}
    params, rest = split_variables(digits.model)
    original = jax.tree.map(lambda leaf: leaf + 0.1, params)
    forward = in_train_mode(digits.model) if train_mode else in_eval_mode(digits.model)
    loss = two_sided_loss(forward, without_augmentation(digits))
    weights = jnp.float32(alpha), jnp.float32(pull)
    value, _ = loss(params, rest, batch, jax.random.key(0), train.images, train.labels, original, *weights)
    retain, forget = (cross_entropy_by_hand(digits, batch[side], train=train_mode) for side in ("retain", "forget"))
    distance = 0.1**2 * sum(leaf.size for leaf in jax.tree.leaves(params))
    expected = alpha * (retain + pull / 2 * distance) - (1 - alpha) * forget
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5)


def test_it_forgets_the_class_keeps_the_others_and_leaves_the_running_statistics(digits):
    model, data = digits.forget("neggrad+", (3,), **FAST)
    forget, retain = digits.accuracies(model, (3,))
    assert forget < 0.1
    assert retain > 0.8
    jax.tree.map(np.testing.assert_array_equal, model.variables["batch_stats"], digits.model.variables["batch_stats"])
    assert sum(data.seen().values()) == len(digits.dataset.train.labels)


def test_two_classes_are_lowered_at_once(digits):
    model, data = digits.forget("neggrad+", (3, 7), **FAST)
    forget, retain = digits.accuracies(model, (3, 7))
    assert forget < 0.7
    assert retain > 0.85
    assert sum(data.seen().values()) == len(digits.dataset.train.labels)


def test_the_pull_keeps_the_parameters_near_the_original(digits):
    def distance(pull: float) -> float:
        model, _ = digits.forget("neggrad+", (3,), **(FAST | {"pull": pull}))
        moved = jax.tree.map(
            lambda new, old: ((new - old) ** 2).sum(), model.variables["params"], digits.model.variables["params"]
        )
        return float(sum(jax.tree.leaves(moved)))

    assert distance(3.0) < 0.7 * distance(0.0)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"pull": -1.0}, {"forget_batch_size": 0}, {"epochs": -1}])
def test_an_option_out_of_range_is_an_input_error(options):
    with pytest.raises(InputError, match=next(iter(options))):
        NegGradPlus(**options)
