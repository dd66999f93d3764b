"""Deep Unlearning: projects the forgotten classes' part of the input space out of every layer, without gradients.

Kodge, Saha and Roy, Deep Unlearning: Fast and Efficient Gradient-free Approach to Class Forgetting, TMLR 2024
(arXiv 2312.00761); defaults are those of their code for CIFAR-10 (github.com/sangamesh-kodge/class_forgetting).

For every convolution and dense layer, the columns of R are the layer's inputs (for a convolution: patches), not
centred, with singular values s_i and left singular vectors U. With v_i = s_i^2 / sum_j s_j^2 and an importance
lambda_i = alpha v_i / ((alpha - 1) v_i + 1), P = U diag(lambda) U^T; P_r of retained and P_f of forgotten images give
M = I - (P_f - P_f P_r), and the layer's weight W (outputs x inputs) becomes W M^T. All P are those of the original
network, in eval mode; biases and norms stay.

No decomposition is needed: with the normalised moments C = R R^T / trace(R R^T), P = alpha C ((alpha - 1) C + I)^-1,
the same for any U, so each layer takes two solves of symmetric positive definite systems with W^T on the right side.

Ours: C is summed over batches of images, so that memory does not grow with their number; the patches to keep are drawn
evenly from the batches; a layer whose inputs are all zero on one side has P = 0 on it (theirs is not a number); several
forgotten classes share the forgotten samples evenly. Layers are found in the traced program, including those of
attention; grouped convolutions and kernels that are computed from leaves stay as they are.
"""

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.moments import matmul, second_moment, sum_over_batches
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.candidates import module_of
from osp_jax.program.gates import Gates
from osp_jax.program.layer_inputs import (
    Layer,
    find_layers,
    input_rows,
    kernel_matrix,
    layer_inputs,
    write_matrix,
)
from osp_jax.runtime.errors import InputError, shown
from osp_jax.statistics import Statistics
from osp_jax.trees import edited, leaves_by_path


