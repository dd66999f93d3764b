r"""Every method on one class of CIFAR-10: CifarNet of width 16, one seed, and up to eight settings per method.

    python -m experiments.benchmark --config=configs/benchmark/cifar10_cifarnet16.py \
        --workdir=runs/benchmark/cifar10_cifarnet16 --config.original.data.dir=TFDS_DIR

It selects the settings for the attacks with shadow models (docs/audit.md). Budgets and audit are those of
configs/benchmark/cifar10_resnet20.py.
"""

from ml_collections import ConfigDict

from configs import cifar10_cifarnet16
from configs.benchmark import cifar10_resnet20


def get_config() -> ConfigDict:
    config = cifar10_resnet20.get_config()
    config.original = cifar10_cifarnet16.get_config()
    config.seeds = (0,)
    config.forget = ("cat",)
    return config
