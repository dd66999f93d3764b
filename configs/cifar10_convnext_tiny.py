"""ConvNeXt-Tiny (27.8 million parameters) on CIFAR-10, with a stem of 2x2 pixels, for one accelerator.

    python -m experiments.train --config=configs/cifar10_convnext_tiny.py --workdir=runs/cifar10_convnext_tiny

A hundred epochs of AdamW with a cosine schedule; the optimiser's settings are those of Liu et al., 2022, arXiv
2201.03545 (a rate of 4e-3 for batches of 4,096, scaled to this one). Not run yet: its accuracy and training time are
unknown.
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
    config.model.name = "convnext_tiny"
    config.model.stem = "strided"
    config.model.dtype = "bfloat16"
    config.training.epochs = 100
    config.training.batch_size = 512
    config.training.optimiser = "adamw"
    config.training.learning_rate = 5e-4
    config.training.schedule = "cosine"
    config.training.warmup = 20 / 300
    config.training.weight_decay = 0.05
    config.training.label_smoothing = 0.1
    config.orthogonality.penalty = "none"  # most convolutions are depthwise: their channels share no input
    return config
