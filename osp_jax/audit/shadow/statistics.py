"""The statistics of shadow models on images, as trained and after unlearning, for the attacks of `audit/lira.py`.

The statistics after unlearning are stored with the set, one file per model, so that an interrupted run resumes and a
method is applied only once.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from osp_jax import statistics_files
from osp_jax.audit.lira import Attack, lira, lira_offline, retrained_control, scaled_confidence, u_lira
from osp_jax.audit.shadow.sets import Shadows
from osp_jax.data.splits import split_by_class
from osp_jax.forward import predict_logits
from osp_jax.methods import method_name
from osp_jax.methods.parts.data import request_data
from osp_jax.methods.parts.door import answer
from osp_jax.methods.parts.method import Method
from osp_jax.model import Model
from osp_jax.runtime import records
from osp_jax.runtime.distributed import place
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import read_piece, write_piece
from osp_jax.runtime.replacing import remove_all_leftovers
from osp_jax.statistics import Statistics, statistics_over


class ShadowRequest(NamedTuple):
    """A request to forget `forget` by a method, with a data budget as in `request_data`.

    `earlier` are the requests before this one.
    """

    method: Method
    forget: tuple[int, ...]
    budget: Mapping[str, int | None] = {}
    earlier: tuple["ShadowRequest", ...] = ()

    @property
    def steps(self) -> tuple["ShadowRequest", ...]:
        """The earlier requests and this one."""
        return (*self.earlier, self)

    @property
    def forgotten(self) -> tuple[int, ...]:
        """All classes that are forgotten in the end."""
        return tuple(sorted({c for step in self.steps for c in step.forget}))

    def record(self) -> dict[str, Any]:
        """The fields that determine the request, JSON-ready."""
        what = {"method": method_name(self.method), "options": dataclasses.asdict(self.method)}
        what |= {"forget": list(map(int, self.forget)), "budget": dict(self.budget)}
        return what | ({"earlier": [step.record() for step in self.earlier]} if self.earlier else {})


class ShadowSets(NamedTuple):
    """Shadow models of all classes and of all but the forgotten ones, from `find_shadows`, and the `requests` to the
    former, by model under audit."""

    every: Shadows
    without: Shadows
    requests: Mapping[str, ShadowRequest]


def ratio_attacks(
    sets: ShadowSets, forget: tuple[int, ...], *, on_shadow: Callable[[str], None] = lambda _: None
) -> dict[str, dict[str, Attack]]:
    """LiRA, offline LiRA and U-LiRA on forgotten images, by model ('original', 'retrained' and those of
    `sets.requests`).

    Args:
      on_shadow: called with a short description after each request to a shadow model.

    Raises:
      InputError: as `unlearn_shadows`, or too few shadow models.
    """
    images = forgotten_images(sets.every, forget)
    keep, retrained = sets.every.keep[:, images], shadow_statistics(sets.without, images)
    statistics = {"original": shadow_statistics(sets.every, images), "retrained": retrained}
    for name, request in sets.requests.items():
        done = partial(_say, on_shadow, method_name(request.method), len(keep))
        statistics[name] = unlearn_shadows(sets.every, request, on_shadow=done)
    return {
        model: {
            "lira": lira(values, keep),
            "lira_offline": lira_offline(values, keep),
            "u_lira": retrained_control(retrained) if model == "retrained" else u_lira(values, retrained, keep),
        }
        for model, values in statistics.items()
    }


def _say(on_shadow: Callable[[str], None], method: str, number: int, done: int) -> None:
    on_shadow(f"{method}: shadow model {done} of {number}")


def forgotten_images(shadows: Shadows, forget: Sequence[int]) -> np.ndarray:
    """Indices int32 into the pool of the images of the classes `forget`.

    Raises:
      InputError: the pool has none.
    """
    _, indices = split_by_class(shadows.pool.labels, forget)
    if not len(indices):
        raise InputError(f"the shadow models' pool has no example of the classes {list(forget)}; train others")
    return indices


def shadow_statistics(shadows: Shadows, indices: np.ndarray) -> np.ndarray:
    """`scaled_confidence` of the N shadow models on the pool images `indices` `(n,)`: float64 `(N, n)`."""
    return np.stack([_statistic(shadows, _member(shadows, i), indices) for i in range(len(shadows.keep))])


def unlearn_shadows(
    shadows: Shadows, request: ShadowRequest, *, seed: int = 0, on_shadow: Callable[[int], None] = lambda _: None
) -> np.ndarray:
    """The statistic of each unlearned shadow model on the pool's images of the forgotten classes.

    The training images of each are its half of the pool; its class statistics are its own.

    Args:
      shadows: originals, trained on all classes.
      seed: seed of methods that draw random numbers; folded with the number of the model.
      on_shadow: called after each model with the number done.

    Returns:
      float64 `(N, images)`, columns as in `forgotten_images`.

    Raises:
      InputError: the method does not support this network, or the pool has no image of these classes.
    """
    indices = forgotten_images(shadows, request.forgotten)
    what = request.record() | {"seed": seed, "statistics": _statistics_settings(shadows)}
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    folder = shadows.folder / "unlearned" / f"{method_name(request.method)}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder, statistics_folder(shadows)):
        remove_all_leftovers(each)
    write_piece(folder / "record.json", what)
    on_device = place((shadows.pool.images, shadows.pool.labels))
    found = []
    for i, row in enumerate(shadows.keep):
        path = folder / f"{i}.json"
        if not path.exists():
            rng = jax.random.fold_in(jax.random.key(seed), i)
            unlearned = _unlearned(shadows, i, np.flatnonzero(row).astype(np.int32), request, on_device, rng)
            write_piece(path, _statistic(shadows, unlearned, indices).tolist())
        found.append(records.numbers(read_piece(path), path, len(indices)))
        on_shadow(i + 1)
    return np.array(found, np.float64)


def _unlearned(
    shadows: Shadows, i: int, members: np.ndarray, request: ShadowRequest, on_device: Any, rng: jax.Array
) -> Model:
    """Shadow model i, trained on the images `members`, after all steps of a request."""
    model = _member(shadows, i)
    statistics = _class_statistics(shadows, i, model, members)
    for step in request.steps:
        members = members[~np.isin(shadows.pool.labels[members], model.forgotten)]
        if model.forgotten and step.method.sees:
            # `experiments.unlearn` also finds no statistics stored with a network that was trained further.
            statistics = _collected(shadows, model, members)
        given = shadows.pool, members, step.forget, shadows.preparation, shadows.config.to_dict()
        data = request_data(*given, **step.budget, on_device=on_device) if step.method.sees else None
        model = answer(step.method, model, step.forget, data=data, statistics=statistics, rng=rng)
    return model


def _member(shadows: Shadows, i: int) -> Model:
    return shadows.model.replace(variables=jax.tree.map(lambda leaf: leaf[i], shadows.model.variables))


def _statistic(shadows: Shadows, model: Model, indices: np.ndarray) -> np.ndarray:
    logits = predict_logits(model, shadows.pool, indices)
    return scaled_confidence(logits, shadows.pool.labels[indices])


def statistics_folder(shadows: Shadows) -> Path:
    """The folder of the class statistics of a set's models for its `config.statistics`."""
    key = hashlib.sha256(json.dumps(_statistics_settings(shadows), sort_keys=True).encode()).hexdigest()[:12]
    return shadows.folder / f"statistics-{key}"


def _statistics_settings(shadows: Shadows) -> dict[str, Any]:
    """The settings that class statistics depend on, besides the model and its images."""
    fields = shadows.config.statistics.to_dict()
    # The key has the former name of this setting, so that finished sets keep theirs.
    fields["tails"] = fields.pop("cached_inputs")
    return fields


def _class_statistics(shadows: Shadows, i: int, model: Model, members: np.ndarray) -> Statistics:
    """Over the model's own images, as in a workdir; independent of the method, so collected once per
    `config.statistics`."""
    path = statistics_folder(shadows) / str(i)
    if path.exists():
        return statistics_files.load_statistics(path)
    statistics = _collected(shadows, model, members)
    try:
        statistics_files.save_statistics(path, statistics)
    except OSError:
        if not path.exists():
            raise
        # Another audit of these shadow models wrote it first.
    return statistics


def _collected(shadows: Shadows, model: Model, members: np.ndarray) -> Statistics:
    settings = shadows.config
    return statistics_over(model, shadows.pool, members, settings.statistics, settings.seed)
