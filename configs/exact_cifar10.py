"""A ridge head for CIFAR-10 on a network trained on other data, in the workdir config.training.start_from.

    python -m experiments.import_model --network=benchmarks.brought.torch_networks:micronet --weights=WEIGHTS \
        --data=cifar100 --mean=0.5071,0.4865,0.4409 --std=0.2673,0.2564,0.2762 --backbone --workdir=runs/backbone
    python -m experiments.train --config=configs/exact_cifar10.py --config.training.start_from=runs/backbone \
        --workdir=runs/exact

No epochs: one pass over the images, and one over their mirror images.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "cifar10"
    config.training.head = "ridge"
    config.head.stages = 8
    config.head.ridge = 10.0
    return config
