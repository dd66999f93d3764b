r"""CifarNet (2 million parameters) on CIFAR-10: for a patient CPU.

    python -m experiments.train --config=configs/cifar10_cifarnet.py --workdir=runs/cifarnet/original \
        --config.data.dir=TFDS_DIR

Seventeen epochs, two hours on one core. No penalty: what penalties buy is in docs/findings.md.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "cifar10"
    config.data.validation = 0.04
    config.data.pad = 3
    config.data.flip = True
    config.model.name = "cifarnet"
    config.model.convolution = "cpu"
    config.training.epochs = 17
    config.training.batch_size = 128
    config.training.learning_rate = 0.12
    config.training.weight_decay = 1e-3
    config.training.norm_bias_rate = 64.0
    config.training.label_smoothing = 0.1
    config.orthogonality.penalty = "none"
    return config
