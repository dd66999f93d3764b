"""Every method on every class of scikit-learn's digits: ResNet-8, one seed; for two CPU cores.

python -m experiments.benchmark --config=configs/benchmark/digits.py --workdir=runs/benchmark/digits
"""

from ml_collections import ConfigDict

from configs.benchmark import default


def get_config() -> ConfigDict:
    return default.get_config()
