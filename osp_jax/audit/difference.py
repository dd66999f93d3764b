"""The difference of each measure between a model and the retrained one, with its 95% interval.

Both models see the same images, so measures that are means over images (`measure.PARTS`) are compared image by image.
Such an interval is narrower than one computed from the two models' intervals, whose overlap is no test at 5%.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from osp_jax.audit.measure import PARTS, Measure, Parts

_NORMAL = float(stats.norm.ppf(0.975))


def with_differences(
    models: Mapping[str, Mapping[str, Mapping[str, Measure]]], retrained: str = "retrained"
) -> dict[str, dict[str, dict[str, Measure]]]:
    """The measures by model, question and name, JSON-ready: each with its `difference` from the measure of the model
    `retrained`, if both have a value; without such a model there are no differences."""
    its = models.get(retrained, {})

    def finished(question: str, name: str, mine: Measure, compare: bool) -> Measure:
        kept = {key: value for key, value in mine.items() if key != PARTS}
        found = difference(mine, its.get(question, {}).get(name)) if compare else None
        return kept if found is None else {**kept, "difference": found}

    return {
        model: {
            question: {name: finished(question, name, mine, model != retrained) for name, mine in named.items()}
            for question, named in questions.items()
        }
        for model, questions in models.items()
    }


def difference(mine: Measure, other: Measure | None) -> dict[str, Any] | None:
    """`{"value", "ci95", "paired"}` of `mine` minus `other`; None if one has no value.

    `paired`: computed image by image. Otherwise the interval is that of two independent values, and None if one of them
    has no interval.
    """
    values = mine.get("value"), (other or {}).get("value")
    if None in values:
        return None
    gap, parts = values[0] - values[1], (mine.get(PARTS), other.get(PARTS))
    paired = None not in parts and _same_images(*parts)
    ends = paired_interval(gap, *parts) if paired else independent_interval(mine, other)
    return {"value": float(gap), "ci95": None if ends is None else [float(end) for end in ends], "paired": paired}


def paired_interval(gap: float, mine: Parts, other: Parts) -> tuple[float, float]:
    """The 95% interval of a difference from paired results on the same images.

    For shares (bool) it follows Agresti and Min (Biometrics 2005): a half is added to each cell of the table of both
    models' results, so that it stays open if they agree on all images. A value of two shares is their mean. Otherwise
    it is Student's t over the images' differences.
    """
    if mine[0].dtype == bool:
        centre = variance = 0.0
        for a, b in zip(mine, other, strict=True):
            n, up, down = len(a) + 2, np.sum(a & ~b) + 0.5, np.sum(~a & b) + 0.5
            centre += (up - down) / n / len(mine)
            variance += ((up + down) / n - ((up - down) / n) ** 2) / n / len(mine) ** 2
        half = _NORMAL * math.sqrt(variance)
        return max(-1.0, min(centre - half, gap)), min(1.0, max(centre + half, gap))
    variance = sum(np.var(a - b, ddof=1) / len(a) for a, b in zip(mine, other, strict=True) if len(a) > 1)
    half = stats.t.ppf(0.975, max(min(map(len, mine)) - 1, 1)) * math.sqrt(variance)
    return gap - half, gap + half


def independent_interval(mine: Measure, other: Measure) -> tuple[float, float] | None:
    """The 95% interval of the difference of two independent values from their 95% intervals, which may be asymmetric
    (Zou and Donner, Statistics in Medicine 2008); None if one has none."""
    if None in (ends := (mine.get("ci95"), other.get("ci95"))):
        return None
    (low, high), (other_low, other_high) = ends
    if any(end is None or not math.isfinite(end) for pair in ends for end in pair):
        return None
    value, its = mine["value"], other["value"]
    return (
        value - its - math.hypot(value - low, other_high - its),
        value - its + math.hypot(high - value, its - other_low),
    )


def _same_images(mine: Parts, other: Parts) -> bool:
    return [(a.shape, a.dtype) for a in mine] == [(b.shape, b.dtype) for b in other]
