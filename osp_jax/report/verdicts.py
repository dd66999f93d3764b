"""When more is left of a class than in a model that never saw it: the report's one rule.

A measure is judged by its difference to the retrained model, never by its value alone: the retrained model has some of
these abilities, too. The sign of the difference is such that a positive one means that more is left. It is judged by
its 95% interval, which an audit computes on the images that both models were asked about (`audit/difference.py`). Older
evaluations have none; there it follows from the intervals of the two values as if they were independent, and is wider.

- The interval lies within `margin(question)` on both sides of 0: "as the retrained". The two are equal in
  practice, even where a smaller difference is certain. (A test of equivalence at a level of 2.5%.)
- Otherwise, where it excludes 0, the sign decides: "more is left", "less is left".
- Otherwise: "not told apart". No difference was found, and too few images were asked to rule one out.
- A difference without an interval, as of a single run, cannot be tested: beyond the margin the sign decides, within it
  the two are "not told apart".
- A goal that was never reached within the limit means less than one that was reached; two that were not are equal.
- A measure that only describes (`leak` is None), or without a value or a retrained model, has no verdict.
"""

import math
from collections.abc import Mapping
from typing import Any

from osp_jax.audit.difference import independent_interval
from osp_jax.report.formats import NOTHING

SAME_SHARE = 0.02  # in the measure's unit: of shares, areas and likenesses 2 points
SAME_EFFORT = 0.2  # of relearning: a share of the retrained model's value
SAME, MORE, LESS, UNTOLD = "as the retrained", "more is left", "less is left", "not told apart"
_SIGNS = {"high": 1, "low": -1}
_SLACK = 1e-9  # of a sum of floats: 0.52 - 0.5 is within 0.02

Measure = Mapping[str, Any]


def margin(question: str) -> float:
    """The largest difference that does not matter; for relearning a share of the retrained model's value."""
    return SAME_EFFORT if question == "relearning" else SAME_SHARE


def value_of(measure: Measure | None) -> float | None:
    """The value; None where nothing was measured or the goal was not reached."""
    value = (measure or {}).get("value")
    return None if value is None or not math.isfinite(value) else value


def never(measure: Measure | None) -> bool:
    """Whether the goal was not reached within the limit."""
    return value_of(measure) is None and (measure or {}).get("never") is not None


def ends_of(measure: Measure | None) -> tuple[float, float] | None:
    """The 95% interval; None where it is not known."""
    ends = (measure or {}).get("ci95") or (None, None)
    return None if any(end is None or math.isnan(end) for end in ends) else (ends[0], ends[1])


def excess(question: str, mine: Measure | None, retrained: Measure | None) -> float | None:
    """How much more is left than in the retrained model; infinite where only one reached the goal, None if unknown.

    In the measure's unit, for relearning as a share of the retrained model's value.
    """
    sign = _sign(mine, retrained)
    values = value_of(mine), value_of(retrained)
    if not sign or any(v is None and not never(m) for v, m in zip(values, (mine, retrained), strict=True)):
        return None
    if None in values:
        return 0.0 if values == (None, None) else -math.inf if values[0] is None else math.inf
    return sign * (values[0] - values[1]) / _unit(question, values[1])


def excess_ends(question: str, mine: Measure | None, retrained: Measure | None) -> tuple[float, float] | None:
    """The 95% interval of `excess`; None where it is not known."""
    sign = _sign(mine, retrained)
    if not sign or None in (value_of(mine), value_of(retrained)):
        return None
    stored = ends_of(mine.get("difference"))
    ends = stored or independent_interval(mine, retrained)
    if ends is None:
        return None
    unit = _unit(question, value_of(retrained))
    return tuple(sorted(sign * end / unit for end in ends))


def verdict(question: str, mine: Measure | None, retrained: Measure | None) -> str:
    """`SAME`, `MORE`, `LESS`, `UNTOLD` or a dash."""
    gap = excess(question, mine, retrained)
    if gap is None:
        return NOTHING
    if never(mine) or never(retrained):
        return SAME if gap == 0 else MORE if gap > 0 else LESS
    ends, most = excess_ends(question, mine, retrained), margin(question) + _SLACK
    if ends is None:
        return UNTOLD if abs(gap) <= most else MORE if gap > 0 else LESS
    if -most <= ends[0] and ends[1] <= most:
        return SAME
    return MORE if ends[0] > 0 else LESS if ends[1] < 0 else UNTOLD


def in_words(said: str, mine: Measure | None) -> str:
    """A verdict for a table; "not told apart" comes with the number of images or runs."""
    number = (mine or {}).get("n")
    return f"{said}, n = {number:,}" if said == UNTOLD and number is not None else said


def _sign(mine: Measure | None, retrained: Measure | None) -> int:
    return _SIGNS.get((mine or {}).get("leak") or (retrained or {}).get("leak"), 0)


def _unit(question: str, retrained: float) -> float:
    return (abs(retrained) or 1.0) if question == "relearning" else 1.0
