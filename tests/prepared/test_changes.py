"""Changes of a request are restored bit by bit, in their smallest form."""

import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.prepared.changes import applied, changed_leaves, find_change, find_changes, ready

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 24, 32)).astype(np.float32)
GAINS = RNG.uniform(0, 1, 32).astype(np.float32)
LOW = (RNG.normal(size=(9 * 24, 2)) @ RNG.normal(size=(2, 32))).astype(np.float32).reshape(KERNEL.shape)


def with_columns(kernel, columns):
    new = kernel.copy()
    new[..., columns] = RNG.normal(size=new[..., columns].shape)
    return new


NEW = {
    "slices": with_columns(KERNEL, [3, 5, 7]),
    "entries": np.where(np.arange(KERNEL.size).reshape(KERNEL.shape) % 991 == 0, np.float32(2), KERNEL),
    "factor": KERNEL * GAINS,
    "low rank": KERNEL + LOW,
    "values": RNG.normal(size=KERNEL.shape).astype(np.float32),
}


@pytest.mark.parametrize("kind", NEW)
def test_the_smallest_form_is_found_and_gives_the_new_leaf(kind):
    change = find_change(KERNEL, NEW[kind])

    assert change.kind == kind
    new = changed_leaves({"kernel": KERNEL}, {"kernel": change})["kernel"]
    if kind == "low rank":
        assert change.nbytes < KERNEL.nbytes / 8
        np.testing.assert_allclose(new, NEW[kind], atol=3e-7 * np.abs(NEW[kind]).max())
    else:
        np.testing.assert_array_equal(new.view(np.uint32), NEW[kind].view(np.uint32))


def test_leaves_that_stay_are_not_kept_and_not_copied():
    before = {"kernel": jnp.asarray(KERNEL), "bias": jnp.arange(10.0), "other": jnp.ones(3)}
    after = {**before, "bias": before["bias"].at[4].set(-1e9), "other": jnp.ones(3)}
    changes = find_changes(before, after)
    new = applied(before, ready(changes))

    assert changes.keys() == {"bias"}
    assert new["kernel"] is before["kernel"]
    np.testing.assert_array_equal(new["bias"], after["bias"])
    assert before["bias"][4] == 4


def test_the_memory_of_the_original_may_be_given_away():
    changes = ready(find_changes({"kernel": KERNEL}, {"kernel": NEW["slices"]}))
    new = applied({"kernel": jnp.array(KERNEL)}, changes, donate=True)

    np.testing.assert_array_equal(new["kernel"], NEW["slices"])


@pytest.mark.parametrize("value", [np.float32(-0.0), np.float32(np.nan), np.float32(1e-30)])
def test_values_that_no_difference_gives_back_come_back(value):
    old = np.ones((4, 4), np.float32)
    new = old.copy()
    new[1, 2] = value

    found = changed_leaves({"leaf": old}, find_changes({"leaf": old}, {"leaf": new}))["leaf"]

    np.testing.assert_array_equal(found.view(np.uint32), new.view(np.uint32))


def test_bfloat16_comes_back():
    old = jnp.ones((8, 8), jnp.bfloat16)
    new = old.at[2].multiply(0.3)

    found = changed_leaves({"leaf": old}, find_changes({"leaf": old}, {"leaf": new}))["leaf"]

    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), np.asarray(new, np.float32))
