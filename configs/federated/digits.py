"""Federated training and unlearning on scikit-learn's digits: ten clients, a ResNet-8 of width 8, all methods.

python -m experiments.federated --config=configs/federated/digits.py --workdir=runs/federated/digits
"""

from ml_collections import ConfigDict

from configs.federated import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.width = 8
    config.model.convolution = "cpu"
    return config
