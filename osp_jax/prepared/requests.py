"""Answers a request from prepared ones: looked up for one class, composed for several."""

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
    """The outcome, its cost, its description (`describe_change`), and the way: 'alone' or 'composed'."""

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
    """Answers a request from prepared ones; returns None if it must be computed.

    This is the case for several classes if the statistics do not show the cost, or if it exceeds the limits.

    Args:
      forget: class numbers, sorted.
      statistics: statistics of the model; needed for several classes.
      limits: as for `Harm.within`; None: no limits.
      warm_calls: as in `timed_request`.

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
    """The use of prepared requests, JSON-ready, for the request's report."""
    classes = [prepared.classes[number] for number in forget]
    return {
        "way": found.way,
        "exact": found.way == "alone" and classes[0].is_exact,
        "seconds": sum(made.seconds for made in classes),
        "bytes": sum(made.nbytes for made in classes),
        "data_seen": [dict(made.data_seen) for made in classes],
    }
