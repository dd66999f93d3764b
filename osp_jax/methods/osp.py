"""OSP: one-shot soft pruning of the channels specific to the forgotten classes (arXiv 2506.19891, section 3).

We did not have access to the full paper; this follows a reimplementation from its formulas: the signed difference of
mean activations, its spatial maximum, the top 25% of each layer, the strength max(0.5, 1 - r / k), and no fine-tuning.
Choices that the paper leaves open are options: the layers (`layers`), and the location of the factor (`place`), since a
factor on a kernel alone does not gate a channel in front of a batch norm.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax

from osp_jax.masks import (
    SELECTIONS,
    Mask,
    apply_mask,
    build_head_mask,
    build_kernel_mask,
    build_mask,
    class_difference,
)
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.groups import chosen_groups, forget_vector, masked_paths
from osp_jax.methods.parts.method import Method
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
from osp_jax.statistics import REDUCTIONS, ClassStatistics, Statistics
from osp_jax.trees import edited, pruned

AGAINST = ("mean", "max")
PLACES = ("gate", "kernel", "head")


@dataclasses.dataclass(frozen=True)
class Osp(Method):
    """Prunes the channels that score highest for the forgotten classes, from statistics alone; uses no images.

    `masks.class_difference` and `masks.channel_gains` define the rules.
    """

    search: ClassVar[Mapping[str, Sequence[Any]]] = {
        "amount": (0.1, 0.15, 0.25, 0.4),
        "strength": ("rank", "hard"),
        "against": AGAINST,
    }

    layers: str = option(
        "last", "channel groups: the 'last', 'all', or a regular expression on group names", source="ours"
    )
    reduction: str = option(
        "max", "reduction of a channel's map to a number", choices=REDUCTIONS, source="reimplementation"
    )
    standardised: bool = option(False, "divide the difference of means by its standard deviation")
    against: str = option(
        "mean", "compare with the mean, or the largest mean, of the retained classes", choices=AGAINST
    )
    select: str = option(
        "fraction", "how channels are selected from their scores", choices=SELECTIONS, source="reimplementation"
    )
    amount: float = amount_option()
    strength: str = strength_option()
    constant: float = constant_option()
    place: str = option(
        "gate",
        "location of the factor: 'gate' where the channel is written, 'kernel' on the kernel alone, 'head' in the rows "
        "of the head",
        choices=PLACES,
        source="ours",
    )
    erase: bool = option(False, "also zero the kernels of fully masked channels")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount(self)
        if self.place == "head" and self.layers != "last":
            raise InputError("only the last group feeds the head; with place=head use layers=last")

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` if the network lacks the layers of the settings."""
        names = chosen_groups(gates, self.layers)
        pruned(model.variables, masked_paths(gates, names, self.place, self.erase))

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData | None, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns the model with the channels of the forgotten classes suppressed; uses nothing but the statistics.

        Only masked parameters go through the compiled program; all others are passed through unchanged.
        """
        del data, rng
        names = chosen_groups(statistics.gates, self.layers)
        layers = {name: statistics.layers[name] for name in names}
        vector = forget_vector(forget, statistics)
        paths = masked_paths(statistics.gates, names, self.place, self.erase)
        masked = pruned(model.variables, paths)
        new = _masked_product(masked, layers, vector, gates=statistics.gates, settings=self)
        return model.replace(variables=edited(model.variables, new))


def scores_and_gains(statistics: Statistics, forget: tuple[int, ...], settings: Osp) -> tuple[Any, Any]:
    """(scores, gains) of a request, each `(channels,)` by the name of the channel group."""
    names = chosen_groups(statistics.gates, settings.layers)
    layers = {name: statistics.layers[name] for name in names}
    return _scores_and_gains(layers, forget_vector(forget, statistics), settings)


def _scores_and_gains(layers: dict[str, ClassStatistics], vector: Any, settings: Osp) -> tuple[Any, Any]:
    score = partial(
        class_difference, reduction=settings.reduction, standardised=settings.standardised, against=settings.against
    )
    scores = {name: score(layer, vector) for name, layer in layers.items()}
    return scores, gains_by_rule(scores, settings)


def _place(gains: Any, *, gates: Gates, settings: Osp) -> Mask:
    if settings.place == "gate":
        return build_mask(gains, gates, erase=settings.erase)
    if settings.place == "kernel":
        return build_kernel_mask(gains, gates)
    return build_head_mask(gains[gates.last.name], gates)


@partial(jax.jit, static_argnames=("gates", "settings"))
def _masked_product(
    masked: Any, layers: dict[str, ClassStatistics], vector: Any, *, gates: Gates, settings: Osp
) -> Any:
    _, gains = _scores_and_gains(layers, vector, settings)
    mask = _place(gains, gates=gates, settings=settings)
    return apply_mask(masked, mask)
