"""One request to forget, carried out and timed: what `experiments.unlearn` does between reading and writing."""

import math
import statistics as stats
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from osp_jax.masks import class_difference
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.groups import forget_vector
from osp_jax.runtime.distributed import said_by_first
from osp_jax.statistics import Statistics


class Outcome(NamedTuple):
    """New variables, and seconds: the first call, with compilation, and median and 95th percentile of warm ones, None
    where there was none."""

    variables: dict[str, Any]
    cold: float
    warm_median: float | None = None
    warm_p95: float | None = None


def timed_request(
    method: Any,
    model: nn.Module,
    variables: dict[str, Any],
    forget: tuple[int, ...],
    statistics: Statistics,
    config: Any,
    rng: jax.Array,
    *,
    data: RequestData | None = None,
    gone: tuple[int, ...] = (),
    warm_calls: int = 0,
    warm_seconds: float = 3.0,
    limit: float = math.inf,
) -> Outcome:
    """Runs a method once, and times it.

    Args:
      gone: classes that were forgotten before.
      warm_calls: further calls to time, at most; the first of them is made whatever it takes, others while they fit
        into `warm_seconds`.
      limit: seconds of the first call, above which there are no others.
    """

    def call() -> tuple[dict[str, Any], float]:
        start = time.perf_counter()
        given = {"data": data, "statistics": statistics, "config": config, "rng": rng}
        new = method.unlearn(model, variables, forget, **given, gone=gone)
        jax.block_until_ready(new)
        return new, time.perf_counter() - start

    jax.block_until_ready((variables, statistics))
    new, cold = call()
    if not said_by_first(warm_calls if cold <= limit else 0):
        return Outcome(new, cold)
    warm = [call()[1]]
    calls = said_by_first(min(warm_calls, math.ceil(warm_seconds / warm[0])))
    warm += [call()[1] for _ in range(calls - 1)]
    return Outcome(new, cold, stats.median(warm), float(np.percentile(warm, 95)))


def describe_change(
    before: dict[str, Any], after: dict[str, Any], forget: tuple[int, ...], statistics: Statistics, config: Any = None
) -> dict[str, Any]:
    """What changed, JSON-ready: `masked_channels` and `channels` (score and factor) by group, `parameters_changed`.

    The score is the one that `config` asks for, where it does. Factors are read off the parameters themselves, so they
    hold for any method that scales channels; a group that was not changed, or in another way, is left out.
    """
    old, new = (traverse_util.flatten_dict(v["params"]) for v in (before, after))
    changed = {path: np.asarray(old[path] != new[path]) for path in old if old[path] is not new[path]}
    score = partial(
        class_difference,
        forget=forget_vector(forget, statistics),
        **{rule: getattr(config, rule) for rule in ("reduction", "standardised", "against") if hasattr(config, rule)},
    )
    channels: dict[str, Any] = {}
    for group in statistics.channels.groups:
        writer = group.writers[-1]
        paths = [(*writer.path.split("/"), leaf) for leaf in writer.leaves]
        factor = _factors(np.asarray(old[paths[0]]), np.asarray(new[paths[0]]))
        scaled = all(np.allclose(old[path] * factor, new[path], rtol=1e-4, atol=1e-7) for path in paths)
        if scaled and (factor != 1).any():
            scores = np.asarray(score(statistics.layers[group.name]))
            channels[group.name] = {"score": scores.tolist(), "factor": factor.tolist()}
    return {
        "masked_channels": {name: int(np.sum(np.array(c["factor"]) < 1)) for name, c in channels.items()},
        "parameters_changed": int(sum(mask.sum() for mask in changed.values())),
        "channels": channels,
    }


def earlier_requests(before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a model was asked before, the first request first, from the `unlearn.json` of the model; `{}`: nothing."""
    if not before:
        return []
    asked = {name: before[name] for name in ("method", "options", "forget")}
    return [*before.get("earlier", []), {**asked, "budget": before.get("budget", {})}]


def images_seen(statistics: Statistics) -> Mapping[str, int]:
    """Training images that the statistics were collected on, by class number."""
    count = next(iter(statistics.layers.values())).count
    return {str(c): int(n) for c, n in enumerate(np.asarray(count))}


def _factors(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """new / old along the last axis, `(channels,)`; 1 where the old parameter is 0 throughout."""
    old, new = old.reshape(-1, old.shape[-1]), new.reshape(-1, new.shape[-1])
    largest = np.abs(old).argmax(0)[None]
    old, new = np.take_along_axis(old, largest, 0)[0], np.take_along_axis(new, largest, 0)[0]
    return np.where(old == 0, 1.0, new / np.where(old == 0, 1, old))
