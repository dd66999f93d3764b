"""FedOrtho's erasure: one-shot soft pruning from sums and counts, for a class, whole clients or single images.

Gong et al., CVPR 2026 Findings, arXiv 2506.19891 v2; rebuilt from secondary formulas, since we did not have access to
the text. Each client divides its images into those to forget, F, and the others, R, and sends sums of channel
activations and counts. The server scores channel j of a layer by

    s_j = (sum over F of A_j) / N_F - (sum over R of A_j) / N_R

and scales the top channels of each layer once (`masks.channel_gains`). For clients and samples, this score mostly
measures which classes are more frequent in F. `score='matched'` (ours) corrects this: with p_c the share of class c in
F, s_j = sum_c p_c (mean over F of class c - mean over R of class c), over the classes that both have.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from osp_jax.federated.client import Query, Sums, units_of
from osp_jax.federated.editing import Edit, FederatedMethod, Situation
from osp_jax.federated.requests import Request
from osp_jax.federated.rounds import Traffic
from osp_jax.federated.server import size_of, total
from osp_jax.masks import SELECTIONS, apply_mask, build_kernel_mask, build_mask
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.pruning_rule import (
    amount_option,
    check_amount,
    constant_option,
    gains_by_rule,
    strength_option,
)
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import REDUCTIONS

SCORES = ("raw", "matched")
PLACES = ("gate", "kernel")


@dataclasses.dataclass(frozen=True)
class FedOrtho(FederatedMethod):
    """Soft pruning of the channels that the images to forget use most, without recovery rounds.

    "Reimplementation" is the only known one, from the paper's formulas.
    """

    levels = ("class", "client", "sample")
    note = "rebuilt from secondary formulas"
    recovers = False

    score: str = option(
        "raw",
        "difference of means, or 'matched' for means compared class by class (ours)",
        choices=SCORES,
        source="reimplementation",
    )
    reduction: str = option(
        "max", "reduction of a channel's map to a number", choices=REDUCTIONS, source="reimplementation"
    )
    layers: str = option(
        "all",
        "channel groups: 'all', the 'last', or a regular expression on group names",
        source="ours; unknown for the paper",
    )
    select: str = option("fraction", "how channels are selected from their scores", choices=SELECTIONS)
    amount: float = amount_option()
    strength: str = strength_option()
    constant: float = constant_option()
    place: str = option(
        "gate",
        "location of the factor: 'gate' where the channel is written, 'kernel' on the kernel alone, which does not "
        "gate in front of a batch norm",
        choices=PLACES,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount(self)

    @property
    def query(self) -> Query:
        """The server's query: two groups, or two per class."""
        return Query("gates", self.reduction, self.layers, 2)

    def edit(self, situation: Situation, request: Request) -> Edit:
        """Queries every client, and prunes the model once."""
        model, query = situation.model, self.query_for(situation.model)
        answers = situation.ask(model, query, request, self.grouping)
        sums = total(answers)
        units = units_of(model, situation.image_shape, query)
        sent = Traffic(len(answers) * size_of(model.variables), sum(map(size_of, answers)))
        return Edit(erased(model, units, sums, self), traffic=sent)

    @property
    def grouping(self) -> str:
        """The grouping of the clients' images (`client.groups_of`)."""
        return "class+forget" if self.score == "matched" else "forget"

    def query_for(self, model: Model) -> Query:
        """`query`, with the number of groups for a network's classes."""
        return self.query._replace(groups=2 * model.num_classes if self.score == "matched" else 2)


def scores_of(sums: Sums, score: str) -> dict[str, np.ndarray]:
    """The score of each channel by layer, float64 `(channels,)`; `sums` are in the groups of `FedOrtho.grouping`.

    Raises:
      InputError: there is no image to forget or none to retain; for 'matched', no class has both.
    """
    count = np.asarray(sums.count, np.float64)
    if score == "raw":
        if not count.all():
            raise InputError("the clients that answered have no image to forget, or no other; ask those that have")
        return {name: values[1] / count[1] - values[0] / count[0] for name, values in _float64(sums)}
    retained, forgotten = count[0::2], count[1::2]
    both = (retained > 0) & (forgotten > 0)
    if not both.any():
        raise InputError(
            "score=matched compares images of one class, and no class has images both to forget and to retain; "
            "use score=raw, as for a whole class"
        )
    share = forgotten[both] / forgotten[both].sum()
    return {
        name: share @ (values[1::2][both] / forgotten[both, None] - values[0::2][both] / retained[both, None])
        for name, values in _float64(sums)
    }


def erased(model: Model, units: Gates, sums: Sums, settings: FedOrtho) -> dict:
    """The variables of `model` with the top channels of each layer of `units` scaled."""
    scores = {name: jnp.asarray(score, jnp.float32) for name, score in scores_of(sums, settings.score).items()}
    gains = gains_by_rule(scores, settings)
    build = build_mask if settings.place == "gate" else build_kernel_mask
    return apply_mask(model.variables, build(gains, units))


def _float64(sums: Sums) -> list[tuple[str, np.ndarray]]:
    return [(name, np.asarray(values, np.float64)) for name, values in sums.sums.items()]
