r"""CifarNet with 32-128-128 channels (0.5 million parameters) on CIFAR-10: the best that a CPU trains in about an hour.

    python -m experiments.train --config=configs/cifar10_cifarnet.py --workdir=runs/cifarnet/original \
        --config.data.dir=TFDS_DIR

Fourteen epochs, 80 minutes on one core. No penalty: what penalties buy is in docs/findings.md. The figures that came
of it are in results/paper/.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "cifar10"
    config.data.validation = 0.04
    config.data.pad = 2
    config.data.flip = True
    config.model.name = "cifarnet"
    config.model.width = 32
    config.training.epochs = 14
    config.training.batch_size = 128
    config.training.learning_rate = 0.12
    config.training.weight_decay = 1e-3
    config.training.label_smoothing = 0.1
    config.orthogonality.penalty = "none"
    return config
