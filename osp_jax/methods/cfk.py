"""CF-k: fine-tunes the last k layers on retained images and freezes the rest.

Goel et al., arXiv 2201.06640 (catastrophic forgetting); `last_layers.py` describes layers, schedule and defaults.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.last_layers import LastLayers, train_last_layers
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Cfk(LastLayers):
    """Fine-tuning of the last k layers on retained images; settings as in `LastLayers`, with fewer epochs."""

    search: ClassVar[Mapping[str, Any]] = {"k": (1, 3, 6), "epochs": (7, 15, 30), "learning_rate": (0.03, 0.1, 0.2)}

    epochs: int = option(
        30, "passes over the retained images", low=0, source="Goel et al., scripts/cifar10-CRT.sh: epochs_ftF"
    )

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model with its last k layers fine-tuned on retained images."""
        del forget, statistics
        return train_last_layers(self, model, model.variables, data, rng)
