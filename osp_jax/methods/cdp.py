"""Class-discriminative pruning: removes channels that discriminate the forgotten class, then fine-tunes.

Wang, Guo, Xie and Qi, "Federated Unlearning via Class-Discriminative Pruning", WWW 2022, arXiv 2110.11794, without the
federation. For the forgotten class c, a TF-IDF scores the channels (words) of each layer over the classes (documents),
from class means of post-ReLU, spatially averaged activations A (classes, channels):

    TF(j) = A[c, j] / sum_k A[c, k]        IDF(j) = log((1 + U) / (1 + n_j))

where n_j of the U classes use channel j. In the paper (known from notes on its equations) class u uses it if A[u, j] is
at least the mean of A[u, :] over channels, and the channels with the highest scores are removed. In the authors' code
(github.com/wangjunxiao/unlearning) it does if A[u, j] is at least the mean of A[:, j] over classes, the IDF is
log(U / (1 + n_j)), and the channels with the lowest scores are removed, so the fine-tuning does the forgetting. Each of
these is an option; the code is variant=released, direction=lowest, scope=global, source=conv. Several classes are
pruned in turn; removed channels no longer count (the stored means of the others do not change).

Departures from the code, all ours: a pruned channel is removed exactly, where the code leaves the constant that its
batch norm makes of it, and stays removed during fine-tuning, as in the paper, where the code lets it grow again. The
channel at the threshold itself stays, layers with fewer than 1 / sparsity filters are pruned too (the code's pruning
library skips them), the images of source=conv are not augmented, and the fine-tuning shuffles its images.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.masks import apply_mask, build_mask
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.filters import SCOPES, Apply, filter_outputs, filters, fine_tune, without_highest
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.moments import sum_over_batches
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import ClassStatistics, Statistics, layer_statistics


@dataclasses.dataclass(frozen=True)
class Cdp(Method):
    """Removes channels that discriminate the forgotten class, then fine-tunes on retained images.

    "Code" is github.com/wangjunxiao/unlearning, scripts cifar10_resnet*_main.py.
    """

    sees: ClassVar[tuple[str, ...]] = ("retain",)  # for the fine-tuning; source=conv also needs forgotten images
    search: ClassVar[Mapping[str, Sequence[Any]]] = {
        "sparsity": (0.05, 0.1, 0.2),
        "learning_rate": (0.01, 0.03, 0.1),
        "scope": SCOPES,
    }

    variant: str = option(
        "paper", "form of the IDF: the paper's, or 'released' as in class_pruner.py", choices=("paper", "released")
    )
    direction: str = option(
        "highest",
        "channels to remove: of the highest scores (the most discriminative), or of the lowest as in the code",
        choices=("highest", "lowest"),
        source="the paper",
    )
    scope: str = option(
        "global",
        "apply the sparsity to all channels together, or to each layer",
        choices=SCOPES,
        source="the authors' code",
    )
    source: str = option(
        "stored",
        "class means: the 'stored' ones of channel groups, behind the norm, which need no forgotten image (ours); or "
        "'conv', rectified outputs of single layers in front of the norm, measured on images before each class's "
        "pruning (code)",
        choices=("stored", "conv"),
    )
    per_class: int = option(
        26,
        "images of each class for source=conv",
        low=1,
        source="the authors' code: one batch of 256 images of 10 classes",
    )
    sparsity: float = option(
        0.05,
        "share of the channels to remove",
        low=0,
        high=1,
        source="the authors' code: ResNet-20 on CIFAR-10; other ResNets 0.04 to 0.06, VGG 0.1 to 0.17",
    )
    balance: float = option(
        0.0,
        "above 0, multiply TF by log(e * channels / balance)",
        low=0,
        source="the authors' code: coe, 0 in all scripts",
    )
    epochs: int = option(10, "epochs of fine-tuning on retained images; 0 skips it", low=0, source="the authors' code")
    learning_rate: float = option(
        0.1,
        "initial learning rate of the fine-tuning; falls along a cosine from epoch to epoch",
        low=0,
        source="the authors' code",
    )
    batch_size: int = option(128, "images in a batch", low=1, source="the authors' code")
    momentum: float = option(0.9, "Nesterov momentum of SGD", low=0, high=1, source="the authors' code")
    weight_decay: float = option(5e-4, "weight decay, on kernels only (ours)", low=0, source="the authors' code")

    @property
    def trains(self) -> bool:
        return self.epochs > 0

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` if `source` is 'conv' and the network has no convolution."""
        del model
        if self.source == "conv":
            filters(gates)

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns the model without the chosen channels, fine-tuned on the retained images."""
        stored = self.source == "stored"
        units = statistics.gates if stored else filters(statistics.gates)
        gains = {group.name: np.ones(group.channels, np.float32) for group in units.groups}
        layers = statistics.layers
        for number in forget:
            if not stored:
                pruned = model.replace(variables=apply_mask(model.variables, build_mask(gains, units, erase=True)))
                layers = filter_statistics(pruned, units, data, self.per_class)
            gains = prune(layers, gains, number, self)
        mask = build_mask(gains, units, erase=True)
        pruned = model.replace(variables=apply_mask(model.variables, mask))
        return fine_tune(pruned, mask, data, self, rng) if self.epochs else pruned


def prune(
    layers: Mapping[str, ClassStatistics], gains: Mapping[str, np.ndarray], number: int, settings: Cdp
) -> dict[str, np.ndarray]:
    """`gains`, 0 or 1, float32 `(channels,)` by layer, with 0 also for the channels pruned for class `number`."""
    scores = {}
    for name, gain in gains.items():
        layer, there = jax.device_get(layers[name]), gain > 0
        seen = layer.count > 0
        if not seen[number]:
            raise InputError(f"the statistics hold no image of class {number}; collect them on images of all classes")
        means = layer.mean.sum[seen].astype(np.float64) / layer.count[seen, None]
        scores[name] = np.full(len(gain), -np.inf)
        if there.any():
            score = discrimination(means[:, there], int(seen[:number].sum()), settings)
            scores[name][there] = score if settings.direction == "highest" else -score
    kept = without_highest(scores, settings.sparsity, settings.scope)
    return {name: kept[name] * gain for name, gain in gains.items()}


def discrimination(means: np.ndarray, number: int, settings: Cdp) -> np.ndarray:
    """TF-IDF of each channel for the class `number`, float64 `(channels,)`; `means` float64 `(classes, channels)`."""
    classes, channels = means.shape
    frequency = means[number] / (means[number].sum() or 1)  # a layer that the class does not use scores 0
    if settings.balance:
        frequency = frequency * np.log(np.e * channels / settings.balance)
    if settings.variant == "paper":
        users = (means >= means.mean(axis=1, keepdims=True)).sum(axis=0)
        return frequency * np.log((1 + classes) / (1 + users))
    users = (means >= means.mean(axis=0)).sum(axis=0)
    return frequency * np.log(classes / (1 + users))


def filter_statistics(model: Model, units: Gates, data: RequestData, per_class: int) -> dict[str, ClassStatistics]:
    """Class statistics of the rectified outputs of the filters `units`, over the first images of each class."""
    indices = np.concatenate([data.retain(per_class), data.forget(per_class)])
    statistics = _batch_statistics(model.apply, data.preparation, units, model.num_classes)
    given = model.variables, data.images, data.labels
    return sum_over_batches(lambda *batch: statistics(*given, *batch), indices, 256, jax.random.key(0))


@lru_cache(maxsize=16)
def _batch_statistics(apply: Apply, preparation: Preparation, units: Gates, classes: int) -> Any:
    @jax.jit
    def statistics(variables: Any, images: Any, labels: Any, indices: Any, weights: jax.Array, key: jax.Array) -> Any:
        del key
        outputs = filter_outputs(apply, units, variables, preparation.plain(images[indices]))
        labels = jnp.where(weights > 0, labels[indices], -1)  # padding has no class
        return {name: layer_statistics(jax.nn.relu(value), labels, classes) for name, value in outputs.items()}

    return statistics
