r"""The networks whose weights are in results/networks, for `experiments.import_model`; our configs trained them.

    python -m experiments.import_model --network=benchmarks/trained_networks.py:cifar10_resnet20 \
        --weights=results/networks/cifar10_resnet20_seed0_original.safetensors --recipe=configs/cifar10_resnet20.py \
        --data=cifar10 --data_dir=TFDS_DIR --mean=MEAN --std=STD --workdir=runs/original

MEAN and STD are in the metadata of the weights file. The workdir answers every command as the trained one does.
"""

from flax import linen as nn

from osp_jax.networks import create_model


def cifar10_resnet20() -> nn.Module:
    return create_model("resnet20", 10, (32, 32, 3))


def cifar10_resnet8() -> nn.Module:
    return create_model("resnet8", 10, (32, 32, 3))


def cifar10_cifarnet16() -> nn.Module:
    return create_model("cifarnet", 10, (32, 32, 3), width=16)
