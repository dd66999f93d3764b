"""The computations of a client: local training, and sums over its own images, which are all that it sends."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.data.draws import host_generator
from osp_jax.methods.parts.filters import filter_outputs, filters
from osp_jax.methods.parts.groups import chosen_groups
from osp_jax.methods.parts.importance import filled_batches
from osp_jax.methods.parts.options import check_choices, check_options
from osp_jax.model import Model
from osp_jax.program.gates import Gates, capture, gates_of, noise_images
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.statistics import REDUCTIONS
from osp_jax.training import orthogonality
from osp_jax.training.descent import (
    Forward,
    Loss,
    Optimiser,
    epoch_of,
    in_train_mode,
    split_variables,
    start_of,
)
from osp_jax.training.loss import cross_entropy
from osp_jax.trees import combine

SOURCES = ("gates", "filters")
GROUPINGS = ("class", "forget", "class+forget")


class ClientData(NamedTuple):
    """The images of one client, or of several, padded to equal lengths and stacked along a first axis.

    `images` uint8 `(n, h, w, c)` and `labels` int32 `(n,)`, on the device; `present` bool `(n,)`, on the host: False
    for padding, and for images that are left out of the training.
    """

    images: jax.Array
    labels: jax.Array
    present: np.ndarray


@dataclasses.dataclass(frozen=True)
class LocalTraining:
    """The local training of one exchange: SGD or Adam on

        cross-entropy + penalty_weight * penalty(kernels) + align * ||W - reference||^2.

    The last term is that of FedProx (Li et al., 2020, arXiv 1812.06127) if the reference is the received model, with
    align = mu / 2. The state of the optimiser is reset in each exchange.
    """

    optimiser: str = "sgd"  # or 'adam'
    learning_rate: float = 0.05
    momentum: float = 0.9  # for 'sgd'
    weight_decay: float = 0.0  # on kernels only
    batch_size: int = 32
    epochs: int = 1  # over the client's images
    steps: int = 0  # if above 0, replaces the epochs
    penalty: str = "none"  # of `training.orthogonality`
    penalty_weight: float = 0.0
    penalty_layers: str = ""  # regular expression on the module path; empty: every convolution
    align: float = 0.0  # over all parameters
    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        """Raises `InputError` for a setting out of range."""
        check_choices(self, optimiser=("sgd", "adam"), penalty=tuple(orthogonality.PENALTIES))
        check_options(self, learning_rate=(0, None), momentum=(0, 1), weight_decay=(0, None), batch_size=(1, None))
        check_options(self, epochs=(0, None), steps=(0, None), penalty_weight=(0, None), align=(0, None), pad=(0, None))

    @property
    def trains(self) -> bool:
        """Whether a client takes any gradient step."""
        return self.epochs > 0 or self.steps > 0


class Update(NamedTuple):
    """A client's answer to a training request: its variables, the number of training images, and `metrics`, scalars by
    name: 'loss', the mean over the steps."""

    variables: Any
    num_examples: int
    metrics: dict[str, float]


class Query(NamedTuple):
    """A server's query for sums; hashable.

    Attributes:
      source: 'gates', channel groups behind the activation, or 'filters', rectified outputs of single layers in front
        of any norm.
      reduction: reduction of a map to a number, 'mean' or 'max'.
      layers: 'all', 'last', or a regular expression on group names.
      groups: number of groups of images.
    """

    source: str = "gates"
    reduction: str = "max"
    layers: str = "all"
    groups: int = 2


class Sums(NamedTuple):
    """Over images, by group: `count` float32 `(groups,)` and, by layer, `sums` float32 `(groups, channels)`.

    The sums of several clients are added (`server.total`).
    """

    count: np.ndarray
    sums: Mapping[str, np.ndarray]


def client_update(
    model: Model,
    data: ClientData,
    key: jax.Array,
    settings: LocalTraining,
    *,
    reference: Any = None,
    mask: Any = None,
) -> Update:
    """Trains the received model on the client's images.

    Args:
      model: the model with the received variables, inserted by `model.replace(variables=...)`.
      data: the data of this client only.
      key: the key of this client in this exchange (`rounds.client_key`); it determines every random number.
      settings: the settings of this exchange.
      reference: variables towards which `settings.align` pulls the parameters; None: the received ones.
      mask: factors on every update, as in `training.descent.descend`; None: all parameters change.

    Returns:
      the new variables, the number of training images, and metrics.

    Raises:
      InputError: the client has no training image, or the network cannot be trained.
    """
    order_key, step_key = jax.random.split(key)
    indices = np.flatnonzero(data.present)
    order = local_order(indices, settings, order_key)
    params, rest = split_variables(model)
    towards = params if reference is None else split_variables(model.replace(variables=reference))[0]
    metrics: dict[str, float] = {}
    if len(order):
        steps = {"indices": order, "rate": np.full(len(order), settings.learning_rate, np.float32)}
        optimiser = optimiser_of(settings)
        state = start_of(optimiser)(params, rest)
        arguments = jnp.asarray(data.images), jnp.asarray(data.labels), towards if settings.align else None
        state, history = epoch_of(local_loss_of(model, settings), optimiser)(state, steps, step_key, mask, arguments)
        params, rest = state.params, state.batch_stats
        metrics = {"loss": float(np.mean(history["loss"]))}
    return Update(combine(params, rest), len(indices), metrics)


def local_order(indices: np.ndarray, settings: LocalTraining, key: jax.Array) -> np.ndarray:
    """The images of each step, int32 `(steps, batch)`: random orders of `indices`, one per epoch.

    Images from the start of an epoch pad its last batch, repeatedly if needed, so that all batches of all clients have
    one size and each epoch contains each image.

    Raises:
      InputError: there is no image.
    """
    if not len(indices):
        raise InputError("a client without images cannot train; leave it out of the round")
    batch, draw = settings.batch_size, host_generator(key)
    each = -(-len(indices) // batch)
    epochs = -(-settings.steps // each) if settings.steps else settings.epochs
    orders = [np.resize(draw.permutation(indices), (each, batch)) for _ in range(epochs)]
    order = np.concatenate([np.zeros((0, batch), np.int64), *orders]).astype(np.int32)
    return order[: settings.steps] if settings.steps else order


def optimiser_of(settings: LocalTraining) -> Optimiser:
    """The optimiser of the local steps, as `training.descent` takes it."""
    return Optimiser(settings.optimiser, settings.momentum, weight_decay=settings.weight_decay)


def local_loss_of(model: Model, settings: LocalTraining) -> Loss:
    """The loss `(params, rest, batch, key, images, labels, reference)` of a step; the same object for equal settings.

    Raises:
      InputError: the network cannot be trained further.
    """
    if model.train_apply is None:
        raise InputError("the network cannot be trained; federated training needs a model with train_apply")
    preparation = Preparation(tuple(model.mean), tuple(model.std), settings.pad, settings.flip)
    penalty = settings.penalty, settings.penalty_weight, settings.penalty_layers
    return _local_loss(in_train_mode(model), preparation, penalty, settings.align)


@lru_cache(maxsize=32)
def _local_loss(forward: Forward, preparation: Preparation, penalty: tuple[str, float, str], align: float) -> Loss:
    name, weight, layers = penalty

    def loss(
        params: Any, rest: Any, batch: Any, key: jax.Array, images: jax.Array, labels: jax.Array, reference: Any
    ) -> Any:
        inputs = preparation.augmented(images[batch["indices"]], key)
        logits, rest = forward(params, rest, inputs, key)
        value = cross_entropy(logits, labels[batch["indices"]])
        if weight and name != "none":
            value += weight * orthogonality.penalty(params.get("params", params), name, layers)
        if align:
            away = jax.tree.map(lambda p, r: jnp.sum((p - r) ** 2), params, reference)
            value += align * sum(jax.tree.leaves(away))
        return value, rest

    return loss


def groups_of(data: ClientData, forget: np.ndarray, grouping: str) -> np.ndarray:
    """The group of each image of a client, int64 `(n,)`.

    Args:
      forget: bool `(n,)`, the images to forget.
      grouping: 'class'; 'forget', 1 for images to forget, else 0; or 'class+forget', 2 * class + that.

    Raises:
      InputError: an unknown grouping.
    """
    labels, flags = np.asarray(data.labels, np.int64), np.asarray(forget, np.int64)
    found = {"class": labels, "forget": flags, "class+forget": 2 * labels + flags}
    if grouping not in found:
        raise unknown("grouping", grouping, GROUPINGS)
    return found[grouping]


def client_query(model: Model, data: ClientData, groups: np.ndarray, query: Query) -> Sums:
    """Sums of channel activations over the client's images, by group; zeros for a client without images.

    Args:
      model: the model with the received variables.
      data: the data of this client only.
      groups: int `(n,)`, the group of each image by the server's rule (`groups_of`); -1: none.
      query: the server's query.

    Returns:
      counts and sums by group.

    Raises:
      InputError: an unknown source, reduction or layer.
    """
    units = units_of(model, data.images.shape[1:], query)
    groups = np.where(data.present, groups, -1)
    indices = np.flatnonzero(groups >= 0)
    total = {unit.name: np.zeros((query.groups, unit.channels)) for unit in units.groups}
    add = _batch_sums(model.apply, units, query, Preparation(tuple(model.mean), tuple(model.std)))
    batches = filled_batches(indices, min(256, len(data.labels))) if len(indices) else {"indices": [], "weights": []}
    for batch, weights in zip(batches["indices"], batches["weights"], strict=True):
        one_hot = np.where(weights > 0, groups[batch], -1)[:, None] == np.arange(query.groups)
        found = add(model.variables, jnp.asarray(data.images), batch, one_hot.astype(np.float32))
        total = {name: sums + np.asarray(found[name], np.float64) for name, sums in total.items()}
    count = np.bincount(groups[indices], minlength=query.groups).astype(np.float32)
    return Sums(count, {name: sums.astype(np.float32) for name, sums in total.items()})


def units_of(model: Model, image_shape: tuple[int, ...], query: Query) -> Gates:
    """The channel groups, or filters, of a query, as the groups of `Gates`."""
    if query.reduction not in REDUCTIONS:
        raise unknown("reduction", query.reduction, REDUCTIONS)
    if query.source not in SOURCES:
        raise unknown("source", query.source, SOURCES)
    gates = gates_of(model.apply, model.variables, noise_images(tuple(image_shape)))
    if query.source == "filters":
        return filters(gates, query.layers)
    chosen = chosen_groups(gates, query.layers)
    return dataclasses.replace(gates, groups=tuple(group for group in gates.groups if group.name in chosen))


@lru_cache(maxsize=16)
def _batch_sums(apply: Callable, units: Gates, query: Query, preparation: Preparation) -> Any:
    reduce = {"mean": jnp.mean, "max": jnp.max}[query.reduction]

    @jax.jit
    def add(variables: Any, images: jax.Array, indices: jax.Array, one_hot: jax.Array) -> dict[str, jax.Array]:
        inputs = preparation.plain(images[indices])
        if query.source == "filters":
            found = jax.tree.map(jax.nn.relu, filter_outputs(apply, units, variables, inputs))
        else:
            found = capture(apply, units, variables, inputs)[1]
        flat = {name: v.astype(jnp.float32).reshape(len(v), -1, v.shape[-1]) for name, v in found.items()}
        product = partial(jnp.matmul, one_hot.T, precision=jax.lax.Precision.HIGHEST)
        return {name: product(reduce(values, axis=1)) for name, values in flat.items()}

    return add
