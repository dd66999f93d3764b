"""Classes prepared one by one: the changes of a request to forget each class, and its cost."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np

from osp_jax.data.splits import check_forget
from osp_jax.harm import Harm
from osp_jax.methods import Method, method_name
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.door import answer
from osp_jax.methods.parts.request import describe_change
from osp_jax.model import Model
from osp_jax.prepared.changes import Changes, applied, find_changes, ready
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.trees import leaves_by_path


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedClass:
    """The changes of a request to forget one class.

    Attributes:
      changes: by leaf path, NumPy arrays.
      harm: the cost of the request, estimated at preparation; None if it could not be estimated.
      description: the result of `describe_change` for the new model.
      data_seen: number of training images that the method used, by class number as text.
      seconds: duration of the preparation.
    """

    changes: Changes
    harm: Harm | None
    description: Mapping[str, Any]
    data_seen: Mapping[str, int]
    seconds: float

    @property
    def nbytes(self) -> int:
        """The size of the changes."""
        return sum(change.nbytes for change in self.changes.values())

    @property
    def is_exact(self) -> bool:
        """Whether the parameters equal those of an unprepared request bit by bit, instead of to float rounding."""
        return all(change.is_exact for change in self.changes.values())


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """Requests to one model, computed in advance.

    Attributes:
      method: the method with its settings.
      network: the `fingerprint` of the model.
      settings: the other inputs of the result, JSON-ready: the data budget and the seed.
      classes: by class number.
      statistics: statistics of the model, for requests for several classes.
    """

    method: Method
    network: str
    settings: Mapping[str, Any]
    classes: Mapping[int, PreparedClass]
    statistics: Statistics | None = None
    _ready: dict[int, Changes] = dataclasses.field(default_factory=dict, repr=False)

    def changes_of(self, number: int) -> Changes:
        """The changes of a class, on the device."""
        if number not in self._ready:
            self._ready[number] = ready(self.classes[number].changes)
        return self._ready[number]


def prepare_class(
    method: Method,
    model: Model,
    number: int,
    *,
    data: RequestData | None,
    statistics: Statistics,
    seed: int,
    estimate: Callable[[Model], Harm | None],
) -> PreparedClass:
    """Runs the request for one class, and keeps its changes.

    Args:
      data, statistics: as `unlearn_classes` takes them.
      seed: seed for methods that draw random numbers.
      estimate: returns the harm of the new model, or None if it cannot be estimated.

    Raises:
      InputError: as `unlearn_classes`.
    """
    start = time.perf_counter()
    after = answer(method, model, (number,), data=data, statistics=statistics, rng=jax.random.key(seed))
    changes = find_changes(model.variables, after.variables)
    return PreparedClass(
        changes=changes,
        harm=estimate(after),
        description=describe_change(model, after, (number,), statistics, method),
        data_seen=data.seen() if data else {},
        seconds=time.perf_counter() - start,
    )


def answer_prepared(prepared: Prepared, model: Model, number: int, *, donate: bool = False) -> Model:
    """Returns the model without a prepared class: a lookup, and one program that writes the changed leaves.

    Args:
      donate: as in `changes.applied`; `model` then becomes unusable.

    Raises:
      InputError: as `check_prepared`.
    """
    check_prepared(prepared, model, [number])
    variables = applied(model.variables, prepared.changes_of(number), donate=donate)
    return model.replace(variables=variables, forgotten=tuple(sorted({*model.forgotten, number})))


def check_prepared(prepared: Prepared, model: Model, forget: Sequence[int]) -> None:
    """Checks that requests for the classes `forget` were prepared for this model.

    Raises:
      InputError: they were prepared for another model, including this one before an earlier request; or a class is
        unknown, already forgotten, or not prepared.
    """
    check_forget(forget, model.num_classes, model.forgotten, model.class_names)
    if prepared.network != fingerprint(model):
        raise InputError(
            "the requests were prepared for another model, or for this one before it changed; prepare them again"
        )
    if missing := [number for number in forget if number not in prepared.classes]:
        name = model.class_names[missing[0]]
        raise InputError(
            f"the request to forget {name} ({missing[0]}) was not prepared; prepare it, or leave prepared out"
        )


_fingerprints: WeakKeyDictionary[Model, tuple[list[Any], str]] = WeakKeyDictionary()


def fingerprint(model: Model) -> str:
    """A checksum of everything that a request depends on: variables, normalisation, earlier forgotten classes.

    64 hexadecimal digits. Cached by model, as long as its leaves are the same arrays.
    """
    leaves = jax.tree.leaves(model.variables)
    known = _fingerprints.get(model)
    if known and len(known[0]) == len(leaves) and all(map(_is, known[0], leaves)):
        return known[1]
    digest = hashlib.sha256(repr(_about(model)).encode())
    for path, leaf in sorted(leaves_by_path(model.variables).items()):
        array = np.asarray(jax.device_get(leaf), order="C")
        digest.update(f"{path} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    found = digest.hexdigest()
    _fingerprints[model] = leaves, found
    return found


def _about(model: Model) -> tuple[list[Any], ...]:
    moments = [float(value) for value in (*model.mean, *model.std)]
    return moments, [str(name) for name in model.class_names], [int(number) for number in model.forgotten]


def _is(one: Any, other: Any) -> bool:
    return one is other


def request_settings(method: Method, budget: Mapping[str, int | None], seed: int) -> dict[str, Any]:
    """The inputs of a request besides the model, JSON-ready: method, options, budget, seed."""
    return {"method": method_name(method), "options": dataclasses.asdict(method), "budget": dict(budget), "seed": seed}
