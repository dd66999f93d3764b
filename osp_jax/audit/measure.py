"""A measured value with its 95% interval and number of images, JSON-ready.

`leak` gives the direction of the value: 'high' if a larger value means that more of the forgotten class is left, 'low'
if a smaller one does, None if neither. A value is always interpreted relative to the retrained model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

Measure = dict[str, Any]
# The parts of a value, for `differences`: arrays `(n,)`, one per sample of images, whose means sum to the value up to a
# constant. They are stored under `PARTS` until `differences` has compared them, and are never written.
Parts = Sequence[np.ndarray]

PARTS = "parts"
RATES = {"1_percent": 0.01, "0_1_percent": 0.001}  # false-positive rates at which the true-positive rate is reported


def measure(
    value: float | None,
    ci95: Sequence[float] | None = None,
    n: int | None = None,
    *,
    leak: str | None = None,
    parts: Parts | None = None,
) -> Measure:
    """A measure; `value` is None if there was nothing to measure. JSON-ready without `parts`."""
    known = value is not None and np.isfinite(value)
    ends = [float(end) for end in ci95] if known and ci95 is not None else None
    found = {"value": float(value) if known else None, "ci95": ends, "n": n, "leak": leak}
    return {**found, PARTS: tuple(parts)} if known and parts is not None else found


def no_value(why: str, *, leak: str | None = None) -> Measure:
    """A measure that cannot be taken; `why` is a short reason, such as "the logits are not finite"."""
    return {**measure(None, leak=leak), "why": why}


def never(limit: int, n: int | None = None, *, leak: str | None = None) -> Measure:
    """A measure of an event that did not occur up to `limit`."""
    return {**measure(None, None, n, leak=leak), "never": limit}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95% score interval of a share of `n` > 0 (Wilson 1927, JASA 22), which is valid at 0 and 1."""
    low, high = stats.binomtest(int(hits), int(n)).proportion_ci(method="wilson")
    return min(float(low), hits / n), max(float(high), hits / n)


def share(hits: np.ndarray, *, leak: str | None = None) -> Measure:
    """The share of `hits`, bool `(n,)`, with its Wilson interval."""
    if not len(hits):
        return measure(None, None, 0, leak=leak)
    parts = [np.asarray(hits, bool)]
    return measure(float(np.mean(hits)), wilson(np.sum(hits), len(hits)), len(hits), leak=leak, parts=parts)


def mean(values: np.ndarray, *, leak: str | None = None) -> Measure:
    """The mean of `values` `(n,)` with a normal interval; None as the interval of a single value."""
    if not len(values):
        return measure(None, None, 0, leak=leak)
    value = np.mean(values)
    if len(values) == 1:
        return measure(value, None, 1, leak=leak)
    half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
    return measure(value, (value - half, value + half), len(values), leak=leak, parts=[values])


def half_width(values: Sequence[float]) -> float:
    """Half of the 95% interval of the mean of two or more `values`, by Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def auc(members: np.ndarray, others: np.ndarray, *, leak: str | None = "high") -> Measure:
    """Area under the ROC curve of scores `(m,)` against `(k,)`, larger for members; ties count half.

    The interval is DeLong's (1988, Biometrics 44).
    """
    m, k = len(members), len(others)
    if not (m and k):
        return measure(None, None, m + k, leak=leak)
    both = stats.rankdata(np.concatenate([members, others]))
    above = (both[:m] - stats.rankdata(members)) / k  # share of the others that a member outranks
    below = 1 - (both[m:] - stats.rankdata(others)) / m
    value = above.mean()
    variance = sum(part.var(ddof=1) / len(part) for part in (above, below) if len(part) > 1)
    half = 1.96 * np.sqrt(variance)
    ends = max(0.0, value - half), min(1.0, value + half)
    # The structural components of DeLong et al.; their covariance is that of two areas on the same images.
    return measure(value, ends, m + k, leak=leak, parts=[above, below])


def bootstrap(
    statistic: Callable[..., float], *samples: np.ndarray, draws: int = 500, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `statistic(*samples)`; every sample is resampled independently."""
    rng = np.random.default_rng(seed)
    values = [statistic(*(s[rng.integers(0, len(s), len(s))] for s in samples)) for _ in range(draws)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def balanced(members: np.ndarray, others: np.ndarray, *, leak: str | None = "high") -> Measure:
    """Balanced accuracy from whether each member and each non-member was classified correctly; bootstrap interval."""
    if not (len(members) and len(others)):
        return measure(None, None, len(members) + len(others), leak=leak)

    def value(a: np.ndarray, b: np.ndarray) -> float:
        return (a.mean() + b.mean()) / 2

    ends = bootstrap(value, members, others)
    parts = [np.asarray(members, bool), np.asarray(others, bool)]
    return measure(value(members, others), ends, len(members) + len(others), leak=leak, parts=parts)


def roc_points(members: np.ndarray, others: np.ndarray, most: int = 200) -> dict[str, list[float]]:
    """The ROC curve for a figure, thinned evenly in the logarithm of the false-positive rate."""
    from sklearn.metrics import roc_curve

    truth = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    scores = np.nan_to_num(np.concatenate([members, others]), posinf=1e30, neginf=-1e30)
    fpr, tpr, _ = roc_curve(truth, scores)
    wanted = np.concatenate([[0.0], np.geomspace(1e-4, 1, most - 1)])
    at = np.unique(np.searchsorted(fpr, wanted, side="right") - 1)
    return {"fpr": fpr[at].tolist(), "tpr": tpr[at].tolist()}
