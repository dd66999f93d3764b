"""Runs the clients of a federation in this process: one after another, or together on an accelerator.

On CPUs, a compiled loop over steps is slow (`training.epoch`), as is a convolution with a different kernel per client,
so each client runs separately. On accelerators the clients are one program: `vmap` over clients of a scan over steps,
where clients with fewer steps do nothing at the end. Both call the same step with the same keys; each is bit-identical
when repeated.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.federated.client import (
    ClientData,
    LocalTraining,
    Query,
    Sums,
    Update,
    client_query,
    client_update,
    groups_of,
    local_loss_of,
    local_order,
    optimiser_of,
)
from osp_jax.federated.requests import Request
from osp_jax.federated.server import stacked_updates
from osp_jax.model import Model
from osp_jax.runtime.distributed import on_cpu
from osp_jax.runtime.errors import unknown
from osp_jax.training.descent import Loss, Optimiser, gradient_step, split_variables, start_of
from osp_jax.trees import combine

ENGINES = ("auto", "loop", "vmap")


def stacked_clients(images: np.ndarray, labels: np.ndarray, parts: Sequence[np.ndarray]) -> ClientData:
    """The clients of a division of a data set, stacked and padded to the largest.

    Args:
      images: uint8 `(n, h, w, c)`.
      labels: int `(n,)`.
      parts: for each client, the indices of its images, `(k,)`.

    Returns:
      `images` `(clients, most, h, w, c)`, `labels` and `present` `(clients, most)`.
    """
    most = max(map(len, parts))
    rows = np.stack([np.concatenate([part, np.zeros(most - len(part), int)]).astype(int) for part in parts])
    present = np.stack([np.arange(most) < len(part) for part in parts])
    return ClientData(jnp.asarray(images[rows]), jnp.asarray(labels[rows], jnp.int32), present)


def client_of(clients: ClientData, number: int) -> ClientData:
    """The data of one of the stacked clients."""
    return jax.tree.map(lambda leaf: leaf[number], clients)


def asking(clients: ClientData) -> Callable[[Model, Query, Request, str], list[Sums]]:
    """A function `ask` (`editing.Situation.ask`) for stacked clients."""

    def ask(model: Model, query: Query, request: Request, grouping: str) -> list[Sums]:
        answers = []
        for number, forget in enumerate(request.forget):
            data = client_of(clients, number)
            answers.append(client_query(model, data, groups_of(data, forget, grouping), query))
        return answers

    return ask


def local_updates(
    model: Model,
    clients: ClientData,
    ids: Sequence[int],
    keys: Sequence[jax.Array],
    settings: LocalTraining,
    *,
    starts: Any = None,
    reference: Any = None,
    mask: Any = None,
    engine: str = "auto",
) -> tuple[Any, np.ndarray, dict[str, float]]:
    """`client_update` of each of the clients `ids`.

    Args:
      clients: all clients, stacked.
      keys: one for each of `ids`.
      starts: initial variables stacked along a first axis, one for each of `ids`; None: those of `model`.
      engine: 'loop', 'vmap', or 'auto', which depends on the device.

    Returns:
      variables stacked along a first axis, numbers of images float32 `(ids,)`, and the metrics, means over clients.

    Raises:
      InputError: as `client_update` and `server.aggregate`, or an unknown engine.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    given = {"starts": starts, "reference": reference, "mask": mask}
    if engine == "vmap" or (engine == "auto" and not on_cpu()):
        return _together(model, clients, ids, keys, settings, **given)
    updates: list[Update] = []
    for place, (number, key) in enumerate(zip(ids, keys, strict=True)):
        own = model
        if starts is not None:
            own = model.replace(variables=jax.tree.map(lambda leaf, place=place: leaf[place], starts))
        towards = model.variables if reference is None else reference
        data = client_of(clients, number)
        updates.append(client_update(own, data, key, settings, reference=towards, mask=mask))
    stacked = stacked_updates([update.variables for update in updates], ids)
    counts = np.array([update.num_examples for update in updates], np.float32)
    names = updates[0].metrics
    return stacked, counts, {name: float(np.mean([u.metrics[name] for u in updates])) for name in names}


def _together(
    model: Model,
    clients: ClientData,
    ids: Sequence[int],
    keys: Sequence[jax.Array],
    settings: LocalTraining,
    *,
    starts: Any,
    reference: Any,
    mask: Any,
) -> tuple[Any, np.ndarray, dict[str, float]]:
    split = [jax.random.split(key) for key in keys]
    orders = [
        local_order(np.flatnonzero(clients.present[number]), settings, order_key)
        for number, (order_key, _) in zip(ids, split, strict=True)
    ]
    counts = clients.present[list(ids)].sum(1).astype(np.float32)
    params, rest = split_variables(model)
    if starts is None:
        first = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(ids), 0), (params, rest))
    else:
        first = split_variables(model.replace(variables=starts))
    most = max(map(len, orders))
    if not most:
        return combine(*first), counts, {}
    steps = np.stack([np.resize(order, (most, order.shape[1])) for order in orders])
    active = np.stack([np.arange(most) < len(order) for order in orders])
    towards = split_variables(model.replace(variables=reference))[0] if reference is not None else params
    run = _program(local_loss_of(model, settings), optimiser_of(settings))
    chosen = jnp.asarray(list(ids))
    (params, rest), losses = run(
        first,
        {"indices": steps, "rate": np.full((len(ids), most), settings.learning_rate, np.float32)},
        active,
        jnp.stack([step_key for _, step_key in split]),
        mask,
        clients.images[chosen],
        clients.labels[chosen],
        towards if settings.align else None,
    )
    means = (np.asarray(losses) * active).sum(1) / active.sum(1)
    return combine(params, rest), counts, {"loss": float(means.mean())}


@lru_cache(maxsize=32)
def _program(loss: Loss, optimiser: Optimiser) -> Callable[..., Any]:
    step, start = gradient_step(loss, optimiser), start_of(optimiser)

    def one(first, order, active, key, mask, images, labels, reference):  # one client
        def masked(state, given):
            batch, on = given
            new, metrics = step(state, batch, key, mask, (images, labels, reference))
            return jax.tree.map(lambda a, b: jnp.where(on, a, b), new, state), metrics["loss"]

        state, losses = jax.lax.scan(masked, start(*first), (order, active))
        return (state.params, state.batch_stats), losses

    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, None, 0, 0, None)))
