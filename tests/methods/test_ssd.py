"""SSD: the rule and the importances computed in a second way, and the effect on the digits."""

import jax
import numpy as np
import pytest

from osp_jax.methods import get_method
from osp_jax.methods.ssd import Ssd, dampened
from osp_jax.runtime.errors import InputError
from tests.methods.linear import MODEL, STATISTICS, VARIABLES, assert_close, images_of, mean_of_squares, request, runs

SPLIT = images_of((5, 3, 4))


def rule(parameter, of_all, of_forget, alpha, dampening):
    """In float64, from equations; also whether each entry is selected."""
    chosen = of_forget > alpha * of_all
    return np.where(chosen, parameter * np.minimum(dampening * of_all / of_forget, 1), parameter), chosen


@pytest.mark.parametrize("dampening", [0.1, 1.0, 4.0])
def test_a_parameter_that_matters_more_to_the_forgotten_is_dampened_by_how_much_more(dampening):
    draw = np.random.default_rng(1)
    parameter, of_all, of_forget = draw.normal(size=(3, 40, 7)).astype(np.float32)
    of_all, of_forget = of_all**2, of_forget**2
    of_forget[0], of_all[:2] = 0, 0
    found = dampened({"a": parameter}, {"a": of_all}, {"a": of_forget}, 2.0, dampening)["a"]
    with np.errstate(divide="ignore", invalid="ignore"):
        expected, chosen = rule(*(x.astype(np.float64) for x in (parameter, of_all, of_forget)), 2.0, dampening)
    assert chosen.any()
    assert not chosen.all()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def request_ssd(forget, **options):
    given = {"data": request(SPLIT, forget), "statistics": STATISTICS, "rng": jax.random.key(0)}
    return Ssd(**options).unlearn(MODEL, forget, **given).variables


@pytest.mark.parametrize("forget", [(1,), (0, 1)])
def test_importances_are_taken_class_by_class_with_the_forgotten_classes_last(forget):
    classes = [c for c in range(3) if c not in forget] + list(forget)
    of_all = np.concatenate([np.flatnonzero(SPLIT.labels == c) for c in classes])
    of_forget = np.concatenate([np.flatnonzero(SPLIT.labels == c) for c in forget])
    importance, forget_importance = (mean_of_squares(SPLIT, runs(indices, 2)) for indices in (of_all, of_forget))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), VARIABLES["params"])
    pairs = jax.tree.map(lambda *leaves: rule(*leaves, 1.2, 0.5), params, importance, forget_importance)
    chosen = np.concatenate([pairs["head"][name][1].ravel() for name in ("kernel", "bias")])
    assert chosen.any()
    assert not chosen.all()
    expected = {"head": {name: pair[0] for name, pair in pairs["head"].items()}}
    assert_close(request_ssd(forget, alpha=1.2, dampening=0.5, batch_size=2)["params"], expected)


def test_single_images_do_not_care_for_their_order():
    single = [request_ssd((1,), alpha=1.2, batch_size=1, shuffled=shuffled)["params"] for shuffled in (False, True)]
    assert_close(*single)
    mixed = [request_ssd((1,), alpha=1.2, batch_size=2, shuffled=shuffled)["params"] for shuffled in (False, True)]
    assert not np.allclose(*(params["head"]["kernel"] for params in mixed), rtol=1e-3)


@pytest.mark.parametrize(
    ("forget", "alpha", "lost"), [((3,), 50.0, 0.05), pytest.param((3, 8), 20.0, 0.4, marks=pytest.mark.slow)]
)
def test_it_forgets_the_digits_and_keeps_the_others(digits, forget, alpha, lost):
    model, data = digits.forget("ssd", forget, shuffled=True, alpha=alpha)
    forgotten, retained = digits.accuracies(model, forget)
    assert forgotten < 0.1
    assert retained > digits.accuracies(digits.model, forget)[1] - lost
    assert sum(data.seen().values()) == len(digits.dataset.train.labels)


def test_where_no_parameter_is_selected_nothing_changes(digits):
    model, _ = digits.forget("ssd", (3,), alpha=1e9)
    jax.tree.map(np.testing.assert_array_equal, model.variables, digits.model.variables)


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"dampening": -0.1}, {"batch_size": 0}])
def test_a_bad_option_is_an_input_error_that_names_it(options):
    with pytest.raises(InputError, match=next(iter(options))):
        get_method("ssd")(**options)
