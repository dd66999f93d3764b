"""VGG-16 with batch norm (14.7 million parameters) on CIFAR-10, for one accelerator.

    python -m experiments.train --config=configs/cifar10_vgg16.py --workdir=runs/cifar10_vgg16

The recipe of configs/cifar10_resnet18.py. Not run yet: its accuracy is unknown.
"""

from ml_collections import ConfigDict

from configs import cifar10_resnet18


def get_config() -> ConfigDict:
    config = cifar10_resnet18.get_config()
    config.model.name = "vgg16"
    config.training.learning_rate = 0.1
    return config
