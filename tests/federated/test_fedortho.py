"""One-shot soft pruning from the answers of clients, compared with all images at once and with NumPy."""

import jax
import numpy as np
import pytest

from osp_jax.data.batches import index_batches
from osp_jax.federated import Sums, total
from osp_jax.federated.fedortho import FedOrtho, scores_of
from osp_jax.federated.requests import forget_class, forget_clients, forget_samples
from osp_jax.methods.osp import Osp
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import collect_statistics
from tests.federated.small import assert_close
from tests.federated.trained import accuracies, digits_federation


@pytest.mark.parametrize("options", [{}, {"layers": "last", "amount": 0.4}, {"place": "kernel", "reduction": "mean"}])
def test_a_class_is_pruned_as_from_the_statistics_of_all_images(options):
    digits, clients, situation = digits_federation()
    edit = FedOrtho(**options).edit(situation, forget_class(clients, (3,)))
    train = digits.dataset.train
    statistics = collect_statistics(digits.model, index_batches(train, np.arange(len(train.labels)), 256))
    central = Osp(**({"layers": "all"} | options)).unlearn(
        digits.model, (3,), data=None, statistics=statistics, rng=jax.random.key(0)
    )
    assert_close(edit.variables, central.variables, atol=1e-5)
    assert edit.mask is None


def test_a_class_is_forgotten_at_once():
    digits, clients, situation = digits_federation()
    edit = FedOrtho(layers="last").edit(situation, forget_class(clients, (3,)))
    before = accuracies(digits.model, digits, 3)
    after = accuracies(digits.model.replace(variables=edit.variables), digits, 3)
    assert before[0] > 0.9
    assert after[0] < 0.2
    assert after[1] > 0.7


@pytest.mark.parametrize("level", ["client", "sample"])
def test_the_raw_score_is_the_matched_one_and_that_of_the_class_mix(level):
    """s = sum_c p_c (m_Fc - m_Rc) + sum_c (p_c - q_c) m_Rc, for the shares p, q and means m of class c in F and R."""
    _, clients, situation = digits_federation()
    request = forget_clients(clients, (1,)) if level == "client" else forget_samples(clients, (0, 3), 0.3, 1)
    query = FedOrtho(score="matched").query_for(situation.model)
    answers = situation.ask(situation.model, query, request, "class+forget")
    sums = total(answers)
    retained, forgotten = (np.asarray(sums.count[flag::2], np.float64) for flag in (0, 1))
    both = (retained > 0) & (forgotten > 0)
    assert both.sum() > 3
    for count in (retained, forgotten):
        count[~both] = 0
    kept = np.repeat(both, 2)
    shared = Sums(sums.count * kept, {name: values * kept[:, None] for name, values in sums.sums.items()})
    folded = Sums(
        np.array([shared.count[flag::2].sum() for flag in (0, 1)]),
        {name: np.stack([values[flag::2].sum(0) for flag in (0, 1)]) for name, values in shared.sums.items()},
    )
    raw, matched = scores_of(folded, "raw"), scores_of(sums, "matched")
    for name, values in shared.sums.items():
        means = values[0::2].astype(np.float64)[both] / retained[both, None]
        mix = (forgotten / forgotten.sum() - retained / retained.sum())[both] @ means
        np.testing.assert_allclose(raw[name], matched[name] + mix, atol=1e-5)


def test_clients_send_sums_and_counts_only():
    _, clients, situation = digits_federation()
    edit = FedOrtho().edit(situation, forget_clients(clients, (1,)))
    channels = 8 + 16 + 32  # of the network's three layers
    assert edit.traffic.up == 5 * 4 * (2 * channels + 2)


def test_no_image_of_the_same_class_is_left_to_match():
    _, clients, situation = digits_federation()
    with pytest.raises(InputError, match="use score=raw"):
        FedOrtho(score="matched").edit(situation, forget_class(clients, (3,)))


def test_scores_need_images_on_both_sides():
    with pytest.raises(InputError, match="no image to forget"):
        scores_of(Sums(np.array([3.0, 0.0]), {"a": np.ones((2, 4))}), "raw")


def test_settings_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match="raw, matched"):
        FedOrtho(score="both")


@pytest.mark.parametrize(
    "options",
    [{"amount": 2.0}, {"select": "top-k"}, {"select": "top-k", "amount": 2.5}, {"select": "threshold", "amount": 1e9}],
)
def test_an_amount_out_of_the_range_of_its_selection_is_refused_as_by_osp(options):
    with pytest.raises(InputError, match="option amount is") as mine:
        FedOrtho(**options)
    with pytest.raises(InputError) as its:
        Osp(**options)
    assert str(mine.value) == str(its.value)
