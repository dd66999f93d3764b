r"""CifarNet of width 16 (130 thousand parameters) on CIFAR-10: small enough for shadow models.

    python -m experiments.train --config=configs/cifar10_cifarnet16.py \
        --workdir=runs/figures/cifarnet16/seed0/original --config.data.dir=TFDS_DIR

10 epochs, 0.1 hours on one CPU core with PyTorch's gradient, 0.2 with JAX's (`--config.training.gradient=jax`).
Expected test accuracy: 86.0%.
"""

from ml_collections import ConfigDict

from configs import cifar10_cifarnet


def get_config() -> ConfigDict:
    config = cifar10_cifarnet.get_config()
    config.model.width = 16
    return config
