"""When more is left of a class than in a model that never saw it: the report's one rule.

A measure is judged by its gap to the retrained model, never by its value: such a model, too, has some of these
abilities. The gap is signed so that a positive one means that more is left.

- Both values have a 95% interval and the intervals overlap: "as the retrained". No difference was found, which is no
  proof that there is none.
- One of them has no interval: a gap within `SAME_SHARE` (absolute), for relearning within `SAME_EFFORT` (of the
  retrained model's value), is "as the retrained".
- Otherwise the sign decides.
- What never happened within the limit means less than whatever did happen, in either direction; never and never are
  alike.
- A measure that only describes (`leak` is None), or without a value or a retrained model, has no verdict.
"""

import math
from collections.abc import Mapping
from typing import Any

from osp_jax.report.formats import NOTHING

SAME_SHARE = 0.02
SAME_EFFORT = 0.2
SAME, MORE, LESS = "as the retrained", "more is left", "less is left"
_SIGNS = {"high": 1, "low": -1}
_SLACK = 1e-9  # of a sum of floats: 0.52 - 0.5 is within 0.02

Measure = Mapping[str, Any]


def value_of(measure: Measure | None) -> float | None:
    """None where nothing was measured, or never happened."""
    value = (measure or {}).get("value")
    return None if value is None or not math.isfinite(value) else value


def never(measure: Measure | None) -> bool:
    """Whether the thing measured did not happen within the limit."""
    return value_of(measure) is None and (measure or {}).get("never") is not None


def ends_of(measure: Measure | None) -> tuple[float, float] | None:
    """The 95% interval, where it is known."""
    ends = (measure or {}).get("ci95") or (None, None)
    return None if any(end is None or math.isnan(end) for end in ends) else (ends[0], ends[1])


def excess(question: str, mine: Measure | None, retrained: Measure | None) -> float | None:
    """How much more is left than in the retrained model; infinite against a never, None where it cannot be said.

    In the measure's unit, for relearning as a share of the retrained model's value.
    """
    leak = (mine or {}).get("leak") or (retrained or {}).get("leak")
    values = value_of(mine), value_of(retrained)
    if leak not in _SIGNS or any(v is None and not never(m) for v, m in zip(values, (mine, retrained), strict=True)):
        return None
    if None in values:
        return 0.0 if values == (None, None) else -math.inf if values[0] is None else math.inf
    gap = _SIGNS[leak] * (values[0] - values[1])
    return gap / (abs(values[1]) or 1.0) if question == "relearning" else gap


def verdict(question: str, mine: Measure | None, retrained: Measure | None) -> str:
    """`SAME`, `MORE`, `LESS` or a dash."""
    gap = excess(question, mine, retrained)
    if gap is None:
        return NOTHING
    ends = ends_of(mine), ends_of(retrained)
    if math.isfinite(gap):
        if None in ends:
            alike = abs(gap) <= (SAME_EFFORT if question == "relearning" else SAME_SHARE) + _SLACK
        else:
            alike = max(ends[0][0], ends[1][0]) <= min(ends[0][1], ends[1][1])
        if alike or gap == 0:
            return SAME
    return MORE if gap > 0 else LESS
