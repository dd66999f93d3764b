r"""Every method on three classes of CIFAR-10: ResNet-8 (78 thousand parameters), one seed; for two CPU cores.

    python -m experiments.benchmark --config=configs/benchmark/cifar10_resnet8.py \
        --workdir=runs/benchmark/cifar10_resnet8 --config.original.data.dir=TFDS_DIR

A request may see 100 training images of each class, so that most methods answer within half a minute; the retrained
networks see all of them. The figures that came of it are in results/benchmark/cifar10_resnet8/.
"""

from ml_collections import ConfigDict

from configs.benchmark import default


def get_config() -> ConfigDict:
    config = default.get_config()
    original = config.original
    original.data.name = "cifar10"
    original.data.validation = 0.04
    original.data.pad = 2
    original.data.flip = True
    original.training.epochs = 5
    original.training.learning_rate = 0.05
    config.forget = ("airplane", "cat", "truck")
    config.budget.retain = 100
    config.budget.forget = 100
    config.tuning.trials = 4
    config.audit.train_images = 5000
    return config
