"""The training state, and the optimiser that updates it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from osp_jax.runtime.errors import unknown

OPTIMISERS = ("sgd", "adamw")


@struct.dataclass
class TrainState:
    """`step`: int32 scalar, number of updates; `params`, `batch_stats`, `opt_state`: pytrees of float32."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}


def is_kernel(params: Any) -> Any:
    """A pytree of booleans: True for kernels, False for biases (attention's have two axes) and channel scales."""

    def is_one(path: Any, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True).rpartition(".")[2]  # in a flat key, 'layer1.conv1.weight'
        return leaf.ndim > 1 and name != "bias"

    return jax.tree_util.tree_map_with_path(is_one, params)


def is_norm_bias(params: Any) -> Any:
    """A pytree of booleans: True for biases of norms, which have a scale next to them."""
    flat = flatten_dict(params)
    return unflatten_dict({path: path[-1] == "bias" and (*path[:-1], "scale") in flat for path in flat})


def create_optimiser(
    schedule: optax.Schedule,
    momentum: float,
    weight_decay: float,
    norm_bias_rate: float = 1.0,
    *,
    name: str = "sgd",
) -> optax.GradientTransformation:
    """Creates the optimiser `name` of `OPTIMISERS`; weight decay applies to kernels only (no biases, no norms).

    `sgd` has Nesterov momentum, and the decay is added to the gradient. `adamw` (Loshchilov and Hutter, 2019, arXiv
    1711.05101) uses `momentum` as the decay rate of the first moment and 0.999 as that of the second, and subtracts
    `weight_decay` times the learning rate from the weights themselves.

    The learning rate of norm biases is `norm_bias_rate` times that of the others (64 in Page, 2019, "How to train your
    ResNet 8", and Jordan, 2024, arXiv 2404.00498).

    Raises:
      InputError: an unknown name.
    """
    if name not in OPTIMISERS:
        raise unknown("training.optimiser", name, OPTIMISERS)
    # Left out if it has no effect, so that the state matches checkpoints without it.
    faster = [optax.masked(optax.scale(norm_bias_rate), is_norm_bias)] if norm_bias_rate != 1 else []
    if name == "adamw":  # its updates do not scale with the gradient, so the rate applies to the updates
        return optax.chain(optax.adamw(schedule, b1=momentum, weight_decay=weight_decay, mask=is_kernel), *faster)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=is_kernel),
        *faster,
        optax.sgd(schedule, momentum=momentum, nesterov=True),
    )


def create_state(variables: dict[str, Any], optimiser: optax.GradientTransformation) -> TrainState:
    params = variables["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimiser.init(params))
