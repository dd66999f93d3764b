"""Two clients with scikit-learn's digits, small enough for Flower's processes: minutes on a CPU, mostly for imports.

python -m experiments.flower --config=configs/federated/flower.py --workdir=runs/flower
"""

from ml_collections import ConfigDict

from configs.federated import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.width = 4
    config.division.clients = 2
    config.training.rounds = 1
    config.recovery.rounds = 1
    config.departures.sample_clients = (0,)
    config.attack.malicious = ()  # FedUP needs a strict majority of others, so three clients
    return config
