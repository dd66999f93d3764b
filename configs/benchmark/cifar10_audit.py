r"""The settings of the methods that results/audit/ audits, chosen on held-out images of one class of CIFAR-10.

    python -m experiments.benchmark --config=configs/benchmark/cifar10_audit.py --workdir=runs/audit \
        --config.original.data.dir=TFDS_DIR

The small ResNet-8 of configs/cifar10_resnet8.py; a request may see 1,000 training images of each class, as in the paper
of UNSIR. docs/audit.md has the commands of the audits that follow.
"""

from ml_collections import ConfigDict

from configs import cifar10_resnet8
from configs.benchmark import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.original = cifar10_resnet8.get_config()
    config.methods = ("osp", "osp-fit", "subspace", "unsir", "ssd", "logit-mask")
    config.forget = ("airplane",)
    config.budget.retain = 1000
    config.budget.forget = 1000
    config.tuning.trials = 4
    config.audit.train_images = 5000
    return config
