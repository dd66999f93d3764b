"""Trains the last k layers of any network on retained images and freezes the rest; shared by EU-k and CF-k.

Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning", arXiv 2201.06640. As in their code
(github.com/shash42/Evaluating-Inexact-Unlearning), a layer is a convolution or dense layer; here, any kernel that a
product or convolution of the traced program reads, counted from the end of the forward pass. Other parameters behind
the first of them, such as norms, are trained too. The rate falls along a cosine in cycles of 1, 2, 4, ... epochs, so
that 2**n - 1 epochs end at a low rate.

Ours: frozen batch norms use their running statistics, which do not change (theirs follow the retained images);
gradients are not clipped (theirs at a norm of 10).
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.model import Model
from osp_jax.program.candidates import module_of
from osp_jax.program.flat import flatten
from osp_jax.program.scaling import Program
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import (
    Forward,
    Optimiser,
    TrainApply,
    descend,
    epoch_batches,
    split_variables,
)
from osp_jax.trees import edited, leaf_paths, leaves_by_path, pruned


@dataclasses.dataclass(frozen=True)
class LastLayers(Method):
    """Settings of `euk` and `cfk`."""

    sees: ClassVar[tuple[str, ...]] = ("retain",)
    trains: ClassVar[bool] = True

    k: int = option(
        1, "last layers to train", low=1, source="Goel et al., unlearn.py: minL; they try 1 to 50 of up to 110 layers"
    )
    epochs: int = option(62, "passes over the retained images", low=0, source="Goel et al., unlearn.py: --epochs-rf")
    learning_rate: float = option(0.1, "highest learning rate of SGD", low=0, source="Goel et al., learn.py: --maxlr")
    floor: float = option(
        0.05, "lowest rate, divided by the highest", low=0, high=1, source="Goel et al., learn.py: --minlr 0.005"
    )
    batch_size: int = option(64, "images in a batch", low=1, source="Goel et al., learn.py: --batch-size")
    momentum: float = option(0.9, "momentum of SGD", low=0, high=1, source="Goel et al., learn.py: --momentum")
    weight_decay: float = option(
        5e-5, "weight decay, on kernels only (ours)", low=0, source="Goel et al., learn.py: --weight-decay"
    )

    def check(self, model: Model, channels: Any) -> None:
        """Raises `InputError` for a network of fewer than `k` layers."""
        del channels
        params, _ = split_variables(model)
        layers = {module_of(path) for path, leaf in leaves_by_path(params).items() if leaf.ndim > 1}
        self.check_depth(len(layers))

    def check_depth(self, layers: int) -> None:
        """Raises `InputError` for a network of fewer than `k` layers."""
        if self.k > layers:
            raise InputError(f"option k is {self.k} and the network has {layers} layers; give at most as many")


def train_last_layers(method: LastLayers, model: Model, start: Any, data: RequestData, rng: jax.Array) -> Model:
    """Trains the last `method.k` layers of the model on retained images, from the variables `start`."""
    method.check(model, None)
    order_key, step_key = jax.random.split(rng)
    order = leaves_in_order(model, data.images.shape[1:])
    method.check_depth(sum(is_kernel for _, is_kernel in order))
    trained = last_leaves(order, method.k)
    batches = epoch_batches(data.retain(), method.batch_size, method.epochs, order_key)
    rates = restart_rates(method.learning_rate, method.floor, method.epochs)
    variables = descend(
        retain_loss(Forward(PartlyTraining(model.train_apply, trained), train=True), data.preparation),
        model.replace(
            variables=edited(model.variables, pruned(start, trained)),
            is_parameter=lambda path: path in trained and model.is_parameter(path),
        ),
        {"indices": batches},
        np.repeat(rates, len(batches) // max(method.epochs, 1)),
        step_key,
        optimiser=Optimiser(momentum=method.momentum, weight_decay=method.weight_decay),
        arguments=(data.images, data.labels),
    )
    return model.replace(variables=variables)


def last_leaves(order: tuple[tuple[str, bool], ...], k: int) -> frozenset[str]:
    """Paths of the leaves from the last but `k - 1` kernel on; `order` is that of `leaves_in_order`."""
    kernels = [i for i, (_, is_kernel) in enumerate(order) if is_kernel]
    return frozenset(path for path, _ in order[kernels[-k] :])


@dataclasses.dataclass(frozen=True)
class PartlyTraining:
    """A `train_apply` that changes only the leaves at the paths `trained`.

    In Flax Linen, frozen batch norms use their running statistics. In other frameworks frozen norms are not
    distinguishable: all normalise by the batch, as in train mode, but the running statistics of frozen ones stay.
    """

    train_apply: TrainApply
    trained: frozenset[str]

    def __call__(self, variables: Any, images: jax.Array, rng: jax.Array) -> tuple[jax.Array, Any]:
        with nn.intercept_methods(partial(_keep_running_statistics, self.trained)):
            logits, new = self.train_apply(variables, images, rng)
        leaves = leaves_by_path(new)
        return logits, edited(variables, {path: leaves[path] for path in self.trained})


def _keep_running_statistics(trained: frozenset[str], next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    trains = isinstance(module, nn.BatchNorm) and context.method_name == "__call__" and not module.use_running_average
    if not trains or "/".join(("batch_stats", *module.path, "mean")) in trained:
        return next_fun(*args, **kwargs)
    # A copy, because the mode may be set in the module or in the call, but not in both.
    frozen = module.clone(parent=None, use_running_average=True)
    return frozen.apply(module.variables, args[0])


def leaves_in_order(model: Model, image_shape: tuple[int, ...]) -> tuple[tuple[str, bool], ...]:
    """(path, whether it is a kernel) of each leaf of `model.variables` that the network reads, in the order of the
    forward pass in eval mode.

    A leaf counts at its last operation with a value that depends on the images. A kernel is a parameter of two axes or
    more that is multiplied there, in a product or a convolution.
    """
    shapes = jax.eval_shape(lambda variables: variables, model.variables)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    program = Program(flatten(model.apply, shapes, images), leaf_paths(shapes))
    found = []
    for path, leaf in program.leaves.items():
        reads = _reads(program, leaf)
        products = [number for number in reads if reads[number] is not None]
        is_kernel = bool(products) and leaf.aval.ndim > 1 and model.is_parameter(path)
        if reads:
            found.append((max(products if is_kernel else reads), not is_kernel, path))
    return tuple((path, not other) for _, other, path in sorted(found, key=lambda place: place[:2]))


def _reads(program: Program, leaf: Any) -> dict[int, int | None]:
    """The equations, by number, that combine a leaf, or a value that depends on it and variables only, with a value
    that depends on the images; for a product with it as the kernel, the operand number."""
    found: dict[int, int | None] = {}
    seen, waiting = {leaf}, [leaf]
    while waiting:
        var = waiting.pop()
        for number in program.uses.get(var, []):
            equation = program.equations[number]
            if equation.outvars[0] in program.seen:
                side = program.kernels.get(number)
                if side is not None and equation.invars[side] is var:
                    found[number] = side
                else:
                    found.setdefault(number, None)
            else:
                fresh = [out for out in equation.outvars if out not in seen]
                seen |= set(fresh)
                waiting.extend(fresh)
    return found


def restart_rates(peak: float, floor: float, epochs: int) -> np.ndarray:
    """The rate of each epoch, float64 `(epochs,)`: half a cosine from `peak` towards `floor * peak`, in cycles of 1, 2,
    4, ... epochs (SGDR, Loshchilov and Hutter, 2017, arXiv 1608.03983, equation 5)."""
    epoch = np.arange(1, epochs + 1)
    cycle = 2 ** np.floor(np.log2(epoch))
    return peak * (floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * (epoch / cycle - 1))))
