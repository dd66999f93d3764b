"""EU-k: reinitialises the last k layers and retrains them on retained images, so that they are exactly unlearned.

Goel et al., arXiv 2201.06640; `last_layers.py` describes layers, schedule and defaults. The norms among these layers
are reset with their running statistics (the authors' code keeps the latter).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.fresh import fresh_variables
from osp_jax.methods.parts.last_layers import LastLayers, train_last_layers
from osp_jax.model import Model
from osp_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Euk(LastLayers):
    """Retrains the last k layers on retained images; settings as in `LastLayers`."""

    search: ClassVar[Mapping[str, Any]] = {"k": (1, 3, 6), "epochs": (7, 15, 31, 62), "learning_rate": (0.03, 0.1, 0.2)}
    starts_over: ClassVar[bool] = True

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model whose last k layers depend on retained images only."""
        del forget, statistics
        init_key, train_key = jax.random.split(rng)
        start = fresh_variables(model, data.images.shape[1:], init_key)
        return train_last_layers(self, model, start, data, train_key)
