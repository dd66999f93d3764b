"""A second request does not restore the first class, for any two methods."""

import jax
import numpy as np
import pytest

from osp_jax.methods import get_method, unlearn_classes

FIRST, SECOND = 3, 5
# Options that keep a pair to seconds: what training there is tries hard to learn again.
METHODS = {
    "osp-fit": {},
    "logit-mask": {},
    "concept-erasure": {},
    "finetune": {"epochs": 2, "learning_rate": 0.05},
    "random-label": {"epochs": 2, "learning_rate": 0.05},
    "cfk": {"epochs": 2, "learning_rate": 0.05},
}
SECONDS = [*METHODS, "neggrad+", "boundary-shrink", "subspace"]


def asked(digits, name, model, statistics, forget):
    method = get_method(name)(**METHODS.get(name, {}))
    data = digits.data(forget)
    given = {"data": data if method.sees else None, "statistics": statistics, "rng": jax.random.key(0)}
    return unlearn_classes(method, model, forget, **given), data


@pytest.fixture(scope="module")
def after_first(digits):
    """The model after the first request, by the name of its method."""
    found = {}

    def of(name):
        if name not in found:
            found[name], _ = asked(digits, name, digits.model, digits.statistics, (FIRST,))
        return found[name]

    return of


@pytest.mark.parametrize("second", SECONDS)
@pytest.mark.parametrize("first", ["osp-fit", "logit-mask", "concept-erasure"])
def test_the_first_class_stays_away(first, second, after_first, digits):
    new, data = asked(digits, second, after_first(first), digits.statistics, (SECOND,))
    assert digits.accuracies(new, (FIRST,))[0] <= 0.01
    assert str(FIRST) not in data.seen()


@pytest.mark.parametrize("second", ["osp-fit", "logit-mask"])
@pytest.mark.parametrize("first", ["finetune", "random-label", "cfk"])
def test_it_stays_away_whatever_trained_it_away(first, second, after_first, digits):
    new, _ = asked(digits, second, after_first(first), digits.statistics, (SECOND,))
    assert digits.accuracies(new, (FIRST,))[0] <= 0.01


def test_without_the_door_the_class_comes_back(digits, after_first):
    """What the door is for: the same images and statistics, and a model that does not say what it has forgotten."""
    model = after_first("osp-fit").replace(forgotten=())
    new, data = asked(digits, "finetune", model, digits.statistics, (SECOND,))
    assert digits.accuracies(new, (FIRST,))[0] > 0.3
    assert data.seen()[str(FIRST)] > 0


def test_images_and_statistics_of_the_first_class_change_nothing(digits, after_first):
    """The method may not depend on them: with other values in their place the result is the same to the bit."""
    found = []
    for noise in (0, 1):
        statistics = digits.statistics
        if noise:
            statistics = statistics.replace(
                layers=jax.tree.map(lambda sums: sums.at[FIRST].add(7.0), statistics.layers),
                features=np.where(np.asarray(statistics.labels == FIRST)[:, None], 9.0, statistics.features),
            )
        new, _ = asked(digits, "osp-fit", after_first("osp-fit"), statistics, (SECOND,))
        found.append(new.variables)
    jax.tree.map(np.testing.assert_array_equal, *found)
