r"""Sets of classes and requests one after another, on CIFAR-10 with the small ResNet-8 of configs/cifar10_resnet8.py.

    python -m experiments.benchmark --config=configs/benchmark/cifar10_requests.py --workdir=runs/requests \
        --config.original.data.dir=TFDS_DIR

About 25 minutes on one CPU core. The figures that came of it are in results/requests/.
"""

from ml_collections import ConfigDict

from configs import cifar10_resnet8
from configs.benchmark import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.original = cifar10_resnet8.get_config()
    config.methods = ("retrain", "logit-mask", "osp", "osp-fit", "concept-erasure")
    config.forget = (
        "cat,dog",
        "cat then dog",
        "airplane,automobile,bird,ship,truck",
        "airplane then automobile then bird then ship then truck",
    )
    config.budget.retain = 1000
    config.budget.forget = 1000
    config.tuning.trials = 2
    config.audit.train_images = 2000
    return config
