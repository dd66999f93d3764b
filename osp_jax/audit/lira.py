"""Likelihood-ratio attacks with shadow models: do a model's outputs on an image show whether it was trained on it?

LiRA (Carlini et al., Membership Inference Attacks From First Principles, S&P 2022): Algorithm 1, online, and its
offline one-sided test. U-LiRA (Hayes et al., Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense
of Privacy, arXiv 2403.01218) asks another question: does an image that a model learned and then unlearned differ from
one that it never learned? The statistic of both is the logit-scaled confidence.

Every shadow model is the target once, attacked with Gaussians fitted to the others, so that no number is both fitted
and scored.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from osp_jax.audit.measure import RATES, Measure, half_width, measure, roc_points
from osp_jax.runtime.errors import InputError

# Scores and truth (1: member), `(k,)`, of a target, from Gaussians without it and without the given shadow models.
Score = Callable[[int, tuple[int, ...]], tuple[np.ndarray, np.ndarray]]

VARIANCES = ("auto", "global", "per-example")
_BOUND = 1e3  # of the statistic: that of a masked class is minus infinity
_SPREAD = 1e-3  # least standard deviation: the statistics of a masked class are all equal
_MANY = 64  # number of shadow models from which on Carlini et al. use per-example variances
_HALVINGS = 20  # of the retrained models, for the control
_CALIBRATION = 4  # other shadow models whose scores set a threshold


class Attack(NamedTuple):
    """Measures by name, and the ROC curve over all targets as `{"fpr": [...], "tpr": [...]}`."""

    measures: dict[str, Measure]
    roc: dict[str, list[float]]


def scaled_confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of the probability p of the true class: logits `(n, classes)`, labels `(n,)` -> float64 `(n,)`.

    It is the logit of the true class minus the log-sum-exp of the others, which is exact for p close to 0 or 1, clipped
    to +-1000. NaN outputs give -1000.
    """
    logits, rows = np.asarray(logits, np.float64), np.arange(len(labels))
    own, others = logits[rows, labels], logits.copy()
    others[rows, labels] = -np.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = own - logsumexp(others, axis=1)
    return np.clip(np.nan_to_num(scaled, nan=-_BOUND, posinf=_BOUND, neginf=-_BOUND), -_BOUND, _BOUND)


