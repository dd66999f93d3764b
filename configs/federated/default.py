"""Every setting of a federated study, with its meaning; the other files of this folder change some of these.

    python -m experiments.federated --config=configs/federated/default.py --workdir=runs/federated/default

Change any setting from the command line: --config.training.rounds=5 --config.division.alpha=0.1
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of the divisions, and of which images are poisoned or leave
    config.seeds = (0,)  # each gives an untrained network and trainings of its own

    config.data = default.get_config().data  # of its augmentation, `pad` and `flip` are used
    config.model = default.get_config().model

    config.splits = ("iid", "dirichlet")  # divisions of the training images: 'iid', 'dirichlet', 'classes'
    config.division = ConfigDict()
    config.division.clients = 10
    config.division.alpha = 0.5  # of 'dirichlet'; the smaller, the more uneven
    config.division.classes = 2  # of each client, of 'classes'
    config.division.least = 2  # images of each client

    config.training = ConfigDict()
    config.training.rounds = 20
    config.training.clients = 0  # drawn for each round; 0: all
    config.training.dropout = 0.0  # probability that a client that was asked does not answer
    config.training.rate = "constant"  # or "cosine", from round to round
    config.training.optimiser = "sgd"  # or "adam"; its state begins anew in each exchange
    config.training.learning_rate = 0.05
    config.training.momentum = 0.9
    config.training.weight_decay = 0.0
    config.training.batch_size = 32
    config.training.epochs = 1  # local, of FedAvg, with which the attacked models are trained
    config.training.steps = 0  # above 0: so many local steps in place of the epochs

    config.fcot = ConfigDict()  # FedOrtho's two exchanges, for the requests at class, client and sample level
    config.fcot.epochs = 1  # of the first exchange; 0 without steps: none, which is FedProx
    config.fcot.steps = 0  # above 0: so many in place of the epochs; the reimplementation has 2
    config.fcot.fusion_epochs = 1
    config.fcot.fusion_steps = 0
    config.fcot.fusion_start = "reference"  # the round's mean, or the client's own "local" model; sources leave it open
    config.fcot.penalty = "so"
    config.fcot.penalty_weight = 1e-3  # reimplementation; the paper's is not known
    config.fcot.penalty_layers = ""  # every convolution
    config.fcot.align = 1e-4  # reimplementation: on the squared distance, without a factor of 1/2

    config.scenarios = ("class", "client", "sample", "label-flip", "backdoor")
    config.departures = ConfigDict()
    config.departures.classes = "3"  # of scenario 'class'
    config.departures.clients = (0,)  # of 'client'
    config.departures.sample_clients = (0, 1, 2)  # of 'sample': a share of their images
    config.departures.sample_share = 0.2

    config.attack = ConfigDict()
    config.attack.malicious = (0, 1, 2)  # FedUP's paper: 30%
    config.attack.flip_share = 0.1  # paper; of a client's images
    config.attack.flip_classes = ""  # "4,9"; empty: the two that a clean model confuses most on its training images
    config.attack.backdoor_share = 0.1  # paper
    config.attack.target = 0  # the class that the trigger stands for; the paper does not say
    config.attack.side = 3  # paper: pixels

    config.methods = ConfigDict()  # 'name' or 'name:setting=value,...' of osp_jax/federated/methods.py
    config.methods.of_class = ("natural", "fedortho", "fedortho:layers=last", "fu-cdp", "fu-cdp:direction=lowest")
    config.methods.of_client = ("natural", "fedortho", "fedortho:score=matched")
    config.methods.of_sample = ("natural", "fedortho", "fedortho:score=matched")
    config.methods.of_attack = (
        "natural",
        "fedup",
        "fedup:rule=auto",
        "fedup:sign=signed",
        "fedup:rank=random",
        "fedup:rank=magnitude",
        "not",
    )

    config.recovery = ConfigDict()
    config.recovery.rounds = 3  # after the edit of a method that goes on training
    config.recovery.learning_rate = 0.0  # 0: that of the training; constant either way

    config.save_every = 10  # rounds
    return config
