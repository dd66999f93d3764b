"""FedUP's pruning by hand on a small network, its rule for P, and the requests that it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.federated import ClientData, Exchange, LocalTraining, Schedule, run_round, stacked_clients
from osp_jax.federated.editing import Situation
from osp_jax.federated.fedup import FedUp, NaturalForgetting, Negation, fraction_of, mean_similarity, without_top
from osp_jax.federated.requests import forget_clients
from osp_jax.federated.server import mean_of
from osp_jax.federated.simulator import asking
from osp_jax.program.gates import Head
from osp_jax.runtime.errors import InputError
from tests.federated.small import assert_close, assert_equal, small_federation


def situation(clients: int = 5) -> Situation:
    """Five clients whose last models are the global one and noise of their own."""
    small = small_federation()
    draw = np.random.default_rng(0)

    def noisy(leaf):
        return jnp.asarray(np.asarray(leaf) + 0.1 * draw.normal(size=(clients, *leaf.shape)), jnp.float32)

    updates = jax.tree.map(noisy, small.model.variables)
    counts = np.arange(1, clients + 1, dtype=np.float32)
    last = Exchange(small.model.variables, tuple(range(clients)), updates, counts, {})
    return Situation(small.model, small.images.shape[1:], asking(five_clients()), last, jax.random.key(0))


def five_clients() -> ClientData:
    small = small_federation()
    return stacked_clients(small.images, small.labels, np.split(np.arange(40), 5))


@pytest.mark.parametrize(
    "options",
    [{}, {"sign": "signed"}, {"weighting": "plain"}, {"rounding": "floor"}, {"rank": "magnitude", "fraction": 0.3}],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)
def test_pruning_is_the_steps_written_out(options):
    given, flagged = situation(), (1, 3)
    settings = FedUp(**options)
    edit = settings.edit(given, forget_clients(five_clients(), flagged))
    weights = np.array([1, 2, 3, 4, 5], np.float64) if settings.weighting == "samples" else np.ones(5)
    bad = np.isin(np.arange(5), flagged)

    def expected(path, stacked, start, actual):
        stacked, W = np.asarray(stacked, np.float64), np.asarray(start, np.float64)
        M, B = (np.average(stacked[chosen], axis=0, weights=weights[chosen]) for chosen in (bad, ~bad))
        if path[-1].key == "kernel":
            rank = np.abs(M) if settings.rank == "magnitude" else (M - B) ** 2 * (W if "sign" in options else np.abs(W))
            size = settings.fraction * B.size
            marked = int(np.floor(size) if settings.rounding == "floor" else np.ceil(size))
            B.ravel()[np.argsort(-rank.ravel(), kind="stable")[:marked]] = 0
            assert (np.asarray(actual) == 0).sum() == marked
        np.testing.assert_allclose(actual, B, atol=1e-6)

    jax.tree_util.tree_map_with_path(expected, given.last.updates, given.last.start, edit.variables)
    assert edit.mask is None
    assert edit.about == {"fraction": settings.fraction}


def test_equal_ranks_go_in_their_order():
    kept = without_top(jnp.arange(1.0, 7.0).reshape(2, 3), jnp.array([[0.0, 5.0, 5.0], [5.0, 0.0, 9.0]]), 3)
    assert kept.tolist() == [[1.0, 0.0, 0.0], [4.0, 5.0, 0.0]]


def test_random_ranks_differ_by_key_and_mark_as_many():
    given = situation()
    request = forget_clients(five_clients(), (0,))
    edits = [FedUp(rank="random").edit(given._replace(key=jax.random.key(k)), request).variables for k in (0, 0, 1)]
    kernels = [np.asarray(variables["params"]["conv"]["kernel"]) for variables in edits]
    assert_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()
    assert {(kernel == 0).sum() for kernel in kernels} == {int(np.ceil(0.1 * kernels[0].size))}


@pytest.mark.parametrize(("similarity", "fraction"), [(0.99, 0.1366), (0.89, 0.0504), (1.0, 0.15), (0.3, 0.01)])
def test_the_rule_for_the_fraction_has_the_paper_s_values(similarity, fraction):
    """Its text has about 10% for the first, which its formula does not give, and about 5% for the second."""
    assert fraction_of(similarity, FedUp()) == pytest.approx(fraction, abs=1e-3)


def test_the_similarity_is_the_mean_cosine_of_pairs_of_other_clients():
    start = {"head": jnp.array([1.0, 0.0]), "bias": jnp.array([0.0])}
    updates = {"head": jnp.array([[1.0, 0.0], [9.0, 9.0], [0.0, 2.0], [3.0, 3.0]]), "bias": jnp.zeros((4, 1))}
    last, head = Exchange(start, (0, 1, 2, 3), updates, np.ones(4, np.float32), {}), Head("head", 0, 1, "bias")
    half = np.sqrt(0.5)
    assert mean_similarity(last, (1,), head, FedUp()) == pytest.approx((0 + half + half) / 3)
    changes = np.array([[0.0, 0.0], [-1.0, 2.0], [2.0, 3.0]])
    units = changes / np.maximum(np.linalg.norm(changes, axis=1), 1e-12)[:, None]
    expected = (units[0] @ units[1] + units[0] @ units[2] + units[1] @ units[2]) / 3
    assert mean_similarity(last, (1,), head, FedUp(similarity="updates")) == pytest.approx(expected)


def test_the_rule_is_used_where_it_is_asked_for():
    given = situation()
    edit = FedUp(rule="auto").edit(given, forget_clients(five_clients(), (0,)))
    assert edit.about["fraction"] == fraction_of(edit.about["similarity"], FedUp())
    kernel = np.asarray(edit.variables["params"]["conv"]["kernel"])
    assert (kernel == 0).sum() == np.ceil(edit.about["fraction"] * kernel.size)


@pytest.mark.parametrize(
    ("flagged", "ids", "words"),
    [
        ((0, 1, 2), (0, 1, 2, 3, 4), "3 of the 5 clients of the last round are flagged.* 2 at most"),
        ((0, 1), (0, 1, 2, 4), "2 of the 4 clients of the last round are flagged.* 1 at most"),
        ((3,), (0, 1, 2, 4), r"none of the flagged clients \[3\] answered in the last round"),
    ],
)
def test_a_flagged_majority_and_clients_that_did_not_answer_are_refused(flagged, ids, words):
    given = situation()
    last = given.last._replace(
        ids=ids, updates=jax.tree.map(lambda leaf: leaf[: len(ids)], given.last.updates), counts=given.last.counts[:4]
    )
    with pytest.raises(InputError, match=words):
        FedUp().edit(given._replace(last=last), forget_clients(five_clients(), flagged))


def test_the_rule_needs_two_others():
    given = situation(3)
    last = given.last._replace(ids=(0, 1, 2))
    with pytest.raises(InputError, match="at most"):
        FedUp(rule="auto").edit(given._replace(last=last), forget_clients(five_clients(), (0, 1)))


def test_the_last_round_s_models_make_the_global_model_bit_for_bit():
    small = small_federation()
    done = run_round(small.model, small.clients, jax.random.key(1), 0, Schedule(LocalTraining(batch_size=8)))
    assert_equal(mean_of(done.last.updates, done.last.counts), done.variables)
    again = run_round(
        small.model.replace(variables=done.last.start), small.clients, jax.random.key(1), 0,
        Schedule(LocalTraining(batch_size=8)),
    )  # fmt: skip
    assert_equal(again.variables, done.variables)


def test_the_first_kernel_is_negated_and_nothing_else():
    given = situation()
    request = forget_clients(five_clients(), (0,))
    before, after = given.model.variables, Negation().edit(given, request).variables
    assert_close(after["params"]["conv"]["kernel"], -before["params"]["conv"]["kernel"])
    after = jax.tree.map(lambda leaf: leaf, after)
    after["params"]["conv"]["kernel"] = before["params"]["conv"]["kernel"]
    assert_equal(after, before)
    assert_equal(NaturalForgetting().edit(given, request).variables, before)
