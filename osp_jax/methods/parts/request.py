"""Runs and times one request to forget."""

import math
import statistics as stats
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from osp_jax.masks import class_difference, gains_between
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.door import answer
from osp_jax.methods.parts.groups import forget_vector
from osp_jax.methods.parts.method import Method
from osp_jax.model import Model
from osp_jax.runtime.distributed import broadcast_from_first
from osp_jax.statistics import Statistics
from osp_jax.trees import leaves_by_path


class Outcome(NamedTuple):
    """The new model, and seconds: the first call, with compilation, and median and 95th percentile of warm calls, or
    None without warm calls."""

    model: Model
    cold: float
    warm_median: float | None = None
    warm_p95: float | None = None


def timed_request(
    method: Method,
    model: Model,
    forget: tuple[int, ...],
    statistics: Statistics,
    rng: jax.Array,
    *,
    data: RequestData | None = None,
    warm_calls: int = 0,
    warm_seconds: float = 3.0,
    limit: float = math.inf,
) -> Outcome:
    """Runs a method once, and times it.

    Args:
      warm_calls: most further calls to time; the first of them always runs, others only while they fit into
        `warm_seconds`.
      limit: if the first call takes more seconds, there are no others.
    """

    jax.block_until_ready((model.variables, statistics))
    request = partial(answer, method, model, forget, data=data, statistics=statistics, rng=rng)
    return timed(request, warm_calls=warm_calls, warm_seconds=warm_seconds, limit=limit)


def timed(
    request: Callable[[], Model], *, warm_calls: int = 0, warm_seconds: float = 3.0, limit: float = math.inf
) -> Outcome:
    """Calls `request` and times it until the new variables are ready; other arguments as in `timed_request`."""

    def call() -> tuple[Model, float]:
        start = time.perf_counter()
        new = request()
        jax.block_until_ready(new.variables)
        return new, time.perf_counter() - start

    new, cold = call()
    if not broadcast_from_first(warm_calls if cold <= limit else 0):
        return Outcome(new, cold)
    warm = [call()[1]]
    calls = broadcast_from_first(min(warm_calls, math.ceil(warm_seconds / warm[0])))
    warm += [call()[1] for _ in range(calls - 1)]
    return Outcome(new, cold, stats.median(warm), float(np.percentile(warm, 95)))


def describe_change(
    before: Model, after: Model, forget: tuple[int, ...], statistics: Statistics, method: Method | None = None
) -> dict[str, Any]:
    """The change, JSON-ready: `masked_channels` and `channels` (score and factor) by group, `parameters_changed`.

    The score is the one that `method` uses, if any. Factors are recovered from the parameters, so they hold for any
    method that scales channels; groups that are unchanged, or changed in another way, are left out.
    """
    old, new = leaves_by_path(before.variables), leaves_by_path(after.variables)
    other = [path for path in old if before.is_parameter(path) and old[path] is not new[path]]
    score = partial(
        class_difference,
        forget=forget_vector(forget, statistics),
        **{rule: getattr(method, rule) for rule in ("reduction", "standardised", "against") if hasattr(method, rule)},
    )
    channels: dict[str, Any] = {}
    for group in statistics.gates.groups:
        factor = gains_between(before.variables, after.variables, group)
        if factor is not None and (factor != 1).any():
            scores = np.asarray(score(statistics.layers[group.name]))
            channels[group.name] = {"score": scores.tolist(), "factor": factor.tolist()}
    return {
        "masked_channels": {name: int(np.sum(np.array(c["factor"]) < 1)) for name, c in channels.items()},
        "parameters_changed": int(sum(np.sum(np.asarray(old[path] != new[path])) for path in other)),
        "channels": channels,
    }


def earlier_requests(before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The earlier requests of a model, oldest first, from its `unlearn.json`; `{}`: none."""
    if not before:
        return []
    asked = {name: before[name] for name in ("method", "options", "forget")}
    return [*before.get("earlier", []), {**asked, "budget": before.get("budget", {})}]


def images_seen(statistics: Statistics) -> Mapping[str, int]:
    """How many training images the statistics were collected on, by class number."""
    count = next(iter(statistics.layers.values())).count
    return {str(c): int(n) for c, n in enumerate(np.asarray(count))}
