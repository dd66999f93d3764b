"""Flower (flwr) as the engine that transports the messages of a federation between processes.

Both sides call the functions of `osp_jax.federated`, so the arrays are those of the simulator:

    app = client_app(setup)                                  # of a node: its ClientApp
    federation = Federation(grid, clients=3)                 # in the ServerApp: who is connected
    trained = train(federation, model, key, schedule)        # `rounds.train`, over Flower
    situation = Situation(model, shape, federation.ask, trained.last, key)  # for `FederatedMethod.edit`

`ScheduledRounds` is the strategy behind `train`, a FedAvg.

Flower and Ray send usage reports to their makers unless FLWR_TELEMETRY_ENABLED=0 and RAY_USAGE_STATS_ENABLED=0 are set
before they are imported. This module sets both if they are unset, which is too late in processes that Flower starts
itself: set them in their environment too.
"""

import os

from osp_jax.runtime.errors import InputError

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import flwr  # noqa: F401
except ImportError as error:
    raise InputError('Flower is not installed; run: pip install "osp_jax[flower]"') from error

from osp_jax.federated.flower.arrays import record_of, tree_of
from osp_jax.federated.flower.client_app import Setup, client_app
from osp_jax.federated.flower.federation import Federation
from osp_jax.federated.flower.strategies import ScheduledRounds, train

__all__ = ["Federation", "ScheduledRounds", "Setup", "client_app", "record_of", "train", "tree_of"]
