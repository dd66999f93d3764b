"""Flower compared with the simulator: the same arrays in any order of answers, and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ConfigRecord, Context, RecordDict
from flwr.serverapp.strategy import FedAvg

from osp_jax.data.augment import normalise
from osp_jax.federated import LocalTraining, Schedule, client_of
from osp_jax.federated.editing import Situation
from osp_jax.federated.fedortho import FedOrtho
from osp_jax.federated.fedup import FedUp
from osp_jax.federated.flower import Federation, ScheduledRounds, client_app, record_of, train, tree_of
from osp_jax.federated.flower.messages import training_config
from osp_jax.federated.fucdp import FuCdp
from osp_jax.federated.requests import Request, forget_class, forget_clients, forget_samples
from osp_jax.federated.rounds import train as simulate
from osp_jax.federated.simulator import asking
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import split_variables
from tests.federated.in_process import KNOWN, InProcessGrid
from tests.federated.small import Small, assert_close, assert_equal, small_federation

pytestmark = [
    pytest.mark.flower,
    pytest.mark.skipif(not KNOWN, reason="the grid in this process is written for other versions of Flower"),
]

LOCAL = LocalTraining(batch_size=8, learning_rate=0.05)
FUSION = dataclasses.replace(LOCAL, align=0.5)
FEDAVG = Schedule(LOCAL, rounds=2)
KEY = jax.random.key(5)


def grid_of(small: Small, seed: int = 0, **given) -> InProcessGrid:
    def setup(context: Context):
        return small.model, client_of(small.clients, context.node_config["partition-id"])

    return InProcessGrid(client_app(given.get("setup", setup)), given.get("numbers", (0, 1, 2)), seed)


def federation_of(small: Small, seed: int = 0, **given) -> Federation:
    return Federation(grid_of(small, seed, **given), 3, patience=0)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(LOCAL, rounds=3, rate="cosine", clients=2, dropout=0.2),
        Schedule(LOCAL, rounds=2, fusion=FUSION),
        Schedule(LOCAL, rounds=2, fusion=FUSION, fusion_start="local"),
        Schedule(dataclasses.replace(LOCAL, epochs=0), rounds=2, fusion=FUSION, fusion_start="local"),
    ],
    ids=["fedavg", "fcot", "fcot-local", "fedprox"],
)
def test_training_gives_the_arrays_of_the_simulator_in_any_order(schedule):
    small = small_federation()
    expected = simulate(small.model, small.clients, KEY, schedule)
    first, second = (train(federation_of(small, seed), small.model, KEY, schedule) for seed in (0, 1))
    assert_close(first.variables, expected.variables)
    assert_close(first.last.updates, expected.last.updates)
    assert_close(first.last.start, expected.last.start)
    assert first.last.ids == expected.last.ids
    assert first.last.counts.tolist() == expected.last.counts.tolist()
    assert first.last.metrics == pytest.approx(expected.last.metrics)
    assert first.traffic == expected.traffic
    assert_equal(first.variables, second.variables)


@pytest.mark.parametrize(
    ("method", "level"),
    [
        (FedOrtho(), "class"),
        (FedOrtho(), "client"),
        (FedOrtho(score="matched"), "sample"),
        (FuCdp(sparsity=0.2), "class"),
        (FuCdp(sparsity=0.2, average="plain", source="gate"), "class"),
        (FedUp(), "client"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_methods_and_the_rounds_after_them_give_the_arrays_of_the_simulator(method, level):
    small = small_federation()
    local = {
        "class": lambda: forget_class(small.clients, [1]),
        "client": lambda: forget_clients(small.clients, [2]),
        "sample": lambda: forget_samples(small.clients, [0, 1], 0.3, seed=0),
    }[level]()
    # A server without any images knows the names of classes and clients, and which samples their owners named.
    sent = local if level == "sample" else Request(level, np.zeros((0, 0), bool), local.classes, local.clients)
    before = simulate(small.model, small.clients, KEY, FEDAVG)
    model, federation = small.model.replace(variables=before.variables), federation_of(small)
    shape, key = small.images.shape[1:], jax.random.key(9)
    expected = method.edit(Situation(model, shape, asking(small.clients), before.last, key), local)
    edit = method.edit(Situation(model, shape, federation.ask, before.last, key), sent)
    assert_close(edit.variables, expected.variables)
    assert edit.traffic == expected.traffic
    assert (edit.mask is None) == (expected.mask is None)

    start = model.replace(variables=edit.variables)
    expected = simulate(start, local.retained(small.clients), KEY, FEDAVG, mask=edit.mask)
    after = train(federation, start, KEY, FEDAVG, request=sent, mask=edit.mask)
    assert_close(after.variables, expected.variables)
    assert after.last.ids == expected.last.ids
    assert after.last.counts.tolist() == expected.last.counts.tolist()
    if edit.mask is not None:
        params = split_variables(model.replace(variables=after.variables))[0]
        removed = jax.tree.map(lambda leaf, factor: np.asarray(leaf)[np.asarray(factor) == 0], params, edit.mask)
        assert sum(map(np.size, jax.tree.leaves(removed)))
        assert not any(map(np.any, jax.tree.leaves(removed)))


def test_flowers_own_fedavg_trains_our_clients():
    small, schedule = small_federation(), FEDAVG
    expected = simulate(small.model, small.clients, KEY, schedule)
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    config = ConfigRecord(training_config(LOCAL, KEY))
    result = strategy.start(grid_of(small), record_of(small.model.variables), num_rounds=2, train_config=config)
    assert_close(tree_of(result.arrays, small.model.variables, "the server"), expected.variables, atol=1e-5)


def test_clients_evaluate_the_new_model_on_their_images():
    small = small_federation()
    request = forget_class(small.clients, [1])
    strategy = ScheduledRounds(federation_of(small), small.model, KEY, FEDAVG, request=request, evaluate=True)
    result = strategy.start(strategy.federation.grid, record_of(small.model.variables), num_rounds=2)
    retained = small.labels != 1
    inputs = normalise(jnp.asarray(small.images[retained]), jnp.array(small.model.mean), jnp.array(small.model.std))
    logits = small.model.apply(strategy.trained.variables, inputs)
    right = np.argmax(logits, 1) == small.labels[retained]
    assert result.evaluate_metrics_clientapp[2]["accuracy"] == pytest.approx(right.mean())


def test_a_client_that_does_not_answer_is_left_out_of_the_mean():
    small, federation = small_federation(), federation_of(small_federation())
    federation.images()
    federation.grid.lost = {1}
    present = small.clients.present.copy()
    present[1] = False
    expected = simulate(small.model, small.clients._replace(present=present), KEY, FEDAVG)
    after = train(federation, small.model, KEY, FEDAVG)
    assert after.last.ids == (0, 2)
    assert_close(after.variables, expected.variables)
    federation.grid.lost = {0, 1, 2}
    with pytest.raises(InputError, match="no client answered"):
        train(federation, small.model, KEY, FEDAVG)


def test_a_client_that_fails_is_left_out_of_the_mean():
    small = small_federation()

    def setup(context: Context):
        if context.node_config["partition-id"] == 1 and "asked" in context.state:
            raise MemoryError
        context.state["asked"] = ConfigRecord()
        return small.model, client_of(small.clients, context.node_config["partition-id"])

    assert train(federation_of(small, setup=setup), small.model, KEY, FEDAVG).last.ids == (0, 2)


def test_a_client_that_comes_back_as_another_node_is_the_same_client():
    small, federation = small_federation(), federation_of(small_federation())
    first = train(federation, small.model, KEY, FEDAVG)
    grid = federation.grid
    del grid.contexts[federation.nodes()[1]]
    assert train(federation, small.model, KEY, FEDAVG).last.ids == (0, 2)
    grid.connect(1)
    assert_equal(train(federation, small.model, KEY, FEDAVG).variables, first.variables)


def test_a_client_without_images_is_not_asked_to_train():
    small = small_federation()
    present = small.clients.present.copy()
    present[1] = False
    federation = federation_of(small._replace(clients=small.clients._replace(present=present)))
    assert train(federation, small.model, KEY, FEDAVG).last.ids == (0, 2)
    assert ("train", 1) not in federation.grid.sent


def test_clients_with_other_networks_are_named():
    small = small_federation()
    variables = {**small.model.variables, "params": {**small.model.variables["params"]}}
    variables["params"]["conv"] = {"kernel": jnp.zeros((5, 5, 1, 2))}
    other = small.model.replace(variables=variables)

    def setup(context: Context):
        number = context.node_config["partition-id"]
        return (other if number == 2 else small.model), client_of(small.clients, number)

    with pytest.raises(InputError, match=r"^client 2: the server has another network \(params/conv/"):
        train(federation_of(small, setup=setup), small.model, KEY, FEDAVG)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0, 1), "2 of 3 clients answered within 0 s; start the others"),
        ((0, 1, 1), "two nodes have partition-id=1"),
        ((0, 1, "first"), "a node has no number; start its SuperNode with --node-config"),
    ],
)
def test_nodes_that_are_no_federation_are_refused(numbers, words):
    small = small_federation()
    with pytest.raises(InputError, match=words):
        train(federation_of(small, numbers=numbers), small.model, KEY, FEDAVG)


def test_a_server_that_sends_no_key_gets_a_line():
    small = small_federation()
    federation = federation_of(small)
    federation.images()
    content = RecordDict({"arrays": record_of(small.model.variables), "config": ConfigRecord({"server-round": 1})})
    replies = federation.grid.send_and_receive(federation.messages("train", {0: content}))
    with pytest.raises(InputError, match="client 0: the server sent no key"):
        federation.accepted(replies)


def test_a_request_for_an_image_that_is_not_there_is_refused():
    small = small_federation()
    forget = np.zeros((3, 100), bool)
    forget[1, 99] = True
    with pytest.raises(InputError, match="client 1: there is no image 99 to forget"):
        train(federation_of(small), small.model, KEY, FEDAVG, request=Request("sample", forget, clients=(1,)))


def test_arrays_come_back_in_their_order_with_their_bits():
    variables = small_federation().model.variables
    record = record_of(variables)
    assert list(record) == list(record_of(tree_of(record, variables, "client 1")))
    assert_equal(tree_of(record, variables, "client 1"), variables)


def test_arrays_of_another_network_are_refused():
    tree = {"a": jnp.ones((2, 3)), "b": jnp.zeros(2)}
    changes = {
        r"\(b is missing\)": {"a": tree["a"]},
        r"\(c is not expected\)": {**tree, "c": tree["b"]},
        r"a is float32 \(3, 2\), expected float32 \(2, 3\)": {**tree, "a": tree["a"].T},
        r"b is int32 \(2,\), expected float32": {**tree, "b": jnp.zeros(2, int)},
    }
    for words, other in changes.items():
        with pytest.raises(InputError, match=f"client 7 has another network.*{words}"):
            tree_of(record_of(other), tree, "client 7")
    broken = record_of(tree)
    broken["a"] = Array("float32", (2, 3), "numpy.ndarray", b"no array")
    with pytest.raises(InputError, match="a of client 7 is no array"):
        tree_of(broken, tree, "client 7")
