"""FedUP: removes flagged clients by zeroing the weights in which their last models differ most from the others'.

Romandini, Montanari, Foschini and Borcea, arXiv 2508.13853 v1 (2025); not the method of the same name in arXiv
2606.24113. With M and B the means of the flagged and of the other clients' models of the last round, and W the global
model at the start of this round,

    rank = (M - B)^2 * |W|,

and in each dense and convolution kernel of B the top fraction P becomes 0. The weights may grow back in the recovery
rounds with the remaining clients. Where the text is ambiguous, each interpretation is a setting; the default comes
first.

The paper compares it with other ranks for the same mask (`magnitude`: |M|; `random`), with continued training without
the clients (`NaturalForgetting`), and with NoT, which negates the first layer (`Negation`).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.federated.editing import Edit, FederatedMethod, Situation
from osp_jax.federated.requests import Request
from osp_jax.federated.rounds import Exchange
from osp_jax.federated.server import mean_of
from osp_jax.methods.parts.filters import filters, kernel_paths
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.gates import Head, gates_of, noise_images
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import split_variables
from osp_jax.training.state import is_kernel
from osp_jax.trees import edited, leaves_by_path

RANKS = ("fedup", "magnitude", "random")


@dataclasses.dataclass(frozen=True)
class FedUp(FederatedMethod):
    """Starts from the other clients' last models and zeroes the weights of highest rank."""

    levels = ("client",)

    rank: str = option("fedup", "rank of a weight; 'magnitude' and 'random' are for comparison", choices=RANKS)
    rule: str = option("fixed", "P is `fraction`, or 'auto', the paper's rule", choices=("fixed", "auto"))
    fraction: float = option(
        0.1,
        "share P of each kernel that becomes 0, for rule=fixed",
        low=0,
        high=1,
        source="the paper: about 10% for IID clients, 5% for others",
    )
    sign: str = option("abs", "size of W in the rank, or 'signed' as the formula is printed", choices=("abs", "signed"))
    weighting: str = option(
        "samples",
        "weights of the clients in M and B: their images, or 'plain' for equal weights",
        choices=("samples", "plain"),
    )
    rounding: str = option("ceil", "rounding of P * n", choices=("ceil", "floor"))
    similarity: str = option(
        "weights",
        "what rule=auto compares in the last layer; the paper does not say",
        choices=("weights", "updates"),
    )
    similarity_of: str = option("kernel", "part of the last layer that is compared", choices=("kernel", "kernel+bias"))
    least: float = option(0.01, "smallest P of rule=auto", low=0, high=1, source="the paper: P_min")
    most: float = option(0.15, "largest P of rule=auto", low=0, high=1, source="the paper: P_max")
    lowest_similarity: float = option(
        0.5, "similarity at or below which P is smallest", low=-1, high=0.999, source="the paper: SIM_min; SIM_max is 1"
    )
    gamma: float = option(5.0, "exponent of rule=auto", low=0, source="the paper")

    def edit(self, situation: Situation, request: Request) -> Edit:
        """Needs no query: the server has the clients' models of the last round."""
        last, model = situation.last, situation.model
        others = len(last.ids) - check_flagged(last, request.clients)
        about: dict[str, Any] = {"fraction": self.fraction}
        if self.rule == "auto" and others < 2:
            raise InputError("rule=auto compares the other clients' models, and only one answered; use rule=fixed")
        if self.rule == "auto":
            head = gates_of(model.apply, model.variables, noise_images(situation.image_shape)).head
            similarity = mean_similarity(last, request.clients, head, self)
            about = {"fraction": fraction_of(similarity, self), "similarity": similarity}
        variables = pruned(model, last, request.clients, about["fraction"], self, situation.key)
        return Edit(variables, about=about)


@dataclasses.dataclass(frozen=True)
class NaturalForgetting(FederatedMethod):
    """Continues the training of the global model without the forgotten images."""

    levels = ("class", "client", "sample")

    def edit(self, situation: Situation, request: Request) -> Edit:
        """Returns the unchanged global model."""
        del request
        return Edit(situation.model.variables)


@dataclasses.dataclass(frozen=True)
class Negation(FederatedMethod):
    """NoT: negates the kernel of the first layer, then continues the training; as described in FedUP's text."""

    levels = ("class", "client", "sample")
    note = "as described by FedUP's text"

    def edit(self, situation: Situation, request: Request) -> Edit:
        """Returns the global model with its first kernel negated."""
        del request
        model, shape = situation.model, situation.image_shape
        first = filters(gates_of(model.apply, model.variables, noise_images(shape))).groups[0]
        leaves = leaves_by_path(model.variables)
        return Edit(edited(model.variables, {path: -leaves[path] for path in kernel_paths(first)}))


