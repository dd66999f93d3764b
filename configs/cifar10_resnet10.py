"""ResNet-10 with 32-64-128-256 channels (1.2 million parameters) on CIFAR-10: for two CPU cores.

    python -m experiments.train --config=configs/cifar10_resnet10.py --workdir=runs/cifar10 --config.data.dir=TFDS_DIR

Ten epochs, about 50 minutes; 2,000 training images are held out to choose hyper-parameters on. The figures that came
of it are in results/cifar10_resnet10/.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "cifar10"
    config.data.validation = 0.04
    config.data.pad = 2
    config.data.flip = True
    config.model.name = "resnet10"
    config.model.convolution = "cpu"
    config.model.width = 32
    config.training.epochs = 10
    config.training.batch_size = 64
    # The penalty holds the kernels near norm one, where a rate acts several times as strongly as on grown kernels.
    config.training.learning_rate = 0.03
    return config