@dataclasses.dataclass(frozen=True)
class Subspace(Method):
    """Projects the forgotten classes' part of the input space out of every layer.

    The random draws depend only on the key of the request.
    """

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    # Grid of the authors' sensitivity script, our_hyper_parameter_tuning.sh.
    search: ClassVar[Mapping[str, Sequence[Any]]] = {
        "alpha_retain": (10.0, 30.0, 100.0, 300.0, 1000.0),
        "alpha_forget": (1.0, 3.0, 10.0, 30.0, 100.0),
    }

    # Beyond these bounds the float32 moments, exact to about 1e-7 of their trace, are too coarse for the solve.
    alpha_retain: float = option(
        100.0, "alpha of the retained images' projection", low=1e-3, high=1e5, source="main.py: --our-alpha-r"
    )
    alpha_forget: float = option(
        3.0, "alpha of the forgotten images' projection", low=1e-3, high=1e5, source="main.py: --our-alpha-f"
    )
    samples: int = option(
        900,
        "forgotten images, and retained images of all classes together",
        low=1,
        source="main.py: --our-samples",
    )
    augment: bool = option(
        True, "augment the images as in training", source="main.py: the training loader; --no-train-transform"
    )
    window: bool = option(
        True,
        "take patches from a random window three kernels wide; False: from all of the map (ours)",
        source="model_utils.py",
    )
    max_patches: int = option(
        10_000, "patches of a layer, drawn at random; 0: all (ours)", low=0, source="main.py: --our-max-patches"
    )
    layers: str = option("", "a regular expression on module paths; empty: every layer, as in the code", source="ours")
    batch_size: int = option(100, "images in a batch", low=1, source="ours; the code has one batch of all samples")

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.layers)
        except re.error as error:
            raise InputError(f"option layers {shown(self.layers)} is not a regular expression: {error}") from error

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` if `layers` matches no leaf that could be a kernel."""
        del gates
        kernels = [path for path, leaf in leaves_by_path(model.variables).items() if len(leaf.shape) > 1]
        if not any(re.search(self.layers, module_of(path)) for path in kernels if model.is_parameter(path)):
            raise _unmatched(self.layers)

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns the model with the kernel of every chosen layer projected; all moments are of the given model."""
        retained_classes = max(len(np.setdiff1d(statistics.classes_seen(), forget)), 1)
        draw_key, retain_key, forget_key = jax.random.split(rng, 3)
        retained = data.retain(max(self.samples // retained_classes, 1))  # the first of each class, as in their code
        forgotten = data.forget(max(self.samples // len(forget), 1), draw_key)  # a random draw, as in their code
        layers = chosen_layers(model, data.images.shape[1:], self.layers)
        retain_moments = input_moments(model, layers, data, retained, self, retain_key)
        forget_moments = input_moments(model, layers, data, forgotten, self, forget_key)
        leaves = leaves_by_path(model.variables)
        for calls, *moments in zip(layers, retain_moments, forget_moments, strict=True):
            layer = calls[0]  # one layer at a time: the widest in a ResNet-18 has 4,608 inputs
            kernel = kernel_matrix(layer, leaves[layer.path])
            projected = project_kernel(kernel, *moments, self.alpha_retain, self.alpha_forget)
            leaves[layer.path] = write_matrix(layer, leaves[layer.path], projected)
        return model.replace(
            variables=edited(model.variables, {calls[0].path: leaves[calls[0].path] for calls in layers})
        )


class Sampling(NamedTuple):
    """Which rows of a layer count; `patches`: the most per layer and batch, 0 for all. Hashable."""

    window: bool
    patches: int


def _unmatched(layers: str) -> InputError:
    return InputError(f"layers {shown(layers)} matches no convolution or dense layer; use layers='' for all")


def chosen_layers(model: Model, image_shape: tuple[int, ...], layers: str) -> tuple[tuple[Layer, ...], ...]:
    """The layers whose module path matches `layers`, each with all its calls.

    Raises:
      InputError: no layer matches.
    """
    found: dict[tuple[str, bytes], list[Layer]] = {}
    leaves = leaves_by_path(model.variables)
    for layer in find_layers(model.apply, model.variables, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)):
        if model.is_parameter(layer.path) and re.search(layers, module_of(layer.path)):
            leaf = leaves[layer.path]
            places = kernel_matrix(layer, jnp.arange(leaf.size).reshape(leaf.shape))  # several kernels may share a leaf
            found.setdefault((layer.path, np.asarray(places).tobytes()), []).append(layer)
    if not found:
        raise _unmatched(layers)
    return tuple(map(tuple, found.values()))


def input_moments(
    model: Model,
    layers: tuple[tuple[Layer, ...], ...],
    data: RequestData,
    indices: np.ndarray,
    settings: Subspace,
    rng: jax.Array,
) -> list[jax.Array]:
    """R R^T of each of `layers` on the images `indices` `(n,)`, float32 `(inputs, inputs)`."""
    batches = -(-len(indices) // settings.batch_size)
    patches = max(settings.max_patches // batches, 1) if settings.max_patches else 0
    function = partial(
        batch_moments,
        model.variables,
        data.images,
        rng,
        apply=model.apply,
        layers=layers,
        preparation=data.preparation if settings.augment else data.preparation.without_augmentation(),
        sampling=Sampling(settings.window, patches),
    )
    return sum_over_batches(function, indices, settings.batch_size, rng)


@partial(jax.jit, static_argnames=("apply", "layers", "preparation", "sampling"))
def batch_moments(
    variables: Any,
    images: jax.Array,
    window_key: jax.Array,
    indices: jax.Array,
    weights: jax.Array,
    key: jax.Array,
    *,
    apply: Callable[[Any, jax.Array], jax.Array],
    layers: tuple[tuple[Layer, ...], ...],
    preparation: Preparation,
    sampling: Sampling,
) -> list[jax.Array]:
    """R R^T of a batch of uint8 `images[indices]`, by layer, float32 `(inputs, inputs)`.

    Args:
      window_key: key of the windows' positions, one per layer, the same in every batch.
      weights: 0/1 `(batch,)`; images of weight 0 do not count.
      key: of the augmentation and of the choice of patches.
    """
    augment_key, patch_key = jax.random.split(key)
    calls = [layer for of_layer in layers for layer in of_layer]
    read = layer_inputs(apply, variables, preparation.augmented(images[indices], augment_key), calls)
    inputs = {layer.number: value for layer, value in zip(calls, read, strict=True)}

    def moment(layer: Layer) -> jax.Array:
        place, value = zlib.crc32(module_of(layer.path).encode()), inputs[layer.number]
        if sampling.window and layer.window:
            value = random_window(layer, value, jax.random.fold_in(window_key, place))
        rows = input_rows(layer, value)
        counts = jnp.repeat(weights, len(rows) // len(weights))
        if sampling.patches and layer.window and len(rows) > sampling.patches:
            place_key = jax.random.fold_in(patch_key, place)
            kept = jax.random.choice(place_key, len(rows), (sampling.patches,), replace=False)
            rows, counts = rows[kept], counts[kept]
        return second_moment(rows.astype(jnp.float32) * counts[:, None])

    return [sum(moment(layer) for layer in of_layer) for of_layer in layers]


def random_window(layer: Layer, inputs: jax.Array, key: jax.Array) -> jax.Array:
    """A convolution's input `(batch, ..., channels)`, cropped along each axis to at most three times the kernel.

    All images share one position, drawn uniformly.
    """
    first = inputs.ndim - 1 - len(layer.window)
    for axis, k in enumerate(layer.window, start=first):
        room = inputs.shape[axis] - 3 * k
        if room > 0:
            start = jax.random.randint(jax.random.fold_in(key, axis), (), 0, room + 1)
            inputs = lax.dynamic_slice_in_dim(inputs, start, 3 * k, axis)
    return inputs


@jax.jit
def project_kernel(
    kernel: jax.Array, retain: jax.Array, forget: jax.Array, alpha_retain: jax.Array, alpha_forget: jax.Array
) -> jax.Array:
    """W^T -> M W^T for a kernel `(..., outputs)`; `retain` and `forget` are R R^T, `(inputs, inputs)`."""
    rows = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.float32)
    beside = rows - project(retain, alpha_retain, rows)  # (I - P_r) W^T
    return (rows - project(forget, alpha_forget, beside)).reshape(kernel.shape).astype(kernel.dtype)


def project(moment: jax.Array, alpha: jax.Array, rows: jax.Array) -> jax.Array:
    """P `rows` `(inputs, outputs)` from R R^T; 0 if R is 0."""
    trace = jnp.trace(moment)
    energy = moment / jnp.where(trace > 0, trace, 1)
    system = (alpha - 1) * energy + jnp.eye(len(energy))
    return alpha * jax.scipy.linalg.solve(system, matmul(energy, rows), assume_a="pos")
