"""A small vision transformer (2.7 million parameters, patches of 4x4 pixels) on CIFAR-10, for one accelerator.

    python -m experiments.train --config=configs/cifar10_vit.py --workdir=runs/cifar10_vit

Two hundred epochs of AdamW with a cosine schedule. Not run yet: its accuracy and training time are unknown.
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
    config.model.name = "vit"
    config.model.dtype = "bfloat16"
    config.training.epochs = 200
    config.training.batch_size = 512
    config.training.optimiser = "adamw"
    config.training.learning_rate = 1e-3
    config.training.schedule = "cosine"
    config.training.warmup = 0.05
    config.training.weight_decay = 0.05
    config.training.label_smoothing = 0.1
    config.orthogonality.penalty = "none"  # the patch embedding is the only convolution
    return config
