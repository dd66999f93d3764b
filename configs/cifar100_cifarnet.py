r"""CifarNet (2 million parameters) on CIFAR-100, by the recipe of CIFAR-10.

    python -m experiments.train --config=configs/cifar100_cifarnet.py --workdir=runs/figures/cifar100/seed0/original \
        --config.data.dir=TFDS_DIR

12 epochs, 0.8 hours on one CPU core with PyTorch's gradient, 1.6 with JAX's (`--config.training.gradient=jax`).
Expected test accuracy: 70.8%.
"""

from ml_collections import ConfigDict

from configs import cifar10_cifarnet


def get_config() -> ConfigDict:
    config = cifar10_cifarnet.get_config()
    config.data.name = "cifar100"
    config.training.epochs = 12
    return config
