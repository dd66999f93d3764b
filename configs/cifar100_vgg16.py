"""VGG-16 with batch norm on CIFAR-100, for one accelerator.

    python -m experiments.train --config=configs/cifar100_vgg16.py --workdir=runs/cifar100_vgg16

The recipe of configs/cifar100_resnet18.py with VGG's rate. Not run yet: its accuracy is unknown.
"""

from ml_collections import ConfigDict

from configs import cifar100_resnet18


def get_config() -> ConfigDict:
    config = cifar100_resnet18.get_config()
    config.model.name = "vgg16"
    config.training.learning_rate = 0.1
    return config
