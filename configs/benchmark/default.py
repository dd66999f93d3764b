"""Every setting of a comparison, with its meaning; the other files of this folder change some of these.

    python -m experiments.benchmark --config=configs/benchmark/default.py --workdir=runs/benchmark/default

Change any setting from the command line: --config.tuning.trials=2 --config.original.training.epochs=5
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of the tuning's draws
    config.seeds = (0,)  # one original each; of every method's draws, too

    config.original = digits.get_config()  # how the originals are trained, and retrained without the class
    config.original.data.validation = 0.15  # share of the training images that settings are chosen on

    config.methods = ()  # none given: every registered method that can act on the network
    config.options = ()  # settings other than the defaults, as in ("osp:amount=0.2",)
    config.forget = ("each",)  # 'each': every class by itself; '3,5': a set; '3 then 5': one request after another

    config.budget = ConfigDict()  # training images of each class that a request may see; -1: all, 0: none
    config.budget.retain = -1
    config.budget.forget = -1

    config.tuning = ConfigDict()
    config.tuning.trials = 3  # settings tried for each method, its defaults among them
    config.tuning.requests = 1  # the first so many requests are what settings are tried on
    config.tuning.images = 0  # of the held-out images, the same number of each class; 0: all

    config.audit = ConfigDict()
    config.audit.train_images = (
        10000  # of forgotten and of other training images each, at most, that models are asked of
    )
    config.audit.test_images = 0  # of each other class; 0: all. Those of the forgotten classes are all asked about
    config.audit.questions = False  # also membership, a linear probe, a new head and relearning
    config.audit.relearning_steps = 25  # at most
    config.audit.harm = True  # what the harm check of `experiments.unlearn` estimates

    config.timing = ConfigDict()
    config.timing.limit = 60.0  # seconds; a request that takes longer is timed once, compilation included
    return config
