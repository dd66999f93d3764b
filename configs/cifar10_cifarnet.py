r"""CifarNet (2 million parameters) on CIFAR-10: the most accurate network here that trains within an hour on a CPU.

    python -m experiments.train --config=configs/cifar10_cifarnet.py --workdir=runs/figures/cifarnet/seed0/original \
        --config.data.dir=TFDS_DIR

10 epochs, 0.7 hours on one CPU core with PyTorch's gradient, 1.3 with JAX's (`--config.training.gradient=jax`).
Expected test accuracy: 91.8%.
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
    config.training.epochs = 10
    config.training.batch_size = 128
    config.training.learning_rate = 0.12
    config.training.weight_decay = 1e-3
    config.training.norm_bias_rate = 64.0
    config.training.label_smoothing = 0.1
    config.training.gradient = "torch-bfloat16"
    config.orthogonality.penalty = "none"
    return config
