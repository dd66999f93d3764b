"""The study of `python -m experiments.paper`: networks and data sets, methods, and audited classes.

For every entry, each class is forgotten in turn; the audited classes are also compared with networks retrained without
them and, if `shadows` is not 0, attacked with shadow models. `cifar10_resnet20` and the entries with CifarNet are for
CPUs and take hours; the others need a GPU.
"""

from ml_collections import ConfigDict

METHODS = ("logit-mask", "osp", "osp-fit", "concept-erasure")


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.methods = METHODS
    config.entries = ConfigDict()
    config.entries.cifar10_resnet20 = _entry("cifar10_resnet20", audited="0,3,9", probes=True)
    config.entries.cifar10_cifarnet = _entry("cifar10_cifarnet", audited="0,3")
    config.entries.cifar100_cifarnet = _entry("cifar100_cifarnet", audited="0,47")
    for network in ("resnet18", "vgg16"):
        config.entries[f"cifar10_{network}"] = _entry(f"cifar10_{network}", audited="0,3,9", probes=True, shadows=32)
        config.entries[f"cifar100_{network}"] = _entry(f"cifar100_{network}", audited="0,33,66", shadows=32)
    return config


def _entry(name: str, *, audited: str, probes: bool = False, shadows: int = 0) -> dict:
    return {
        "config": f"configs/{name}.py",
        "audited": audited,
        "probes": probes,  # a probe and a new head for every class, not only the audited ones
        "shadows": shadows,  # models with and without each audited class, each on half of the images; 0: none
    }