def lira(statistics: np.ndarray, keep: np.ndarray, *, variance: str = "auto", seed: int = 0) -> Attack:
    """The online attack: log-likelihood of the target's statistic if it saw the image, minus that if it did not.

    The Gaussians of each image are fitted to equally many shadow models that saw it and that did not, after dropping
    one or two at random: otherwise leaving out the target would leave fewer on its side, which would reveal it.

    Args:
      statistics: `scaled_confidence` of N shadow models, `(N, images)`.
      keep: which of them were trained on which image, bool `(N, images)`.
      variance: 'per-example'; 'global', one for all images, the mean squared distance from their means; or 'auto':
        'per-example' for 64 or more shadow models, as Carlini et al. recommend.

    Returns:
      `lira_auc`, `lira_balanced_accuracy`, `lira_tpr_at_1_percent_fpr`, `lira_tpr_at_0_1_percent_fpr`: the mean over
      targets, with a t-interval over targets and the number of scores. The threshold of the balanced accuracy is
      chosen on other shadow models, scored without the target. The last two are over all targets together, and null
      if there are too few scores to resolve such a rate.

    Raises:
      InputError: too few shadow models, an unknown variance, or an image seen by all shadow models or all but one.
    """
    _check(statistics, keep, variance, both=True)

    def score(target: int, without: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        inside, outside = _sides(keep, (target, *without), seed)
        seen = _gaussian(statistics, inside, variance)
        unseen = _gaussian(statistics, outside, variance)
        return _log_density(statistics[target], *seen) - _log_density(statistics[target], *unseen), keep[target]

    return _attack("lira", score, len(keep), seed)


def lira_offline(statistics: np.ndarray, keep: np.ndarray, *, variance: str = "auto", seed: int = 0) -> Attack:
    """The offline attack, from shadow models that did not see the image: how far above them is the target?

    The score is the statistic's distance from their mean in standard deviations; the paper's 1 - Pr[Z > statistic] is
    an increasing function of it. Arguments, returns (`lira_offline_...`) and errors as for `lira`.
    """
    _check(statistics, keep, variance, both=True)

    def score(target: int, without: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        _, outside = _sides(keep, (target, *without), seed)
        mean, deviation = _gaussian(statistics, outside, variance)
        return (statistics[target] - mean) / deviation, keep[target]

    return _attack("lira_offline", score, len(keep), seed)


def u_lira(
    unlearned: np.ndarray, retrained: np.ndarray, keep: np.ndarray, *, variance: str = "auto", seed: int = 0
) -> Attack:
    """U-LiRA: does a model that learned an image and unlearned its class differ from one that never saw the class?

    For each target and each image that it learned, the same two Gaussians score the statistics of the unlearned and of
    the retrained model: one over the other unlearned models that had learned the image, one over the other retrained
    models. Perfect unlearning has an AUC of 0.5; the attack detects any difference, in either direction.

    Args:
      unlearned, retrained: `scaled_confidence` of N shadow models each, `(N, images)`, on images of the forgotten
        classes; model i of both had the same retained images.
      keep: which of the unlearned models had learned which image, bool `(N, images)`.
      variance: as for `lira`.

    Returns:
      `u_lira_...`, as `lira`.

    Raises:
      InputError: too few shadow models, an unknown variance, or an image that none or only one had learned.
    """
    _check(unlearned, keep, variance, both=False)

    def score(target: int, without: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        others = np.ones(len(keep), bool)
        others[[target, *without]] = False
        images, others = keep[target], others[:, None]
        learned = _gaussian(unlearned[:, images], keep[:, images] & others, variance)
        never = _gaussian(retrained[:, images], np.broadcast_to(others, (len(keep), images.sum())), variance)
        values = np.stack([unlearned[target, images], retrained[target, images]])
        scores = _log_density(values, *learned) - _log_density(values, *never)
        return scores.ravel(), np.repeat([True, False], images.sum())

    return _attack("u_lira", score, len(keep), seed)


def check_halves(number: int) -> None:
    """Raises `InputError` for fewer shadow models than the control of U-LiRA needs, 8."""
    if number < 8:
        raise InputError(
            f"{number} shadow models cannot be halved for the control of U-LiRA; train at least 8 (--number)"
        )


def retrained_control(retrained: np.ndarray, *, variance: str = "auto", seed: int = 0) -> Attack:
    """U-LiRA on models that never saw the class, as a control.

    A random half of them takes the place of the unlearned models, repeatedly. By symmetry the mean AUC over all
    halvings is 0.5; the spread over halvings shows the noise level, which is large for few shadow models because whole
    networks differ.

    Args:
      retrained: `scaled_confidence` of N retrained shadow models, `(N, images)`.

    Returns:
      `u_lira_...`, the mean over halvings and the interval that 95% of these lie in; the curve of the median AUC.

    Raises:
      InputError: fewer than 8 shadow models.
    """
    check_halves(len(retrained))
    rng, half, attacks = np.random.default_rng(seed), len(retrained) // 2, []
    for _ in range(_HALVINGS):
        order = rng.permutation(len(retrained))
        first, second = retrained[order[:half]], retrained[order[half : 2 * half]]
        attacks.append(u_lira(first, second, np.ones(first.shape, bool), variance=variance, seed=seed))
    attacks.sort(key=lambda attack: attack.measures["u_lira_auc"]["value"])
    return Attack(
        {name: _over_halvings([attack.measures[name] for attack in attacks]) for name in attacks[0].measures},
        attacks[len(attacks) // 2].roc,
    )


def _over_halvings(found: list[Measure]) -> Measure:
    values = [one["value"] for one in found]
    if values[0] is None:
        return found[0]
    return measure(np.mean(values), tuple(np.percentile(values, (2.5, 97.5))), found[0]["n"], leak="high")


# Gaussians of the other shadow models


def _sides(keep: np.ndarray, left_out: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Who saw an image and who did not, without `left_out` and equally many of each: bool `(N, images)` twice."""
    rng = np.random.default_rng([seed, *left_out])
    inside, outside = keep.copy(), ~keep
    inside[list(left_out)] = outside[list(left_out)] = False
    while True:
        excess = inside.sum(0) - outside.sum(0)
        if not excess.any():
            return inside, outside
        for side, larger in ((inside, excess > 0), (outside, excess < 0)):
            dropped = np.argmax(rng.random(side.shape, np.float32) * side, axis=0)
            side[dropped[larger], np.flatnonzero(larger)] = False


def _gaussian(values: np.ndarray, chosen: np.ndarray, variance: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by image, `(images,)`, of the chosen of `values` `(N, images)`; NaN without any."""
    count = chosen.sum(0)
    with np.errstate(invalid="ignore"):
        mean = np.where(chosen, values, 0).sum(0) / np.where(count, count, np.nan)
    squares = np.where(chosen, (values - mean) ** 2, 0).sum(0)
    freedom = np.maximum(count - 1, 0)
    if variance == "global" or (variance == "auto" and len(values) < _MANY):
        squares, freedom = squares.sum(), freedom.sum()
    return mean, np.maximum(np.sqrt(squares / np.maximum(freedom, 1)), _SPREAD)


def _log_density(values: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The log density of a Gaussian, up to a constant."""
    return -0.5 * ((values - mean) / deviation) ** 2 - np.log(deviation)


# Measures of all attacks


def _attack(name: str, score: Score, number: int, seed: int) -> Attack:
    from sklearn.metrics import roc_auc_score

    scored = [_drop_unscored(*score(target, ())) for target in range(number)]
    scores, truth = (np.concatenate(parts) for parts in zip(*scored, strict=True))
    thresholds = [_threshold(score, target, number, seed) for target in range(number)]
    found = {
        "auc": [roc_auc_score(true, own) for own, true in scored],
        "balanced_accuracy": [
            ((own >= cut)[true].mean() + (own < cut)[~true].mean()) / 2
            for (own, true), cut in zip(scored, thresholds, strict=True)
        ],
    }
    measures = {f"{name}_{what}": _over_targets(values, len(scores)) for what, values in found.items()}
    others = np.sort(scores[~truth])
    for label, rate in RATES.items():
        allowed = int(rate * len(others))
        above = [(own > others[-1 - allowed])[true].mean() for own, true in scored] if allowed else None
        measures[f"{name}_tpr_at_{label}_fpr"] = _over_targets(above, len(scores))
    return Attack(measures, roc_points(scores[truth], scores[~truth]))


def _threshold(score: Score, target: int, number: int, seed: int) -> float:
    """The lowest score of a member: the threshold with the best balanced accuracy on some other shadow models, which
    are scored without the target."""
    from sklearn.metrics import roc_curve

    rest = np.setdiff1d(np.arange(number), [target])
    chosen = np.random.default_rng([seed, target]).permutation(rest)[:_CALIBRATION]
    parts = [_drop_unscored(*score(other, (target,))) for other in chosen]
    scores, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
    if truth.all() or not truth.any():
        return 0.0  # both are equally likely
    fpr, tpr, thresholds = roc_curve(truth, scores)
    best = thresholds[np.argmax(tpr - fpr)]
    below = scores[scores < best]
    return float((best + below.max()) / 2 if len(below) else best)  # the middle of the gap, if there is one


def _drop_unscored(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drops the images that have no shadow model left."""
    known = np.isfinite(scores)
    return scores[known], truth[known]


def _over_targets(values: list[float] | None, n: int) -> Measure:
    """Mean over targets and its t-interval, within 0..1; too narrow, because targets share shadow models."""
    if values is None:
        return measure(None, None, n, leak="high")
    mean, half = np.mean(values), half_width(values)
    ends = max(0.0, mean - half), min(1.0, mean + half)
    return measure(mean, ends, n, leak="high", parts=[np.asarray(values, np.float64)])


def _check(statistics: np.ndarray, keep: np.ndarray, variance: str, *, both: bool) -> None:
    """Raises `InputError` for unusable arguments; `both`: shadow models that did not see an image are needed too."""
    if variance not in VARIANCES:
        raise InputError(f"variance {variance!r} is none of {', '.join(VARIANCES)}; choose one of them")
    if len(keep) < 4:
        raise InputError(f"{len(keep)} shadow models are too few for a likelihood-ratio attack; train at least 4")
    if not statistics.size:
        raise InputError("there is no example to attack; the pool of the shadow models must hold the forgotten classes")
    seen = keep.sum(0)
    if seen.min() < 2 or not keep.any(1).all():
        raise InputError("an example or a shadow model has fewer than 2 members; draw the halves by draw_keep")
    if both and ((~keep).sum(0).min() < 2 or keep.all(1).any()):
        raise InputError("some example was seen by all shadow models but one; draw the halves by draw_keep")
