"""FU-CDP: class-discriminative pruning from maps that the clients compute, then rounds without the class.

Wang, Guo, Xie and Qi, "Federated Unlearning via Class-Discriminative Pruning", WWW 2022, arXiv 2110.11794, known from
notes on its equations. Each client sends, layer by layer, the rectified and spatially averaged outputs for its images
by class. The server scores the channels by TF-IDF (`methods.cdp`, which has the same options) and permanently removes
those that discriminate the class; in the following rounds on the other images they stay removed. Several classes are
pruned in turn.

The paper averages the clients' means (`average='plain'`); here, a client that lacks a class is left out of that class's
mean. Sums and counts are exact for any division of the images.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.federated.client import Query, Sums, units_of
from osp_jax.federated.editing import Edit, FederatedMethod, Situation
from osp_jax.federated.requests import Request
from osp_jax.federated.rounds import Traffic
from osp_jax.federated.server import size_of, total
from osp_jax.masks import Mask, apply_mask, build_mask
from osp_jax.methods.cdp import Cdp, prune
from osp_jax.methods.parts.filters import SCOPES
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.statistics import ClassStatistics, Moments
from osp_jax.training.descent import split_variables

AVERAGES = ("counts", "plain")
_SOURCES = {"conv": "filters", "gate": "gates"}


@dataclasses.dataclass(frozen=True)
class FuCdp(FederatedMethod):
    """Permanently removes the channels that discriminate the class.

    "Code" is the authors', github.com/wangjunxiao/unlearning, which is not federated.
    """

    levels = ("class",)
    note = "client maps by its protocol; settings of its code"

    direction: str = option(
        "highest",
        "channels to remove: of the highest scores, or of the lowest as in the code",
        choices=("highest", "lowest"),
        source="the paper",
    )
    sparsity: float = option(
        0.05, "share of the channels to remove", low=0, high=1, source="the authors' code: ResNet-20 on CIFAR-10"
    )
    scope: str = option(
        "global",
        "apply the sparsity to all channels together, or to each layer",
        choices=SCOPES,
        source="the authors' code",
    )
    variant: str = option(
        "paper", "form of the IDF: the paper's, or 'released' as in the code", choices=("paper", "released")
    )
    balance: float = option(
        0.0, "above 0, multiply TF by log(e * channels / balance)", low=0, source="the authors' code: coe"
    )
    average: str = option(
        "counts",
        "average of the clients: exact by their 'counts', or 'plain' over their means as in the paper",
        choices=AVERAGES,
    )
    source: str = option(
        "conv",
        "activations: 'conv', outputs in front of the norm, or 'gate', behind it",
        choices=tuple(_SOURCES),
        source="the authors' code",
    )

    @property
    def rule(self) -> Cdp:
        """The scores and the selection of channels, as `methods.cdp.prune` takes them."""
        names = ("direction", "sparsity", "scope", "variant", "balance")
        return Cdp(**{name: getattr(self, name) for name in names})

    def query_for(self, model: Model) -> Query:
        """The server's query: one group per class."""
        return Query(_SOURCES[self.source], "mean", "all", model.num_classes)

    def edit(self, situation: Situation, request: Request) -> Edit:
        """Queries every client once per class, and prunes the model."""
        query, sent = self.query_for(situation.model), Traffic()
        units = units_of(situation.model, situation.image_shape, query)
        gains = {unit.name: np.ones(unit.channels, np.float32) for unit in units.groups}
        model = situation.model
        for number in request.classes:
            answers = situation.ask(model, query, request, "class")
            gains = prune(class_means(answers, self.average), gains, number, self.rule)
            model = model.replace(variables=apply_mask(situation.model.variables, removal(gains, units)))
            sent = sent.plus(Traffic(len(answers) * size_of(model.variables), sum(map(size_of, answers))))
        removed = {name: int((gain == 0).sum()) for name, gain in gains.items() if (gain == 0).any()}
        # The clients identify removed channels by the zeros in the model itself.
        return Edit(model.variables, kept(model, removal(gains, units)), sent, {"removed_channels": removed})


def class_means(answers: Sequence[Sums], average: str) -> dict[str, ClassStatistics]:
    """The answers of clients as class statistics by layer: their total, or plain means of the clients' means.

    For 'plain', the counts are 1 for a class that a client has images of, else 0.
    """
    if average == "counts":
        sums = total(answers)
        return {name: _statistics(sums.count, values) for name, values in sums.sums.items()}
    total(answers)  # raises for inconsistent answers
    holders = np.sum([answer.count > 0 for answer in answers], axis=0)
    found = {}
    for name in answers[0].sums:
        means = [answer.sums[name] / np.maximum(answer.count, 1)[:, None] for answer in answers]
        mean = np.sum(means, axis=0, dtype=np.float64) / np.maximum(holders, 1)[:, None]
        found[name] = _statistics((holders > 0).astype(np.float32), mean.astype(np.float32))
    return found


def removal(gains: Mapping[str, np.ndarray], units: Gates) -> Mask:
    """The mask that removes the channels of gain 0, including their kernels."""
    return build_mask(gains, units, erase=True)


def kept(model: Model, mask: Mask) -> dict:
    """`mask` as factors on updates of the parameters: 0 for removed ones, else 1."""
    ones = jax.tree.map(jnp.ones_like, split_variables(model)[0])
    return apply_mask(ones, mask)


def _statistics(count: np.ndarray, sums: np.ndarray) -> ClassStatistics:
    return ClassStatistics(count, Moments(sums, None), None)
