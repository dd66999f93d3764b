r"""Every method on all classes of CIFAR-10, and on sets and sequences: ResNet-18, three seeds; for a GPU. Not run yet.

    python -m experiments.benchmark --config=configs/benchmark/cifar10_resnet18.py \
        --workdir=runs/benchmark/cifar10_resnet18 --config.original.data.dir=TFDS_DIR
"""

from ml_collections import ConfigDict

from configs import cifar10_resnet18
from configs.benchmark import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.original = cifar10_resnet18.get_config()
    config.original.data.validation = 0.04
    config.seeds = (0, 1, 2)
    config.forget = ("each", "0,1", "3,5", "0,1,2,3,4", "3 then 5", "0 then 1 then 2")
    config.tuning.trials = 6
    config.tuning.requests = 2
    return config
