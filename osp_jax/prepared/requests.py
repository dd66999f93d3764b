"""A request that is answered from prepared ones: alone, for one class, or composed, for several."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from osp_jax.harm import Harm
from osp_jax.methods.parts.request import Outcome, describe_change, timed
from osp_jax.model import Model
from osp_jax.prepared.classes import Prepared, answer_prepared
from osp_jax.prepared.sets import answer_set
from osp_jax.statistics import Statistics


class Answer(NamedTuple):
    """The outcome, what it costs, what `describe_change` tells of it, and the way: 'alone' or 'composed'."""

    outcome: Outcome
    harm: Harm | None
    description: Mapping[str, Any]
    way: str


def answer_from(
    prepared: Prepared,
    model: Model,
    forget: Sequence[int],
    statistics: Statistics | None,
    limits: Mapping[str, float] | None,
    *,
    warm_calls: int = 0,
) -> Answer | None:
    """The answer to a request from prepared ones; None where it must be computed.

    A set is not answered where the statistics do not show what it costs, or that is above the limits.

    Args:
      forget: class numbers, sorted.
      statistics: of the model; needed for more than one class.
      limits: of `Harm.within`; None: whatever it costs.
      warm_calls: as `timed_request`.

    Raises:
      InputError: as `check_prepared`.
    """
    if len(forget) == 1:
        made = prepared.classes.get(forget[0])
        outcome = timed(partial(answer_prepared, prepared, model, forget[0]), warm_calls=warm_calls)
        return Answer(outcome, made.harm, made.description, "alone")
    if statistics is None or (found := answer_set(prepared, model, forget, statistics)) is None:
        return None
    harm = found[1]
    if limits is not None and not harm.within(**limits):
        return None
    outcome = timed(lambda: answer_set(prepared, model, forget, statistics)[0], warm_calls=warm_calls)
    description = describe_change(model, outcome.model, tuple(forget), statistics, prepared.method)
    return Answer(outcome, harm, description, "composed")


def prepared_record(prepared: Prepared, found: Answer, forget: Sequence[int]) -> dict[str, Any]:
    """How a request was answered from prepared ones, JSON-ready, for its report."""
    classes = [prepared.classes[number] for number in forget]
    return {
        "way": found.way,
        "exact": found.way == "alone" and classes[0].is_exact,
        "seconds": sum(made.seconds for made in classes),
        "bytes": sum(made.nbytes for made in classes),
        "data_seen": [dict(made.data_seen) for made in classes],
    }
