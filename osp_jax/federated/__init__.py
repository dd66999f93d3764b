"""Federated training and unlearning: pure functions for clients and servers, and a simulator that calls them.

The contract, for any engine that transports the messages (the simulator here, Flower, or your own):

    update = client_update(model, data, key, settings, reference=..., mask=...)   # on a client: train
    sums = client_query(model, data, groups, query)                               # on a client: sums of activations
    variables = aggregate([update.variables, ...], [update.num_examples, ...])    # on the server
    sums = total([sums, ...])                                                     # on the server

- `model` is a `Model` that both sides create in the same way; received variables are inserted by
  `model.replace(variables=...)`. Variables are pytrees of float32 arrays, including running statistics.
- `data` is a `ClientData`: uint8 images, int32 labels, and `present`, which is False for padding. Clients whose
  arrays are padded to one size share compiled programs; padding does not change the results.
- `key` is `client_key(key, round, exchange, client)` with the key of a run: the results do not depend on the engine,
  the order of the calls, or the other clients. Aggregate in ascending order of the clients for bit-identical sums.
- `settings` (`LocalTraining`) are those of one exchange. FedAvg has one exchange per round; FedProx sets `align`; FCOT,
  the training of FedOrtho, has two (`rounds.Schedule`).
- `client_query` groups the client's images by the server's rule and returns only counts and sums by layer; `total` of
  all clients' sums is exact for any division of the images.

Errors are raised at their origin as one `InputError`: a client without images that should train, clients with different
networks, values that are not finite, a round without answers. A client that drops out of a round is left out of its
mean. A client without a class counts 0 images of it.
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
