r"""Federated training and unlearning on CIFAR-10: ten clients, IID and Dirichlet(0.5), a ResNet-8 for CPUs.

    python -m experiments.federated --config=configs/federated/cifar10.py --workdir=runs/federated/cifar10 \
        --config.data.dir=TFDS_DIR

The first convolution has a stride of 2, which takes a quarter of the work of the usual ResNet-8. A round is about one
epoch over all images, without augmentation, so that the attackers' images are learned. About three hours on one CPU
core, at 1,800 images a second: seven trainings per division. Resumable, also within a training.
"""

from ml_collections import ConfigDict

from configs.federated import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "cifar10"
    config.data.pad = 0
    config.model.stem = "strided"
    config.model.convolution = "cpu"
    config.division.least = 500
    config.training.rounds = 20
    config.training.rate = "cosine"
    config.training.learning_rate = 0.1
    config.training.batch_size = 64
    config.fcot.steps = 40  # of each client in each exchange: half of an epoch for equally large clients
    config.fcot.fusion_steps = 40
    config.recovery.learning_rate = 0.02
    config.save_every = 5
    return config
