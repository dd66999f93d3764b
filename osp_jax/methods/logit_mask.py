"""The trivial bound: the logit of a forgotten class is pushed out of reach, and nothing else changes."""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from osp_jax.methods.parts.out_of_reach import head_bias, put_out_of_reach
from osp_jax.methods.parts.params import pruned
from osp_jax.program.channels import Channels
from osp_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Options:
    """`logit-mask` has no options."""


def check(params: Any, channels: Channels, config: Options) -> None:
    """Raises `InputError` for a head without a bias."""
    pruned(params, (head_bias(channels),))


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
    """Variables with the head's bias of each forgotten class at -1e9."""
    del model, data, config, rng
    return put_out_of_reach(variables, statistics.channels, forget)
