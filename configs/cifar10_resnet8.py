r"""ResNet-8 (78 thousand parameters) on CIFAR-10, without a penalty: small enough for shadow models.

    python -m experiments.train --config=configs/cifar10_resnet8.py --workdir=runs/figures/resnet8/seed0/original \
        --config.data.dir=TFDS_DIR

12 epochs, 0.15 hours on one CPU core with PyTorch's gradient, 0.4 with JAX's (`--config.training.gradient=jax`).
Expected test accuracy: 84.0%.
"""

from ml_collections import ConfigDict

from configs import cifar10_resnet20


def get_config() -> ConfigDict:
    config = cifar10_resnet20.get_config()
    config.model.name = "resnet8"
    config.training.epochs = 12
    return config
