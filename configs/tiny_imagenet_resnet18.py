"""ResNet-18 on Tiny ImageNet (200 classes), for one accelerator; images keep the size in the prepared folder.

    python -m experiments.train --config=configs/tiny_imagenet_resnet18.py --workdir=runs/tiny_imagenet_resnet18

The recipe of configs/cifar100_resnet18.py. Not run yet: its accuracy is unknown.
"""

from ml_collections import ConfigDict

from configs import cifar100_resnet18


def get_config() -> ConfigDict:
    config = cifar100_resnet18.get_config()
    config.data.name = "tiny_imagenet"
    config.statistics.features = 20_000
    return config
