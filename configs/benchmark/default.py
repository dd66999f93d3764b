"""Every setting of a comparison, with its meaning; the other files of this folder override some of them.

    python -m experiments.benchmark --config=configs/benchmark/default.py --workdir=runs/benchmark/default

Change any setting from the command line: --config.tuning.trials=2 --config.original.training.epochs=5
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # seed of the tuning
    config.seeds = (0,)  # seeds of the originals and of the methods' random draws

    config.original = digits.get_config()  # training of the originals, and retraining without the class
    config.original.data.validation = 0.15  # share of the training images to select settings on

    config.methods = ()  # (): every registered method that supports the network
    config.options = ()  # settings other than the defaults, such as ("osp:amount=0.2",)
    config.forget = ("each",)  # 'each': every class separately; '3,5': a set; '3 then 5': consecutive requests

    config.budget = ConfigDict()  # training images of each class that a request may use; -1: all, 0: none
    config.budget.retain = -1
    config.budget.forget = -1

    config.tuning = ConfigDict()
    config.tuning.trials = 3  # settings tried for each method, including its defaults
    config.tuning.requests = 1  # number of first requests to try settings on
    config.tuning.images = 0  # held-out images for the tuning, the same number of each class; 0: all

    config.audit = ConfigDict()
    config.audit.train_images = 10000  # most forgotten, and most other, training images to evaluate models on
    config.audit.test_images = 0  # test images of each other class; 0: all. Those of the forgotten classes are all used
    config.audit.questions = False  # whether to add membership, a linear probe, a new head and relearning
    config.audit.relearning_steps = 25  # most steps
    config.audit.harm = True  # whether to estimate the harm, as the check of `experiments.unlearn` does

    config.timing = ConfigDict()
    config.timing.limit = 60.0  # seconds; a longer request is timed once, including compilation
    return config
