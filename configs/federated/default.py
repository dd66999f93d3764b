"""Every setting of a federated study, with its meaning; the other files of this folder override some of them.

    python -m experiments.federated --config=configs/federated/default.py --workdir=runs/federated/default

Change any setting from the command line: --config.training.rounds=5 --config.division.alpha=0.1
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # seed of the divisions, and of the images that are poisoned or removed
    config.seeds = (0,)  # seeds of the untrained networks and the trainings

    config.data = default.get_config().data  # of the augmentation, only `pad` and `flip` are used
    config.model = default.get_config().model

    config.splits = ("iid", "dirichlet")  # divisions of the training images: 'iid', 'dirichlet', 'classes'
    config.division = ConfigDict()
    config.division.clients = 10
    config.division.alpha = 0.5  # for 'dirichlet'; smaller is more uneven
    config.division.classes = 2  # per client, for 'classes'
    config.division.least = 2  # fewest images per client

    config.training = ConfigDict()
    config.training.rounds = 20
    config.training.clients = 0  # number drawn for each round; 0: all
    config.training.dropout = 0.0  # probability that a client does not answer
    config.training.rate = "constant"  # or "cosine", from round to round
    config.training.optimiser = "sgd"  # or "adam"; its state is reset in each exchange
    config.training.learning_rate = 0.05
    config.training.momentum = 0.9
    config.training.weight_decay = 0.0
    config.training.batch_size = 32
    config.training.epochs = 1  # local epochs of FedAvg, which trains the attacked models
    config.training.steps = 0  # if above 0, local steps instead of epochs

    config.fcot = ConfigDict()  # FedOrtho's two exchanges, for requests of classes, clients and samples
    config.fcot.epochs = 1  # of the first exchange; 0 without steps: none, which is FedProx
    config.fcot.steps = 0  # if above 0, steps instead of epochs; the reimplementation has 2
    config.fcot.fusion_epochs = 1
    config.fcot.fusion_steps = 0
    config.fcot.fusion_start = "reference"  # the round's mean, or the client's own "local" model; sources leave it open
    config.fcot.penalty = "so"
    config.fcot.penalty_weight = 1e-3  # reimplementation; the paper's is unknown
    config.fcot.penalty_layers = ""  # every convolution
    config.fcot.align = 1e-4  # reimplementation: on the squared distance, without a factor of 1/2

    config.scenarios = ("class", "client", "sample", "label-flip", "backdoor")
    config.departures = ConfigDict()
    config.departures.classes = "3"  # for scenario 'class'
    config.departures.clients = (0,)  # for 'client'
    config.departures.sample_clients = (0, 1, 2)  # for 'sample': a share of their images
    config.departures.sample_share = 0.2

    config.attack = ConfigDict()
    config.attack.malicious = (0, 1, 2)  # FedUP's paper: 30%
    config.attack.flip_share = 0.1  # paper; of a client's images
    config.attack.flip_classes = ""  # "4,9"; empty: the two that a clean model confuses most on its training images
    config.attack.backdoor_share = 0.1  # paper
    config.attack.target = 0  # target class of the trigger; not named in the paper
    config.attack.side = 3  # paper; pixels

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
    config.recovery.rounds = 3  # after the edit of a method with recovery rounds
    config.recovery.learning_rate = 0.0  # 0: that of the training; constant in both cases

    config.save_every = 10  # rounds
    return config
