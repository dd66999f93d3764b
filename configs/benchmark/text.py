"""What comparisons on texts share: the methods, their budgets, and the questions."""

from ml_collections import ConfigDict

from configs.benchmark import default

METHODS = ("retrain", "logit-mask", "osp", "osp-fit", "finetune", "scrub", "steu")


def comparison(original: ConfigDict, forget: tuple[str, ...], validation: float) -> ConfigDict:
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
