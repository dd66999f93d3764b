"""Leaves by path."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from osp_jax import trees
from osp_jax.runtime.errors import InputError


class Layer(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray


TREE = {"layers": [Layer(np.ones((2, 3)), np.zeros(3)), Layer(np.ones((3, 1)), np.zeros(1))], "scale": np.full(2, 4.0)}


def test_paths_name_keys_positions_and_fields():
    assert trees.leaf_paths(TREE) == (
        "layers/0/weight",
        "layers/0/bias",
        "layers/1/weight",
        "layers/1/bias",
        "scale",
    )


def test_an_edit_changes_the_leaves_it_names_and_no_other():
    after = trees.edited(TREE, {"layers/1/bias": np.full(1, 7.0)})

    assert trees.changed_paths(TREE, after) == ("layers/1/bias",)
    assert after["layers"][1].bias == 7
    assert TREE["layers"][1].bias == 0


def test_an_unknown_path_is_refused():
    with pytest.raises(InputError, match="no layers/2/bias"):
        trees.edited(TREE, {"layers/2/bias": np.ones(1)})


def test_parts_combine_to_the_whole():
    first, second = trees.partition(TREE, lambda path: path.startswith("layers/"))

    assert trees.leaf_paths(first) == trees.leaf_paths(TREE)[:-1]
    assert trees.leaf_paths(second) == ("scale",)
    whole = trees.combine(first, second)
    assert jax.tree.structure(whole) == jax.tree.structure(TREE)
    assert trees.changed_paths(TREE, whole) == ()
