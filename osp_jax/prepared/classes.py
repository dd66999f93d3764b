"""Classes prepared one by one: what a request to forget each of them will change, and what that costs the others."""

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
    """What a request to forget one class changes.

    Attributes:
      changes: by the path of the leaf, arrays of NumPy.
      harm: what the request costs, estimated when it was prepared; None where that could not be estimated.
      description: what `describe_change` tells of the new model.
      data_seen: training images that the method looked at, by the number of their class as text.
      seconds: that the preparation took.
    """

    changes: Changes
    harm: Harm | None
    description: Mapping[str, Any]
    data_seen: Mapping[str, int]
    seconds: float

    @property
    def nbytes(self) -> int:
        """Bytes of the changes."""
        return sum(change.nbytes for change in self.changes.values())

    @property
    def is_exact(self) -> bool:
        """Whether the parameters are those of a request that was not prepared, bit for bit, not to float rounding."""
        return all(change.is_exact for change in self.changes.values())


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """Requests to one model that were computed before they come.

    Attributes:
      method: with its settings.
      network: the `fingerprint` of the model.
      settings: what else the result depends on, JSON-ready: the data budget and the seed.
      classes: by the number of the class.
      statistics: of the model, for requests for several classes.
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
    """Answers the request for one class, and keeps what it changes.

    Args:
      data, statistics: as `unlearn_classes` takes them.
      seed: of methods that draw random numbers.
      estimate: the harm of the new model; None where it cannot be estimated.

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
    """The model without a prepared class: a lookup and one program that writes the changed leaves.

    Args:
      donate: as `changes.applied`; `model` can then no longer be used.

    Raises:
      InputError: as `check_prepared`.
    """
    check_prepared(prepared, model, [number])
    variables = applied(model.variables, prepared.changes_of(number), donate=donate)
    return model.replace(variables=variables, forgotten=tuple(sorted({*model.forgotten, number})))


def check_prepared(prepared: Prepared, model: Model, forget: Sequence[int]) -> None:
    """Checks that requests for the classes `forget` were prepared, for this model.

    Raises:
      InputError: another model, also one that has forgotten a class since; a class that does not exist, is forgotten
        already, or was not prepared.
    """
    check_forget(forget, model.num_classes, model.forgotten, model.class_names)
    if prepared.network != fingerprint(model):
        raise InputError(
            "the requests were prepared for another model, or for this one before it changed; prepare them anew"
        )
    if missing := [number for number in forget if number not in prepared.classes]:
        name = model.class_names[missing[0]]
        raise InputError(
            f"the request to forget {name} ({missing[0]}) was not prepared; prepare it, or leave prepared out"
        )


_fingerprints: WeakKeyDictionary[Model, tuple[list[Any], str]] = WeakKeyDictionary()


def fingerprint(model: Model) -> str:
    """A checksum of what the result of a request depends on: variables, normalisation, classes forgotten so far.

    64 hexadecimal digits. Computed once a model, as long as its leaves are the same arrays.
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
    """What a request's result depends on beside the model, JSON-ready: method, options, budget, seed."""
    return {"method": method_name(method), "options": dataclasses.asdict(method), "budget": dict(budget), "seed": seed}
