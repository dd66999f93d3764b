"""Fisher forgetting: adds noise to each parameter, more where the retained images need it less.

Golatkar, Achille, Soatto: Eternal Sunshine of the Spotless Net, CVPR 2020, arXiv 1911.04933. The variance is alpha / F
with F the diagonal Fisher information of the retained images, in expectation over the network's own labels. As in the
authors' code (github.com/AdityaGolatkar/SelectiveForgetting) for a whole class, 1 / F is clipped at 1000, in the head
at 100, then averaged over a kernel's inputs; biases, norms and the head get ten times the variance. The forgotten
class's weights and bias in the head become noise around 0, whatever F is (`erase_row`); this alone can forget the
class.

`rule` 'fisher_new' is the version in github.com/OPTML-Group/Unlearn-Sparse (Jia et al., 2023), which computes F by
batches. 'fisher' is another function there, which none of its commands uses: F by single images and their true labels,
a standard deviation sqrt(alpha / F) of at most 0.001, ten times that for the head's bias, and no special treatment of
the class. That code augments the retained images; this one does not.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.data.draws import host_generator
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.groups import forget_vector
from osp_jax.methods.parts.importance import Term, filled_batches, mean_squared_gradient, summed
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.gates import Head
from osp_jax.program.kernels import kernel_axes
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Forward, in_eval_mode, split_variables
from osp_jax.trees import combine

RULES = ("fisher_new", "fisher")


@dataclasses.dataclass(frozen=True)
class Fisher(Method):
    """Noise on every parameter, larger where the retained images need it less."""

    sees: ClassVar[tuple[str, ...]] = ("retain",)
    search: ClassVar[Mapping[str, Any]] = {"alpha": (1e-8, 1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4)}

    alpha: float = option(
        1e-6,
        "variance of the noise before division by the Fisher information; the default of Unlearn-Sparse, 0.2, leaves "
        "only noise",
        low=0,
        source="authors' Forgetting.ipynb, which tries 1e-8 to 1e-5",
    )
    rule: str = option(
        "fisher_new",
        "which of the two functions of Unlearn-Sparse to follow",
        choices=RULES,
        source="Unlearn-Sparse, README.MD",
    )
    batch_size: int = option(
        32,
        "images in a batch of rule=fisher_new; 1 is exact, as in the authors' code",
        low=1,
        source="Unlearn-Sparse, unlearn/fisher.py",
    )
    erase_row: bool = option(
        True,
        "with rule=fisher_new, replace the forgotten class's weights in the head by noise",
        source="both codes, when a whole class is forgotten",
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
        """Returns the model with noise on every parameter; running statistics stay."""
        if self.rule == "fisher":
            information = mean_squared_gradient(model, data, data.retain(), batch_size=1)
        else:
            information = expected_information(model, data, self.batch_size)
        erased = forget_vector(forget, statistics) * self.erase_row
        params, rest = split_variables(model)
        axes = kernel_axes(model.apply, model.variables, data.images.shape[1:])
        inputs = tuple((path, each.inputs) for path, each in axes.items())
        rule = {"head": statistics.gates.head, "rule": self.rule, "inputs": inputs}
        means, deviations = noise_moments(params, information, erased, self.alpha, **rule)
        draw = host_generator(rng)  # JAX's generator would compile one program per shape
        units = jax.tree.map(lambda mean: draw.standard_normal(mean.shape, np.float32), means)
        return model.replace(variables=combine(_with_noise(means, deviations, units), rest))


def expected_information(model: Model, data: RequestData, batch_size: int) -> Any:
    """Diagonal Fisher information of the retained images, float32, a pytree like `params`.

    For each batch and each label y: the mean probability of y times the squared gradient of the mean log-probability of
    y, summed over the labels; the mean over batches. Exact with batches of one image.
    """
    batches, term = filled_batches(data.retain(), batch_size), _label_information(in_eval_mode(model), data.preparation)
    totals = [summed(term, model, batches, data.images, np.int32(label)) for label in range(model.num_classes)]
    return jax.tree.map(lambda *leaves: sum(leaves) / len(batches["indices"]), *totals)


@partial(jax.jit, static_argnames=("head", "rule", "inputs"))
def noise_moments(
    params: Any,
    information: Any,
    erased: Any,
    alpha: Any,
    *,
    head: Head,
    rule: str,
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = (),
) -> tuple[Any, Any]:
    """(means, standard deviations) of the new parameters, pytrees like `params`.

    Args:
      erased: 0/1 `(classes,)`, the outputs of the head that become noise.
      head: of the network.
      inputs: (path, input axes) of each kernel; for other leaves of two axes or more, the last but one.
    """
    summed = dict(inputs)

    def moments(path: Any, parameter: jax.Array, fisher: jax.Array) -> tuple[jax.Array, jax.Array]:
        name, vector = jax.tree_util.keystr(path, simple=True, separator="/"), parameter.ndim == 1
        in_head = name in (head.kernel, head.bias)
        if rule == "fisher":
            deviation = jnp.minimum(jnp.sqrt(alpha / fisher), 1e-3)
            return parameter, deviation * (10 if in_head and vector else 1)
        variance = alpha * jnp.minimum(1 / (fisher + 1e-8), 1e2 if in_head else 1e3)
        if not vector:
            axes = head.input_axis if in_head else summed.get(name, -2)
            variance = jnp.broadcast_to(variance.mean(axes, keepdims=True), parameter.shape)
        if in_head:
            outputs = -1 if vector else head.output_axis
            gone = jnp.moveaxis(erased.reshape(-1, *[1] * (parameter.ndim - 1)), 0, outputs)
            parameter, variance = jnp.where(gone, 0, parameter), jnp.where(gone, 1e-4, variance)
        return parameter, jnp.sqrt(variance * (10 if in_head or vector else 1))

    pairs = jax.tree_util.tree_map_with_path(moments, params, information)
    return jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0)), pairs)


@lru_cache(maxsize=8)
def _label_information(forward: Forward, preparation: Preparation) -> Term:
    """The term `(params, rest, batch, images, label)`: one label's part of the expected information, in eval mode."""

    def term(params: Any, rest: Any, batch: Any, images: jax.Array, label: jax.Array) -> Any:
        weights = batch["weights"] / batch["weights"].sum()

        def log_likelihood(params: Any) -> tuple[jax.Array, jax.Array]:
            logits, _ = forward(params, rest, preparation.plain(images[batch["indices"]]), jax.random.key(0))
            of_label = jax.nn.log_softmax(logits)[:, label]
            return of_label @ weights, jnp.exp(of_label) @ weights

        gradient, probability = jax.grad(log_likelihood, has_aux=True)(params)
        return jax.tree.map(lambda leaf: probability * leaf**2, gradient)

    return term


@jax.jit
def _with_noise(means: Any, deviations: Any, units: Any) -> Any:
    return jax.tree.map(lambda mean, deviation, unit: mean + deviation * unit, means, deviations, units)
