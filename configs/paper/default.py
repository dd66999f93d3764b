"""What `python -m experiments.paper` runs: networks and data sets, the methods, and the classes that are audited.

Of every entry each class is forgotten in turn; the audited classes are also compared with networks retrained without
them, and attacked with shadow models. The entries with 'cifarnet' are for CPUs: one class is audited, and there are no
shadow models.
"""

from ml_collections import ConfigDict

METHODS = ("logit-mask", "osp", "osp-fit", "concept-erasure")
CLASSES = {"cifar10": "0,3,9", "cifar100": "0,33,66", "tiny_imagenet": "0,66,133"}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.methods = METHODS
    config.entries = ConfigDict()
    for network in ("resnet18", "vgg16"):
        for data in CLASSES:
            config.entries[f"{data}_{network}"] = _entry(data, network, audited=CLASSES[data], shadows=16)
    for data in ("cifar10", "tiny_imagenet"):
        config.entries[f"{data}_cifarnet"] = _entry(data, "cifarnet", audited="0", shadows=0)
    return config


def _entry(data: str, network: str, *, audited: str, shadows: int) -> dict:
    cycles = ("", "_second") if (data, network) == ("cifar10", "cifarnet") else ("",)
    return {
        "configs": tuple(f"configs/{data}_{network}{cycle}.py" for cycle in cycles),  # one starts where the last ended
        "audited": audited,
        "probes": data == "cifar10" and shadows > 0,  # a probe and a new head for every class, not the audited alone
        "shadows": shadows,  # models with and as many without each audited class; 0: none
    }
