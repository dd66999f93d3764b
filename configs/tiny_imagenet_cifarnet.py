r"""CifarNet with 24-96-96 channels (0.3 million parameters) on Tiny ImageNet at 32 pixels, for a CPU.

    python -m experiments.train --config=configs/tiny_imagenet_cifarnet.py --workdir=runs/tiny/original \
        --config.data.dir=TFDS_DIR

Seven epochs, half an hour on one core.
"""

from ml_collections import ConfigDict

from configs import cifar10_cifarnet


def get_config() -> ConfigDict:
    config = cifar10_cifarnet.get_config()
    config.data.name = "tiny_imagenet"
    config.data.image_size = 32
    config.data.pad = 2
    config.model.width = 24
    config.training.epochs = 7
    config.statistics.features = 10_000
    config.statistics.cached_inputs = 10_000
    return config