def check_flagged(last: Exchange, flagged: Sequence[int]) -> int:
    """The number of flagged clients that answered in the last round.

    Raises:
      InputError: there are none, or the others are not a strict majority.
    """
    there = set(flagged) & set(last.ids)
    most = (len(last.ids) - 1) // 2
    if not there:
        raise InputError(
            f"none of the flagged clients {sorted(flagged)} answered in the last round (it had {list(last.ids)}); "
            "FedUP needs a model of theirs: run it after a round in which one answered"
        )
    if len(there) > most:
        raise InputError(
            f"{len(there)} of the {len(last.ids)} clients of the last round are flagged; FedUP needs a strict majority "
            f"of others, so flag {most} at most"
        )
    return len(there)


def pruned(
    model: Model, last: Exchange, flagged: Sequence[int], fraction: float, settings: FedUp, key: jax.Array
) -> Any:
    """The variables at the start of the recovery: those of the other clients, the top `fraction` of each kernel 0."""
    bad = np.isin(last.ids, list(flagged))
    counts = last.counts if settings.weighting == "samples" else np.ones_like(last.counts)
    malicious, benign = (mean_of(last.updates, jnp.asarray(counts * chosen, jnp.float32)) for chosen in (bad, ~bad))
    params = split_variables(model)[0]
    kernels = [path for path, is_one in leaves_by_path(is_kernel(params)).items() if is_one]
    M, B, W = (leaves_by_path(tree) for tree in (malicious, benign, last.start))
    changes = {}
    for number, path in enumerate(kernels):
        size = fraction * B[path].size
        marked = int(math.ceil(size) if settings.rounding == "ceil" else math.floor(size))
        rank = rank_of(M[path], B[path], W[path], settings, jax.random.fold_in(key, number))
        changes[path] = without_top(B[path], rank, marked)
    return edited(benign, changes)


def rank_of(M: jax.Array, B: jax.Array, W: jax.Array, settings: FedUp, key: jax.Array) -> jax.Array:
    """The rank of each weight of a kernel; the highest are zeroed."""
    if settings.rank == "random":
        return jax.random.uniform(key, B.shape)
    if settings.rank == "magnitude":
        return jnp.abs(M)
    return (M - B) ** 2 * (jnp.abs(W) if settings.sign == "abs" else W)


def without_top(weights: jax.Array, rank: jax.Array, marked: int) -> jax.Array:
    """`weights` with 0 for the `marked` of highest rank; among equal ranks, the first are zeroed."""
    if not marked:
        return weights
    best = jax.lax.top_k(rank.ravel(), marked)[1]
    return weights.ravel().at[best].set(0).reshape(weights.shape)


def mean_similarity(last: Exchange, flagged: Sequence[int], head: Head, settings: FedUp) -> float:
    """The mean cosine similarity of pairs of other clients, on the last layer."""
    updates, start = leaves_by_path(last.updates), leaves_by_path(last.start)
    paths = [head.kernel] + ([head.bias] if settings.similarity_of == "kernel+bias" and head.bias else [])
    rows = []
    for place in np.flatnonzero(~np.isin(last.ids, list(flagged))):
        leaves = [np.asarray(updates[path][place], np.float64) for path in paths]
        if settings.similarity == "updates":
            leaves = [leaf - np.asarray(start[path]) for leaf, path in zip(leaves, paths, strict=True)]
        rows.append(np.concatenate([leaf.ravel() for leaf in leaves]))
    units = np.stack(rows) / np.maximum(np.linalg.norm(rows, axis=1), 1e-12)[:, None]
    cosines = (units @ units.T)[np.triu_indices(len(units), 1)]
    return float(cosines.mean())


def fraction_of(similarity: float, settings: FedUp) -> float:
    """The paper's rule: P = (P_max - P_min) z^gamma + P_min, z the similarity between its bounds on a scale of 0 to 1.

    For the paper's IID clients, z = 0.98, this gives 13.7%, while its text has about 10%.
    """
    lowest = settings.lowest_similarity
    z = min(max((similarity - lowest) / (1 - lowest), 0.0), 1.0)
    return (settings.most - settings.least) * z**settings.gamma + settings.least
