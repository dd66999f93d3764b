r"""Four methods without gradients beside retraining, on two classes of CIFAR-100: CifarNet, one seed.

    B=runs/benchmark/cifar100_cifarnet
    mkdir -p $B/seed0/retrained
    ln -s PATH/seed0/original $B/seed0/original
    ln -s PATH/seed0/without_apple $B/seed0/retrained/0
    ln -s PATH/seed0/without_maple_tree $B/seed0/retrained/47
    python -m experiments.benchmark --config=configs/benchmark/cifar100_cifarnet.py --workdir=$B \
        --config.original.data.dir=TFDS_DIR

PATH is the absolute path of networks that `experiments.train` trained with configs/cifar100_cifarnet.py. The links are
optional: missing networks are trained first. Few classes resemble an apple; four other trees resemble a maple.

The budget is that of configs/benchmark/cifar10_resnet20.py, 50 training images of each class, as is the number of
settings. They are scored on all held-out images, 20 of each class.
"""

from ml_collections import ConfigDict

from configs import cifar100_cifarnet
from configs.benchmark import cifar10_resnet20


def get_config() -> ConfigDict:
    config = cifar10_resnet20.get_config()
    config.original = cifar100_cifarnet.get_config()
    config.methods = ("retrain", "concept-erasure", "osp-fit", "logit-mask", "esc")
    config.options = ()
    config.seeds = (0,)
    config.forget = ("apple", "maple_tree")
    config.tuning.images = 0
    config.audit.test_images = 0
    return config
