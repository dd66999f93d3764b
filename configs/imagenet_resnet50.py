"""ResNet-50 (25.6 million parameters) on ImageNet, 224 pixels, streamed from its files; for several accelerators.

    python -m experiments.train --config=configs/imagenet_resnet50.py --workdir=runs/imagenet_resnet50

Needs Grain (`pip install 'osp_jax[stream]'`) and TFDS's `imagenet2012` as array_record files. Ninety epochs; a rate of
0.1 per 256 images of a batch, which rises over the first five epochs (Goyal et al., 2017, arXiv 1706.02677) and then
falls along a cosine, and label smoothing (both in He et al., 2019, arXiv 1812.01187); random areas (Szegedy et al.,
2015, arXiv 1409.4842) and flips. Not run yet: its accuracy is unknown.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.stream = True
    config.data.crop = "resized"
    config.data.pad = 0
    config.data.flip = True
    config.data.mean = (0.485, 0.456, 0.406)  # the usual values
    config.data.std = (0.229, 0.224, 0.225)
    config.data.validation = 0.01
    config.model.name = "resnet50"
    config.model.dtype = "bfloat16"
    config.training.epochs = 90
    config.training.batch_size = 1024
    config.training.learning_rate = 0.4
    config.training.schedule = "cosine"
    config.training.warmup = 5 / 90
    config.training.weight_decay = 1e-4
    config.training.label_smoothing = 0.1
    config.statistics.features = 20_000  # twenty of each class
    return config
