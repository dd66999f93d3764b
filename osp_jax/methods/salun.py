"""SalUn: random labels, where only the parameters that most affect the loss of the forgotten images may change.

Fan et al.: SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and
Generation, ICLR 2024, arXiv 2310.12508. Defaults are those of its code (github.com/OPTML-Group/Unlearn-Saliency,
Classification): the mask of generate_mask.py, one threshold over all parameters on the absolute sum of the batch
gradients in eval mode, then RL.py as in `random_label.py`. Masked parameters stay exactly the same, also under weight
decay, as in its later version. That code augments the images of the gradient; this one does not.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.importance import filled_batches, loss_gradient, smallest, summed
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.relabelled import Relabelling, descend_relabelled
from osp_jax.model import Model
from osp_jax.statistics import Statistics
from osp_jax.training.descent import in_eval_mode


@dataclasses.dataclass(frozen=True)
class Salun(Relabelling):
    """Random labels, where only the parameters that matter most to the forgotten images may change."""

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    search: ClassVar[Mapping[str, Any]] = {
        "learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1),
        "fraction": (0.1, 0.3, 0.5, 0.8),
        "epochs": (5, 10),
    }

    fraction: float = option(
        0.5,
        "share of the parameters that may change",
        low=0,
        high=1,
        source="Unlearn-Saliency, Classification/README.md: mask/with_0.5.pt",
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
        """Returns the model with changes in `fraction` of the parameters, and in the running statistics."""
        batches = filled_batches(data.forget(), self.batch_size)
        term = loss_gradient(in_eval_mode(model), data.preparation)
        mask = saliency_mask(summed(term, model, batches, data.images, data.labels), self.fraction)
        return descend_relabelled(self, model, forget, data, statistics.classes_seen(), rng, mask)


def saliency_mask(gradient: Any, fraction: float) -> Any:
    """1 at the `fraction` of all entries that are largest in magnitude, else 0; float32, a pytree like `gradient`."""
    flat, unravel = ravel_pytree(gradient)
    return unravel(smallest(-jnp.abs(flat), int(fraction * flat.size)).astype(jnp.float32))
