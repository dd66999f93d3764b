"""VGG-16 with batch norm on Tiny ImageNet (200 classes), for one accelerator.

    python -m experiments.train --config=configs/tiny_imagenet_vgg16.py --workdir=runs/tiny_imagenet_vgg16

The recipe of configs/tiny_imagenet_resnet18.py with VGG's rate. Not run yet: its accuracy is unknown.
"""

from ml_collections import ConfigDict

from configs import tiny_imagenet_resnet18


def get_config() -> ConfigDict:
    config = tiny_imagenet_resnet18.get_config()
    config.model.name = "vgg16"
    config.training.learning_rate = 0.1
    return config
