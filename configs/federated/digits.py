"""Federated training and unlearning on scikit-learn's digits: ten clients, a ResNet-8 of width 8, all methods.

    python -m experiments.federated --config=configs/federated/digits.py --workdir=runs/federated/digits

Three minutes on one CPU core. Three local epochs without augmentation, and 20% of the attackers' labels, all of the two
classes, are swapped: with the paper's 10% and one epoch, a network of 20 thousand parameters learns few of them.
"""

from ml_collections import ConfigDict

from configs.federated import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.pad = 0
    config.model.width = 8
    config.training.rounds = 15
    config.training.rate = "cosine"
    config.training.epochs = 3
    config.attack.flip_share = 0.2
    return config
