"""OSP: one-shot soft pruning of the channels that the forgotten classes own (arXiv 2506.19891, section 3).

The paper's body could not be had; what is known of it comes from a reimplementation from its formulas. From there:
the signed difference of mean activations, its spatial maximum, the top 25% of each layer, the strength
max(0.5, 1 - r / k), no fine-tuning. Where the paper is silent the choice is ours, and an option: which layers
(`layers`), and where the factor stands (`place`), since a factor on a kernel alone does not gate a channel in front of
a batch norm.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from osp_jax.masks import (
    SELECTIONS,
    STRENGTHS,
    Mask,
    apply_mask,
    build_head_mask,
    build_kernel_mask,
    build_mask,
    channel_gains,
    class_difference,
)
from osp_jax.methods.parts.groups import chosen_groups, forget_vector, masked_paths
from osp_jax.methods.parts.options import check_choices, check_options
from osp_jax.methods.parts.params import merge, pruned
from osp_jax.program.channels import Channels
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import REDUCTIONS, ClassStatistics, Statistics

AGAINST = ("mean", "max")
PLACES = ("gate", "kernel", "head")
_AMOUNTS = {"fraction": (0, 1), "top-k": (1, 2**31 - 1), "threshold": (-1e6, 1e6)}  # by `select`
SEARCH = {"amount": (0.1, 0.15, 0.25, 0.4), "strength": ("rank", "hard"), "against": AGAINST}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `osp`; see `scores.class_difference` and `masks.channel_gains` for the meaning of each rule."""

    layers: str = "last"  # 'last' group, 'all', or a regular expression on group names
    reduction: str = "max"
    standardised: bool = False
    against: str = "mean"
    select: str = "fraction"
    amount: float = 0.25  # of 'fraction' a share of the channels, of 'top-k' their number, of 'threshold' a score
    strength: str = "rank"
    constant: float = 0.5  # the strength, where `strength` is 'constant'
    place: str = "gate"  # 'gate' where the channel is produced, 'kernel' literally, 'head' in the rows of the head
    erase: bool = False  # zero the kernels of fully masked channels

    def __post_init__(self) -> None:
        check_options(self, constant=(0, 1))
        check_choices(self, reduction=REDUCTIONS, against=AGAINST, select=SELECTIONS, strength=STRENGTHS, place=PLACES)
        if self.select == "top-k" and (self.amount < 1 or self.amount != int(self.amount)):
            raise InputError(
                f"option amount is {self.amount}; with select=top-k give a number of channels, such as amount=4"
            )
        check_options(self, amount=_AMOUNTS[self.select])
        if self.place == "head" and self.layers != "last":
            raise InputError("only the last group feeds the head; with place=head use layers=last")


def check(params: Any, channels: Channels, config: Options) -> None:
    """Raises `InputError` for a network without the layers that `config` names."""
    pruned(params, masked_paths(channels, chosen_groups(channels, config.layers), config.place, config.erase))


def unlearn(
    model: nn.Module,
    variables: dict[str, Any],
    forget: tuple[int, ...],
    *,
    data: Any,
    statistics: Statistics,
    config: Options,
    rng: jax.Array,
) -> dict[str, Any]:
    """Variables whose channels of the forgotten classes are suppressed; reads nothing but the statistics.

    Only masked parameters go through the compiled program; all others are handed on as they are.
    """
    del model, data, rng
    names = chosen_groups(statistics.channels, config.layers)
    layers = {name: statistics.layers[name] for name in names}
    vector = forget_vector(forget, statistics)
    paths = masked_paths(statistics.channels, names, config.place, config.erase)
    masked = pruned(variables["params"], paths)
    return merge(variables, _masked_product(masked, layers, vector, channels=statistics.channels, config=config))


def scores_and_gains(statistics: Statistics, forget: tuple[int, ...], config: Options) -> tuple[Any, Any]:
    """(scores, gains) of a request, each `(channels,)` by the name of the channel group."""
    names = chosen_groups(statistics.channels, config.layers)
    layers = {name: statistics.layers[name] for name in names}
    return _scores_and_gains(layers, forget_vector(forget, statistics), config)


def _scores_and_gains(layers: dict[str, ClassStatistics], vector: Any, config: Options) -> tuple[Any, Any]:
    rules = {"select": config.select, "amount": config.amount, "strength": config.strength, "constant": config.constant}
    score = partial(
        class_difference, reduction=config.reduction, standardised=config.standardised, against=config.against
    )
    scores = {name: score(layer, vector) for name, layer in layers.items()}
    return scores, {name: channel_gains(s, **rules) for name, s in scores.items()}


def _place(gains: Any, params: Any, *, channels: Channels, config: Options) -> Mask:
    if config.place == "gate":
        return build_mask(gains, channels, erase=config.erase)
    if config.place == "kernel":
        return build_kernel_mask(gains, channels)
    return build_head_mask(gains[channels.last.name], channels, params)


@partial(jax.jit, static_argnames=("channels", "config"))
def _masked_product(
    masked: Any, layers: dict[str, ClassStatistics], vector: Any, *, channels: Channels, config: Options
) -> Any:
    _, gains = _scores_and_gains(layers, vector, config)
    mask = _place(gains, masked, channels=channels, config=config)
    return apply_mask({"params": masked}, mask)["params"]
