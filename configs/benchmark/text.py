"""Methods on every class of a file of texts with a test split; the comparisons on known data sets override parts of it.

python -m experiments.benchmark --config=configs/benchmark/text.py --config.original.data.name=text:FILE \\
    --workdir=runs/benchmark/text
"""

from ml_collections import ConfigDict

from configs import text_encoder
from configs.benchmark import default

METHODS = ("retrain", "logit-mask", "osp", "osp-fit", "finetune", "scrub", "steu")


def get_config() -> ConfigDict:
    return comparison(text_encoder.get_config(), ("each",), validation=0.15)


def comparison(original: ConfigDict, forget: tuple[str, ...], validation: float) -> ConfigDict:
    """The comparison of trainings with the config `original`; `validation`: share of the training texts to hold out."""
    config = default.get_config()
    config.original = original
    config.original.data.validation = validation
    config.methods = METHODS
    config.options = (
        "finetune:epochs=3",
        "finetune:batch_size=64",
        "scrub:epochs=3",
        "scrub:batch_size=64",
        "steu:batch_size=32",
    )
    config.forget = forget
    config.tuning.trials = 2
    config.audit.train_images = 1000
    config.audit.questions = True
    config.timing.limit = 1.0
    return config
