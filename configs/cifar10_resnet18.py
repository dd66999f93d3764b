"""ResNet-18 (11.2 million parameters) on CIFAR-10, for one accelerator.

    python -m experiments.train --config=configs/cifar10_resnet18.py --workdir=runs/cifar10_resnet18

Thirty epochs of a one-cycle schedule. Not run yet: its accuracy is unknown. On two CPU cores an epoch takes about
half an hour; configs/cifar10_resnet8.py is for CPUs.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "cifar10"
    config.data.validation = 0.04
    config.data.pad = 4
    config.data.flip = True
    config.data.cutout = 8
    config.model.name = "resnet18"
    config.model.dtype = "bfloat16"
    config.training.epochs = 30
    config.training.batch_size = 512
    config.training.learning_rate = 0.4
    return config
