"""Federated training and unlearning: pure functions for clients and servers, and a simulator that calls them.

The contract, for any engine that carries the messages (the simulator here, Flower, or your own):

    update = client_update(model, data, key, settings, reference=..., mask=...)   # on a client: train
    sums = client_query(model, data, groups, query)                               # on a client: sums of activations
    variables = aggregate([update.variables, ...], [update.num_examples, ...])    # on the server
    sums = total([sums, ...])                                                     # on the server

- `model` is a `Model` that both sides build alike; the variables that came in are put in by
  `model.replace(variables=...)`. Variables are pytrees of float32 arrays, running statistics included.
- `data` is a `ClientData`: uint8 images, int32 labels, and `present`, which of them count. A client that fills its
  arrays up to the size of the others' shares their compiled programs; the results are the same.
- `key` is `client_key(key, round, exchange, client)` of the one key of a run: the same arrays whatever engine calls, in
  whatever order, with whichever clients. Aggregate in ascending order of the clients for equality bit by bit.
- `settings` (`LocalTraining`) are those of one exchange. FedAvg has one exchange a round; FedProx sets `align`; FCOT,
  the training of FedOrtho, has two (`rounds.Schedule`).
- `client_query` divides the client's images into groups by the server's rule and answers counts and sums by layer, and
  nothing else; `total` of all clients' answers is exact, however the images are divided among them.

Raised where the fault is found, as one `InputError`: a client without images that is asked to train, clients with other
networks, values that are not finite, a round in which no client answers. A client that drops out of a round is left out
of its mean. A client without a class counts 0 images of it.
"""

from osp_jax.federated.client import (
    ClientData,
    LocalTraining,
    Query,
    Sums,
    Update,
    client_query,
    client_update,
)
from osp_jax.federated.rounds import Exchange, Schedule, Traffic, Trained, client_key, run_round, train
from osp_jax.federated.server import aggregate, total
from osp_jax.federated.simulator import client_of, stacked_clients

__all__ = [
    "ClientData",
    "Exchange",
    "LocalTraining",
    "Query",
    "Schedule",
    "Sums",
    "Traffic",
    "Trained",
    "Update",
    "aggregate",
    "client_key",
    "client_of",
    "client_query",
    "client_update",
    "run_round",
    "stacked_clients",
    "total",
    "train",
]
