"""EU-k: the last k layers are initialised anew and retrained on retained images, so that they are exactly unlearned.

Goel et al., arXiv 2201.06640; layers, schedule and defaults are told in `last_layers.py`. What is trained is set back
with its norms and their running statistics (in the authors' code these start from where they are).
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
    """Retraining of the last k layers on retained images; settings as in `LastLayers`."""

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
        """The model whose last k layers have seen retained images only."""
        del forget, statistics
        init_key, train_key = jax.random.split(rng)
        start = fresh_variables(model, data.images.shape[1:], init_key)
        return train_last_layers(self, model, start, data, train_key)
