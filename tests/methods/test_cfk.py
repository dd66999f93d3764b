"""CF-k: it starts from the original, changes only the last layers, and forgets more with more of them."""

import jax
import numpy as np
import pytest

from osp_jax.methods.cfk import Cfk
from osp_jax.runtime.errors import InputError


def test_without_an_epoch_nothing_changes(digits):
    model, _ = digits.forget("cfk", (3,), epochs=0)
    jax.tree.map(np.testing.assert_array_equal, model.variables, digits.model.variables)


def test_with_one_layer_only_the_head_changes_and_the_class_is_lowered(digits):
    before = digits.accuracies(digits.model, (3,))
    model, data = digits.forget("cfk", (3,), epochs=7)
    forget, retain = digits.accuracies(model, (3,))
    assert forget < before[0]
    assert retain > before[1] - 0.03
    for name, tree in digits.model.variables.items():
        for module in tree:
            same = jax.tree.leaves(jax.tree.map(np.array_equal, model.variables[name][module], tree[module]))
            assert not any(same) if module == "head" else all(same)
    assert "3" not in data.seen()


def test_more_layers_forget_more_also_of_two_classes(digits):
    few, more = (digits.accuracies(digits.forget("cfk", (3, 7), k=k, epochs=7)[0], (3, 7)) for k in (1, 2))
    assert more[0] < few[0]
    assert more[1] > 0.93


def test_an_option_out_of_range_is_an_input_error():
    with pytest.raises(InputError, match="option k"):
        Cfk(k=0)
