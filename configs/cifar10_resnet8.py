r"""ResNet-8 with 16-32-64 channels and a strided stem (78 thousand parameters) on CIFAR-10: small enough to audit.

    python -m experiments.train --config=configs/cifar10_resnet8.py --workdir=runs/audit/seed0/original \
        --config.data.dir=TFDS_DIR

Five epochs, about three minutes on one CPU core. With `experiments.shadows` 64 shadow models of the same recipe take
about an hour on two.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "cifar10"
    config.data.validation = 0.04
    config.data.pad = 2
    config.data.flip = True
    config.model.stem = "strided"
    config.model.convolution = "cpu"
    config.training.epochs = 5
    config.training.batch_size = 64
    config.training.learning_rate = 0.1
    return config
