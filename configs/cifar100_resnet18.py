"""ResNet-18 on CIFAR-100, for one accelerator.

    python -m experiments.train --config=configs/cifar100_resnet18.py --workdir=runs/cifar100_resnet18

The recipe of configs/cifar10_resnet18.py, twice as long. Not run yet: its accuracy is unknown.
"""

from ml_collections import ConfigDict

from configs import cifar10_resnet18


def get_config() -> ConfigDict:
    config = cifar10_resnet18.get_config()
    config.data.name = "cifar100"
    config.training.epochs = 60
    config.training.label_smoothing = 0.1
    config.statistics.features = 10_000
    return config
