"""CF-k: the last k layers are fine-tuned on retained images and left to forget, the rest is frozen.

Goel et al., arXiv 2201.06640 (catastrophically forgetting); layers, schedule and defaults are told in `last_layers.py`.
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.last_layers import LastLayersOptions, check_depth, train_last_layers
from osp_jax.statistics import Statistics

SEES = ("retain",)
SEARCH = {"k": (1, 3, 6), "epochs": (7, 15, 30), "learning_rate": (0.03, 0.1, 0.2)}
check = check_depth


@dataclasses.dataclass(frozen=True)
class Options(LastLayersOptions):
    """Options of `cfk`: those of `LastLayersOptions`, but for fewer epochs."""

    epochs: int = 30  # Goel et al., scripts/cifar10-CRT.sh (class removal): epochs_ftF


def unlearn(
    model: nn.Module,
    variables: dict[str, Any],
    forget: tuple[int, ...],
    *,
    data: RequestData,
    statistics: Statistics,
    config: Options,
    rng: jax.Array,
) -> dict[str, Any]:
    """Variables whose last k layers were trained on with retained images."""
    del forget, statistics
    return train_last_layers(model, variables, variables, data=data, config=config, rng=rng)
