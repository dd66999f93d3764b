"""FU-CDP: client maps compared with the centralised method and by hand; removed channels stay removed."""

import dataclasses

import jax
import numpy as np
import pytest

from osp_jax.data.batches import index_batches
from osp_jax.federated import LocalTraining, Schedule, Sums, train
from osp_jax.federated.fucdp import FuCdp, class_means
from osp_jax.federated.requests import forget_class
from osp_jax.federated.simulator import asking
from osp_jax.methods.cdp import Cdp
from osp_jax.methods.parts.data import request_data
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import collect_statistics
from tests.federated.small import assert_close
from tests.federated.trained import accuracies, digits_federation


@pytest.mark.parametrize(("source", "forget"), [("conv", (3,)), ("conv", (0, 7)), ("gate", (3,))])
def test_maps_of_clients_prune_as_those_of_all_images(source, forget):
    digits, clients, situation = digits_federation()
    edit = FuCdp(source=source, sparsity=0.1).edit(situation, forget_class(clients, forget))
    train_split = digits.dataset.train
    everything = np.arange(len(train_split.labels))
    statistics = collect_statistics(digits.model, index_batches(train_split, everything, 256))
    data = request_data(train_split, everything, forget, digits.preparation, {})
    central = Cdp(source="stored" if source == "gate" else "conv", sparsity=0.1, per_class=10**6, epochs=0)
    given = {"data": data, "statistics": statistics, "rng": jax.random.key(0)}
    assert_close(edit.variables, central.unlearn(digits.model, forget, **given).variables, atol=1e-5)


def test_a_client_without_the_class_is_left_out_of_its_mean():
    one = Sums(np.array([2.0, 0.0]), {"a": np.array([[4.0], [0.0]])})
    other = Sums(np.array([6.0, 1.0]), {"a": np.array([[6.0], [5.0]])})
    exact, plain = (class_means([one, other], average)["a"] for average in ("counts", "plain"))
    np.testing.assert_allclose(exact.mean.sum[:, 0] / exact.count, [10 / 8, 5])
    np.testing.assert_allclose(plain.mean.sum[:, 0] / plain.count, [(2 + 1) / 2, 5])


def test_a_class_that_no_client_has_is_refused():
    _, clients, situation = digits_federation()
    without = forget_class(clients, (3,)).retained(clients)
    request = dataclasses.replace(forget_class(clients, (4,)), classes=(3,))
    with pytest.raises(InputError, match="no image of class 3"):
        FuCdp().edit(situation._replace(ask=asking(without)), request)


def test_the_paper_s_direction_forgets_before_any_training_and_the_code_s_does_not():
    digits, clients, situation = digits_federation()
    request, found = forget_class(clients, (3,)), {}
    for direction in ("highest", "lowest"):
        edit = FuCdp(direction=direction, sparsity=0.1, source="gate").edit(situation, request)
        found[direction] = accuracies(digits.model.replace(variables=edit.variables), digits, 3)
    assert found["highest"][0] < 0.3
    assert found["lowest"][0] > found["highest"][0] + 0.2


def test_removed_channels_stay_removed_through_the_rounds():
    digits, clients, situation = digits_federation()
    request = forget_class(clients, (3,))
    edit = FuCdp(sparsity=0.2).edit(situation, request)
    schedule = Schedule(LocalTraining(learning_rate=0.1, weight_decay=1e-3), rounds=2)

    def after(variables):
        model = digits.model.replace(variables=variables)
        left = request.retained(clients)
        return train(model, left, jax.random.key(0), schedule, mask=edit.mask).variables["params"]

    removed = edit.about["removed_channels"]
    assert sum(removed.values()) == round(0.2 * 56)
    for name, number in removed.items():
        kernel = np.asarray(edit.variables["params"][name]["kernel"]).reshape(-1, 8 * 2 ** (int(name[-1]) - 1))
        gone = ~kernel.any(0)
        assert gone.sum() == number
        new = np.asarray(after(edit.variables)[name]["kernel"]).reshape(kernel.shape)
        assert not new[:, gone].any()
        assert new[:, ~gone].any(0).all()
    # From weights that are not 0 the mask is seen to hold them, and nothing else.
    before = digits.model.variables["params"]
    moved = jax.tree.map(lambda old, new: np.abs(np.asarray(old - new)) > 1e-5, before, after(digits.model.variables))
    held = jax.tree.map(lambda factor: np.asarray(factor) == 0, edit.mask["params"])
    assert not any(jax.tree.leaves(jax.tree.map(lambda m, h: (m & h).any(), moved, held)))
    assert all(jax.tree.leaves(jax.tree.map(lambda m, h: m[~h].mean() > 0.8, moved, held)))
