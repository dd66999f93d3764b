"""SSD: dampens parameters that matter more to the forgotten images than to all images, without training.

Foster, Schoepf, Brintrup: Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, AAAI 2024,
arXiv 2308.07707. With the diagonal importances I_all of the whole training set and I_forget of the forgotten images, a
parameter with I_forget > alpha I_all is multiplied by min(lambda I_all / I_forget, 1).

Defaults and details are those of the authors' code for full classes (github.com/if-loops/selective-synaptic-dampening):
all parameters, eval mode, no augmentation, and importances that are the mean of squared batch gradients instead of the
paper's Fisher information, so that they depend on the batches. The code's batches run class by class, so that I_all is
at least about I_forget times the share of forgotten images: on 10 equal classes an alpha of 10 selects almost nothing.
Mixed batches (`shuffled`, as in github.com/sangamesh-kodge/class_forgetting) remove that bound and need a larger alpha.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.draws import host_generator
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.importance import mean_squared_gradient
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.statistics import Statistics
from osp_jax.training.descent import split_variables
from osp_jax.trees import combine


@dataclasses.dataclass(frozen=True)
class Ssd(Method):
    """Dampens the parameters that matter more to the forgotten images than to all images."""

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    search: ClassVar[Mapping[str, Any]] = {
        "alpha": (5.0, 7.0, 10.0, 25.0, 50.0, 100.0),
        "dampening": (0.1, 1.0, 5.0),
        "shuffled": (False, True),
    }

    alpha: float = option(
        10.0,
        "dampen a parameter if its importance for the forgotten images exceeds alpha times that for all",
        low=0,
        source="authors' forget_full_class_main.py: selection_weighting (for 20 and 100 classes)",
    )
    dampening: float = option(
        1.0,
        "lambda of the paper, the factor on the ratio of importances",
        low=0,
        source="authors' forget_full_class_main.py: dampening_constant",
    )
    batch_size: int = option(
        64,
        "images in a batch; 1 gives the paper's Fisher diagonal of single images",
        low=1,
        source="authors' forget_full_class_main.py: -b",
    )
    shuffled: bool = option(
        False, "mix the classes in a batch; False: class by class", source="authors' code for full classes"
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
        """Returns the model with dampened parameters; running statistics stay."""
        del forget, statistics
        labels, draw = np.asarray(data.labels), host_generator(rng)

        def ordered(indices: np.ndarray) -> np.ndarray:
            return draw.permutation(indices) if self.shuffled else indices[np.argsort(labels[indices], kind="stable")]

        of_forget = ordered(data.forget())
        of_all = np.concatenate([ordered(data.retain()), of_forget])  # forgotten classes last, as in the code
        of_all = draw.permutation(of_all) if self.shuffled else of_all
        forget_importance, importance = (
            mean_squared_gradient(model, data, indices, self.batch_size) for indices in (of_forget, of_all)
        )
        params, rest = split_variables(model)
        params = dampened(params, importance, forget_importance, self.alpha, self.dampening)
        return model.replace(variables=combine(params, rest))


@jax.jit
def dampened(params: Any, importance: Any, forget_importance: Any, alpha: Any, dampening: Any) -> Any:
    """`params` after damping; `importance` is that of all images; float32 pytrees of one structure."""

    def leaf(parameter: jax.Array, of_all: jax.Array, of_forget: jax.Array) -> jax.Array:
        chosen = of_forget > alpha * of_all
        factor = jnp.minimum(dampening * of_all / jnp.where(chosen, of_forget, 1), 1)
        return parameter * jnp.where(chosen, factor, 1)

    return jax.tree.map(leaf, params, importance, forget_importance)
