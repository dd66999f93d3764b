"""Aggregation and rounds: small cases by hand, both engines, FedProx as a case of FCOT, silent clients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.federated import (
    LocalTraining,
    Schedule,
    Sums,
    aggregate,
    client_key,
    client_of,
    client_update,
    run_round,
    total,
    train,
)
from osp_jax.federated.rounds import participants
from osp_jax.federated.server import size_of
from osp_jax.runtime.errors import InputError
from tests.federated.small import SIZES, assert_close, assert_equal, small_federation

LOCAL = LocalTraining(batch_size=8, learning_rate=0.05)
FUSION = dataclasses.replace(LOCAL, align=0.5)


def by_hand(small, key, number, exchange, settings, start, *, clients=(0, 1, 2)):
    """The sample-weighted mean of the clients' updates from `start`, one call a client."""
    model = small.model.replace(variables=start)
    updates = [
        client_update(model, client_of(small.clients, c), client_key(key, number, exchange, c), settings)
        for c in clients
    ]
    weights = np.array([update.num_examples for update in updates], np.float64)

    def mean(*leaves):
        return sum(w * np.asarray(leaf, np.float64) for w, leaf in zip(weights, leaves, strict=True)) / weights.sum()

    return jax.tree.map(mean, *[update.variables for update in updates])


def test_the_mean_is_weighted_by_images():
    trees = [{"a": jnp.array([1.0, 3.0])}, {"a": jnp.array([4.0, 0.0])}]
    assert_close(aggregate(trees, [1, 2]), {"a": np.array([3.0, 1.0])})


@pytest.mark.parametrize(
    ("updates", "weights", "words"),
    [
        ([], [], "no client answered"),
        ([{"a": jnp.ones(2)}, {"a": jnp.ones(3)}], [1, 1], "client 7 has another network than client 4"),
        ([{"a": jnp.ones(2)}, {"b": jnp.ones(2)}], [1, 1], "another network"),
        ([{"a": jnp.ones(2)}, {"a": jnp.array([1.0, jnp.nan])}], [1, 1], "client 7 sent values that are not finite"),
        ([{"a": jnp.ones(2)}, {"a": jnp.ones(2)}], [0, 0], "give numbers of images"),
    ],
)
def test_answers_that_cannot_be_aggregated_are_refused(updates, weights, words):
    with pytest.raises(InputError, match=words):
        aggregate(updates, weights, [4, 7][: len(updates)])


def test_sums_about_other_layers_are_refused():
    one, other = (Sums(np.ones(2, np.float32), {name: np.ones((2, 3), np.float32)}) for name in "ab")
    with pytest.raises(InputError, match="client 1 answered about other layers"):
        total([one, other])
    with pytest.raises(InputError, match="no client answered"):
        total([])


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_round_is_the_mean_of_the_clients_updates(engine):
    small, key = small_federation(), jax.random.key(5)
    done = run_round(small.model, small.clients, key, 3, Schedule(local=LOCAL), engine=engine)
    assert_close(done.variables, by_hand(small, key, 3, 0, LOCAL, small.model.variables), atol=1e-5)
    assert done.last.ids == (0, 1, 2)
    assert done.last.counts.tolist() == list(SIZES)
    assert done.traffic == (3 * size_of(small.model.variables),) * 2


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_run_gives_the_same_bits_again_and_goes_on_anywhere(engine):
    small, key = small_federation(), jax.random.key(5)
    schedule = Schedule(rounds=3, local=LOCAL, fusion=FUSION, rate="cosine", dropout=0.2)
    whole = train(small.model, small.clients, key, schedule, engine=engine)
    assert_equal(train(small.model, small.clients, key, schedule, engine=engine).variables, whole.variables)
    part = train(small.model, small.clients, key, dataclasses.replace(schedule, rounds=2, rate="constant"))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, part.variables, whole.variables)))
    seen = []
    first = run_round(small.model, small.clients, key, 0, schedule, engine=engine)
    rest = train(
        small.model.replace(variables=first.variables),
        small.clients,
        key,
        schedule,
        first=1,
        on_round=lambda number, done: seen.append(number),
        engine=engine,
    )
    assert seen == [1, 2]
    assert_equal(rest.variables, whole.variables)


