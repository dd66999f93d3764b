"""Methods on three classes of 20 Newsgroups by date, in one request: a transformer encoder, one seed; two CPU cores.

python -m experiments.benchmark --config=configs/benchmark/newsgroups.py --config.original.data.dir=FOLDER \\
    --workdir=runs/benchmark/newsgroups
"""

from ml_collections import ConfigDict

from configs import text_newsgroups
from configs.benchmark import text


def get_config() -> ConfigDict:
    forget = ("comp.graphics,rec.autos,sci.med",)
    config = text.comparison(text_newsgroups.get_config(), forget, validation=0.05)
    # Texts of each class that a method may use, so that a CPU needs seconds.
    config.budget.retain = 50
    config.budget.forget = 128
    config.tuning.trials = 2
    config.audit.train_images = 500
    return config
