"""The entry point of every request to forget: checks it, and keeps earlier forgotten classes forgotten.

A later request must not restore an earlier forgotten class. A method therefore gets neither images nor statistics of
such a class, and during and after the method the bias of the head puts its logit out of reach, so that further training
cannot learn the class again. (A head without a bias cannot do this; there the class stays forgotten because the method
sees nothing of it.)
"""

from collections.abc import Sequence
from typing import Any

import jax

from osp_jax.data.splits import check_forget
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.out_of_reach import keep_out_of_reach
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError, shown
from osp_jax.statistics import Statistics


def answer(
    method: Method,
    model: Model,
    forget: Sequence[int],
    *,
    data: RequestData | None = None,
    statistics: Statistics,
    rng: jax.Array,
) -> Model:
    """Removes the classes `forget` from a model by an unlearning method.

    Args:
      method: such as `OspFit(margin=2.0)`.
      model: the classes in `model.forgotten` stay forgotten.
      forget: class numbers.
      data: images that the method may use; None for a method that uses none.
      statistics: what `collect_statistics` returns for the training images of the model.
      rng: a JAX key; the same key gives the same result.

    Returns:
      The model with new variables, whose `forgotten` includes `forget`.

    Raises:
      InputError: `forget` is empty, contains an unknown or already forgotten class, or all remaining classes; data,
        statistics or method are missing or belong to another request; or the method does not support this network.
    """
    _check_given(method, model, statistics)
    check_forget(forget, model.num_classes, model.forgotten, model.class_names)
    forget = tuple(sorted({int(c) for c in forget}))
    gone = model.forgotten
    _check_supplies(method, model, data, forget)
    if gone:
        statistics, data = statistics.without(gone), data and data.without(gone)
        model = model.replace(variables=keep_out_of_reach(model.variables, statistics.gates, gone))
    new = method.unlearn(model, forget, data=data, statistics=statistics, rng=rng)
    variables = keep_out_of_reach(new.variables, statistics.gates, gone)
    return new.replace(variables=variables, forgotten=tuple(sorted({*gone, *forget})))


def _check_given(method: Method, model: Model, statistics: Statistics) -> None:
    if not isinstance(method, Method):
        raise InputError(f"method is {shown(method)}; give a method with its settings, such as OspFit(margin=2.0)")
    check_model(model)
    if not isinstance(statistics, Statistics):
        raise InputError(f"statistics are {shown(statistics)}; give what collect_statistics returns")
    check_same_classes(model, statistics)


def check_model(model: Any, what: str = "model") -> None:
    """Raises `InputError` unless `model`, the argument `what`, is a `Model`."""
    if not isinstance(model, Model):
        raise InputError(f"{what} is {shown(model)}; give a Model, as from_torch, from_linen or from_nnx return it")


def check_same_classes(model: Model, statistics: Statistics) -> None:
    """Raises `InputError` unless the statistics are of as many classes as the model has."""
    if statistics.num_classes != model.num_classes:
        raise InputError(
            f"the statistics are of {statistics.num_classes} classes and the model has {model.num_classes}; "
            "collect them again"
        )


def _check_supplies(method: Method, model: Model, data: RequestData | None, forget: tuple[int, ...]) -> None:
    name = type(method).__name__
    if data is None and method.sees:
        raise InputError(f"{name} needs {' and '.join(method.sees)} examples; give data, as request_data returns it")
    if data is not None and set(data.forgotten) != set(forget):
        asked = f"{list(data.forgotten)}, not {list(forget)}"
        raise InputError(f"data are for forgetting {asked}; create them for this request")
    if method.trains and model.train_apply is None:
        raise InputError(f"{name} trains the network and the model has no train_apply; give it, or take another method")
    if method.starts_over and model.init is None:
        raise InputError(f"{name} needs fresh variables and the model has no init; give it, or take another method")