@pytest.mark.parametrize("start", ["reference", "local"])
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_fcot_trains_aggregates_and_trains_towards_the_reference(engine, start):
    small, key = small_federation(), jax.random.key(2)
    schedule = Schedule(local=LOCAL, fusion=FUSION, fusion_start=start)
    done = run_round(small.model, small.clients, key, 0, schedule, engine=engine)
    reference = by_hand(small, key, 0, 0, LOCAL, small.model.variables)
    reference = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), reference)
    updates = []
    for client in range(3):
        data = client_of(small.clients, client)
        first = client_update(small.model, data, client_key(key, 0, 0, client), LOCAL).variables
        model = small.model.replace(variables=first if start == "local" else reference)
        given = client_key(key, 0, 1, client), FUSION
        updates.append(client_update(model, data, *given, reference=reference).variables)
    assert_close(done.variables, aggregate(updates, SIZES), atol=2e-5)
    assert_close(done.last.start, reference, atol=1e-5)
    assert done.traffic.up == 6 * size_of(small.model.variables)


@pytest.mark.parametrize("start", ["reference", "local"])
def test_without_the_first_exchange_fcot_is_fedprox(start):
    """`tests/federated/test_client.py` has FedProx's step written out; here it is the whole of a round."""
    small, key = small_federation(), jax.random.key(4)
    nothing = dataclasses.replace(LOCAL, epochs=0)
    fcot = Schedule(rounds=2, local=nothing, fusion=FUSION, fusion_start=start)
    after = small.model.variables
    for number in range(2):
        after = by_hand(small, key, number, 1, FUSION, after)
        after = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), after)
    done = train(small.model, small.clients, key, fcot)
    assert_close(done.variables, after, atol=1e-5)
    assert done.traffic.up == 6 * size_of(small.model.variables)


def test_a_client_that_drops_out_is_left_out_of_the_mean():
    small, key = small_federation(), jax.random.key(0)
    schedule = Schedule(local=LOCAL, dropout=0.5)
    number = next(n for n in range(20) if len(participants(key, n, (0, 1, 2), 0, 0.5)) == 2)
    ids = participants(key, number, (0, 1, 2), 0, 0.5)
    done = run_round(small.model, small.clients, key, number, schedule)
    assert done.last.ids == ids
    assert_close(done.variables, by_hand(small, key, number, 0, LOCAL, small.model.variables, clients=ids), atol=1e-5)
    silent = next(n for n in range(50) if not participants(key, n, (0, 1, 2), 0, 0.5))
    with pytest.raises(InputError, match="no client answered in round"):
        run_round(small.model, small.clients, key, silent, schedule)


def test_clients_without_images_are_never_asked_and_some_are_drawn():
    small, key = small_federation(), jax.random.key(0)
    present = small.clients.present.copy()
    present[1] = False
    left = small.clients._replace(present=present)
    assert run_round(small.model, left, key, 0, Schedule(local=LOCAL)).last.ids == (0, 2)
    drawn = {run_round(small.model, small.clients, key, n, Schedule(local=LOCAL, clients=1)).last.ids for n in range(6)}
    assert len(drawn) > 1
    assert all(len(ids) == 1 for ids in drawn)
    with pytest.raises(InputError, match="no client has an image"):
        run_round(small.model, left._replace(present=np.zeros_like(present)), key, 0, Schedule(local=LOCAL))


def test_both_engines_change_what_a_mask_leaves_free_alike():
    small, key = small_federation(), jax.random.key(6)
    model = small.model
    ones = jax.tree.map(jnp.ones_like, model.variables["params"])
    mask = {
        "params": ones | {"conv": jax.tree.map(jnp.zeros_like, ones["conv"])},
        "batch_stats": jax.tree.map(lambda _: None, model.variables["batch_stats"]),
    }
    given = model, small.clients, key, 0, Schedule(LOCAL)
    loop, together = (run_round(*given, mask=mask, engine=engine).variables for engine in ("loop", "vmap"))
    assert_close(loop, together, atol=1e-5)
    assert_close(loop["params"]["conv"], model.variables["params"]["conv"])
    assert (np.asarray(loop["params"]["head"]["kernel"]) != model.variables["params"]["head"]["kernel"]).any()
