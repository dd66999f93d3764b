"""ResNet-8 (78 thousand parameters) on scikit-learn's digits: the demo.

    python -m experiments.train --config=configs/digits.py --workdir=runs/digits

Fifteen epochs over 1,437 images of 8x8 pixels; about ten seconds on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.convolution = "cpu"
    return config
