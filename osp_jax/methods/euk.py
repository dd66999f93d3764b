"""EU-k: the last k layers are initialised anew and retrained on retained images, so that they are exactly unlearned.

Goel et al., arXiv 2201.06640; layers, schedule and defaults are told in `last_layers.py`. What is trained is set back
with its norms and their running statistics (in the authors' code these start from where they are).
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.last_layers import LastLayersOptions, check_depth, train_last_layers
from osp_jax.networks import init_variables
from osp_jax.statistics import Statistics

SEES = ("retain",)
SEARCH = {"k": (1, 3, 6), "epochs": (7, 15, 31, 62), "learning_rate": (0.03, 0.1, 0.2)}
check = check_depth


@dataclasses.dataclass(frozen=True)
class Options(LastLayersOptions):
    """Options of `euk`: those of `LastLayersOptions`."""


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
    """Variables whose last k layers have seen retained images only."""
    del forget, statistics
    init_key, train_key = jax.random.split(rng)
    start = init_variables(model, data.images.shape[1:], init_key)
    return train_last_layers(model, variables, start, data=data, config=config, rng=train_key)
