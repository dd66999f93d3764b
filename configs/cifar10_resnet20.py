r"""ResNet-20 (272 thousand parameters) on CIFAR-10, without a penalty: the network for comparing all methods.

    python -m experiments.train --config=configs/cifar10_resnet20.py --workdir=runs/figures/resnet20/seed0/original \
        --config.data.dir=TFDS_DIR

20 epochs, 0.6 hours on one CPU core with PyTorch's gradient, 1.7 with JAX's (`--config.training.gradient=jax`).
Expected test accuracy: 89.9%, the mean of two seeds.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "cifar10"
    config.data.validation = 0.04
    config.data.pad = 2
    config.data.flip = True
    config.model.name = "resnet20"
    config.model.convolution = "cpu"
    config.training.epochs = 20
    config.training.batch_size = 128
    config.training.learning_rate = 0.2
    config.training.gradient = "torch-bfloat16"
    config.orthogonality.penalty = "none"
    return config
