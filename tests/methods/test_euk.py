"""EU-k: the last layers keep nothing of the original, the others do not change, and the class is forgotten."""

import jax
import numpy as np
import pytest

from osp_jax.methods.euk import Euk
from osp_jax.runtime.errors import InputError

TRAINED = {"conv3", "bn3", "head"}
FAST = {"k": 2, "epochs": 7}


def test_without_an_epoch_the_last_layers_are_as_initialised_and_the_rest_as_it_was(digits):
    model, _ = digits.forget("euk", (3,), k=2, epochs=0)
    np.testing.assert_array_equal(model.variables["batch_stats"]["bn3"]["var"], 1)
    np.testing.assert_array_equal(model.variables["params"]["head"]["bias"], 0)
    assert not np.allclose(
        model.variables["params"]["conv3"]["kernel"], digits.model.variables["params"]["conv3"]["kernel"]
    )
    assert digits.accuracies(model, (3,))[1] < 0.5


@pytest.mark.parametrize("forgotten", [(3,), (3, 7)])
def test_it_forgets_the_classes_keeps_the_others_and_never_sees_a_forgotten_image(digits, forgotten):
    model, data = digits.forget("euk", forgotten, **FAST)
    forget, retain = digits.accuracies(model, forgotten)
    assert forget < 0.02
    assert retain > 0.93
    assert not set(map(str, forgotten)) & set(data.seen())


def test_frozen_layers_and_their_running_statistics_do_not_change(digits):
    model, _ = digits.forget("euk", (3,), **FAST)
    for name, tree in digits.model.variables.items():
        assert jax.tree.structure(model.variables[name]) == jax.tree.structure(tree)
        for module in tree:
            same = jax.tree.leaves(jax.tree.map(np.array_equal, model.variables[name][module], tree[module]))
            assert not any(same) if module in TRAINED else all(same)


def test_nothing_of_the_forgotten_layers_reaches_the_result(digits):
    ruined = {name: dict(tree) for name, tree in digits.model.variables.items()}
    for name, tree in ruined.items():
        tree.update({m: jax.tree.map(lambda leaf: leaf + 5, tree[m]) for m in TRAINED & set(tree)})
        ruined[name] = tree
    models = digits.model, digits.model.replace(variables=ruined)
    results = (digits._replace(model=model).forget("euk", (3,), **FAST)[0].variables for model in models)
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_more_layers_than_the_network_has_is_an_input_error_that_tells_how_many(digits):
    with pytest.raises(InputError, match="has 4 layers"):
        Euk(k=5).check(digits.model, digits.statistics.gates)
    with pytest.raises(InputError, match="has 4 layers"):
        digits.forget("euk", (3,), k=5)


@pytest.mark.parametrize("options", [{"k": 0}, {"floor": 1.5}, {"epochs": -1}, {"batch_size": 0}])
def test_an_option_out_of_range_is_an_input_error(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Euk(**options)
