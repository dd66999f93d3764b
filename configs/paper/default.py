"""What `python -m experiments.paper` runs: networks and data sets, the methods, and the classes that are audited.

Of every entry each class is forgotten in turn; the audited classes are also compared with networks retrained without
them and, where `shadows` is not 0, attacked with shadow models. `cifar10_resnet8`, `cifar10_resnet20` and the entries
with CifarNet are for CPUs: hours, where the others take a GPU.
"""

from ml_collections import ConfigDict

METHODS = ("logit-mask", "osp", "osp-fit", "concept-erasure")


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.methods = METHODS
    config.entries = ConfigDict()
    config.entries.cifar10_resnet20 = _entry("cifar10_resnet20", audited="0,3,9")
    config.entries.cifar10_resnet8 = _entry("cifar10_resnet8", audited="3", shadows=32)
    config.entries.cifar10_cifarnet = _entry("cifar10_cifarnet", audited="0,3")
    config.entries.cifar100_cifarnet = _entry("cifar100_cifarnet", audited="0,33")
    for network in ("resnet18", "vgg16"):
        config.entries[f"cifar10_{network}"] = _entry(f"cifar10_{network}", audited="0,3,9", shadows=32)
        config.entries[f"cifar100_{network}"] = _entry(f"cifar100_{network}", audited="0,33,66", shadows=32)
    return config


def _entry(name: str, *, audited: str, shadows: int = 0) -> dict:
    return {
        "config": f"configs/{name}.py",
        "audited": audited,
        "probes": name.startswith("cifar10_"),  # a probe and a new head for every class, not the audited alone
        "shadows": shadows,  # models with and without each audited class, half of the images each; 0: none
    }
