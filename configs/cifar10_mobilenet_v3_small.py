"""MobileNetV3-small (1.5 million parameters) on CIFAR-10, with strides for small images, for one accelerator.

    python -m experiments.train --config=configs/cifar10_mobilenet_v3_small.py --workdir=runs/cifar10_mobilenet

A hundred epochs of SGD with a cosine schedule. Not run yet: its accuracy and training time are unknown.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "cifar10"
    config.data.validation = 0.04
    config.data.pad = 4
    config.data.flip = True
    config.data.cutout = 8
    config.model.name = "mobilenet_v3_small"
    config.model.dtype = "bfloat16"
    config.training.epochs = 100
    config.training.batch_size = 256
    config.training.learning_rate = 0.1
    config.training.schedule = "cosine"
    config.training.warmup = 0.05
    config.training.weight_decay = 1e-4
    config.orthogonality.penalty = "none"  # a third of the convolutions are depthwise: their channels share no input
    return config
