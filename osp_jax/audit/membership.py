"""Membership inference: can a forgotten training image be distinguished from an unseen image of the same class?

Threshold attacks on one score: confidence (Salem et al., NDSS 2019), entropy and modified entropy (Song and Mittal,
USENIX Security 2021, eq. 8), loss (Yeom et al., CSF 2018). Classifier attacks, fitted on images of known membership and
scored on others. In addition, the protocols of three groups under their own names. These compare forgotten with
retained images, which is another question; their figures are meaningful only relative to those of the retrained model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import log_softmax

from osp_jax.audit.measure import RATES, Measure, auc, balanced, measure, no_value, roc_points, share
from osp_jax.runtime.errors import InputError

NOT_FINITE = "the logits are not finite"
Answers = tuple[np.ndarray, np.ndarray]  # logits (n, classes), labels (n,)

FOLDS = 5
_LEAKS: dict[str, str] = {
    **{f"{score}_auc": "high" for score in ("confidence", "entropy", "modified_entropy", "loss")},
    "loss_balanced_accuracy": "high",
    **{f"loss_tpr_at_{label}_fpr": "high" for label in RATES},
    **{f"{name}_{what}": "high" for name in ("logistic", "svc") for what in ("auc", "balanced_accuracy")},
    **{"kodge_svc_non_members": "low", "salun_svc_non_members": "low", "ssd_entropy_members": "high"},
}  # directions of the measures of `membership`
_FLOOR = -50.0  # of a classifier's log-probabilities: that of a masked class is minus infinity


def membership(
    answers: Mapping[str, Answers],
    *,
    whole: Mapping[str, Answers] | None = None,
    seed: int = 0,
    most: int = 1000,
    most_of_all: int | None = None,
) -> tuple[dict[str, Measure], Any]:
    """Measures by name, and the ROC curve of each attack.

    If a model's logits are not finite (`usable`), no measure has a value, and each gives the reason.

    Args:
      answers: of one model, on the parts 'train_forget', 'test_forget', 'train_retain' and 'test_retain'.
      whole: on all images of these parts, in the order of the data set, for `protocols`; None: `answers`.
      most: images per side to fit our classifiers on.
      most_of_all: as for `protocols`.

    Raises:
      InputError: the forgotten classes have too few images for a split.
    """
    for part in ("train_forget", "test_forget"):
        if len(answers[part][1]) < 2 * FOLDS:
            which, number = part.split("_")[0], len(answers[part][1])
            raise InputError(
                f"{number} {which} examples of the forgotten classes are too few to split; a membership attack needs "
                f"{2 * FOLDS}, so use --audit=none"
            )
    whole = answers if whole is None else whole
    if not all(usable(logits).all() for of in (answers, whole) for logits, _ in of.values()):
        return {name: no_value(NOT_FINITE, leak=leak) for name, leak in _LEAKS.items()}, {}
    rng = np.random.default_rng(seed)
    members, others = scores(*answers["train_forget"]), scores(*answers["test_forget"])
    measures = {f"{name}_auc": auc(members[name], others[name]) for name in members}
    roc = {name: roc_points(members[name], others[name]) for name in members}
    measures |= _fitted_threshold(members["loss"], others["loss"], rng)
    for label, rate in RATES.items():
        measures[f"loss_tpr_at_{label}_fpr"] = _tpr_at(members["loss"], others["loss"], rate)
    for name, found in _classifiers(answers["train_forget"], answers["test_forget"], most, rng).items():
        measures |= {f"{name}_auc": auc(*found), f"{name}_balanced_accuracy": balanced(found[0] > 0, found[1] <= 0)}
        roc[name] = roc_points(*found)
    return measures | protocols(whole, most_of_all), roc


def usable(logits: np.ndarray) -> np.ndarray:
    """Which rows of logits `(n, classes)` are usable, bool `(n,)`: no NaN, and a finite largest logit. Minus infinity,
    for a masked class, is allowed."""
    return np.isfinite(logits.max(-1))


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of the threshold attacks, float64 `(n,)`, larger for members."""
    log_p = log_softmax(np.asarray(logits, np.float64), axis=-1)
    return {
        "confidence": np.exp(log_p).max(-1),
        "entropy": -_entropy(log_p),
        "modified_entropy": -_modified_entropy(log_p, labels),
        "loss": log_p[np.arange(len(labels)), labels],
    }


def _entropy(log_p: np.ndarray) -> np.ndarray:
    return -np.sum(np.exp(log_p) * np.where(np.isfinite(log_p), log_p, 0), axis=-1)


def _modified_entropy(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-(1 - p_y) log p_y - sum over the other classes of p_i log(1 - p_i)."""
    p, rows = np.exp(log_p), np.arange(len(labels))
    own = p[rows, labels]
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(p < 1, p * np.log1p(-p), np.where(p > 0, -np.inf, 0))
        rest[rows, labels] = 0
        return -(np.where(own < 1, (1 - own) * log_p[rows, labels], 0) + rest.sum(-1))


def _fitted_threshold(members: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> dict[str, Measure]:
    """The loss threshold that is best on one half, scored on the other, in both directions."""
    halves = [np.array_split(rng.permutation(part), 2) for part in (members, others)]
    right: tuple[list, list] = ([], [])
    for half in (0, 1):
        fit_members, fit_others = (side[half] for side in halves)
        cuts = np.unique(np.concatenate([fit_members, fit_others]))
        at = [np.searchsorted(np.sort(side), cuts, side="left") / len(side) for side in (fit_members, fit_others)]
        cut = cuts[np.argmax((1 - at[0]) + at[1])]
        right[0].append(halves[0][1 - half] >= cut)
        right[1].append(halves[1][1 - half] < cut)
    return {"loss_balanced_accuracy": balanced(*map(np.concatenate, right))}


def _tpr_at(members: np.ndarray, others: np.ndarray, rate: float) -> Measure:
    """True-positive rate at a false-positive rate of at most `rate`; None if there are too few others to resolve it."""
    if len(others) * rate < 1:
        return measure(None, None, len(others), leak="high")
    cut = np.sort(others)[::-1][int(len(others) * rate)]
    return share(members > cut, leak="high")


def _features(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The classifiers' features of an image: the four scores, and its probabilities in descending order."""
    found = np.stack(list(scores(logits, labels).values()), axis=1)
    log_p = log_softmax(np.asarray(logits, np.float64), axis=-1)
    return np.clip(np.concatenate([found, np.sort(log_p, axis=-1)[:, ::-1]], axis=1), _FLOOR, -_FLOOR)


def _classifiers(
    members: Answers, others: Answers, most: int, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Decision values of (members, others) by classifier; every image is scored by one that was not fitted on it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    sides = [_features(*_some(side, most, rng)) for side in (members, others)]
    truth = np.repeat([1, 0], [len(side) for side in sides])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    found = {}
    for name, classifier in {
        "logistic": LogisticRegression(class_weight="balanced", max_iter=2000),
        "svc": SVC(class_weight="balanced"),
    }.items():
        pipeline = make_pipeline(StandardScaler(), classifier)
        values = cross_val_predict(pipeline, np.concatenate(sides), truth, cv=folds, method="decision_function")
        found[name] = values[truth == 1], values[truth == 0]
    return found


def protocols(answers: Mapping[str, Answers], most_of_all: int | None = None) -> dict[str, Measure]:
    """The membership figures of other groups, by their released code.

    They depend on the number of images on each side, so `answers` must cover all images, in the order of the data set;
    with equally many retained and forgotten images, the first figure would change.

    `kodge_svc_non_members` (Kodge et al., TMLR 2024): an SVC on the probability of the true class, fitted on retained
    against forgotten training images; the share of forgotten test images classified as forgotten.
    `salun_svc_non_members` (SalUn, ICLR 2024, and l1-sparse, NeurIPS 2023: MIA efficacy by confidence): fitted on
    the first retained training images, as many as there are retained test images, against these test images; the share
    of forgotten training images classified as test images.
    `ssd_entropy_members` (SSD, AAAI 2024; bad teacher, AAAI 2023): logistic regression on the entropy, retained
    training against test images; the share of forgotten training images classified as training images.

    Args:
      most_of_all: images to fit an SVC on, both sides together; the released code takes all. Both sides are reduced by
        one fraction, which keeps their ratio, evenly over the order of the data set.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    def values(part: str, score: str) -> np.ndarray:
        logits, labels = answers[part] if part != "test" else map(np.concatenate, zip(*tests, strict=True))
        found = scores(logits, labels)[score]
        return np.exp(found)[:, None] if score == "loss" else found[:, None]

    tests = answers["test_retain"], answers["test_forget"]

    def taken(classifier: Any, members: np.ndarray, others: np.ndarray, asked: np.ndarray) -> np.ndarray:
        classifier.fit(np.concatenate([members, others]), np.repeat([1, 0], [len(members), len(others)]))
        return classifier.predict(asked) == 1

    def by_svc(members: np.ndarray, others: np.ndarray, asked: np.ndarray) -> np.ndarray:
        total = len(members) + len(others)
        fraction = 1.0 if most_of_all is None else min(1.0, most_of_all / total)
        svc = SVC(C=3, gamma="auto", kernel="rbf", cache_size=1000)
        return taken(svc, *(_spread(side, fraction) for side in (members, others)), asked)

    p = {part: values(part, "loss") for part in answers}
    entropy = LogisticRegression(class_weight="balanced")
    return {
        "kodge_svc_non_members": share(~by_svc(p["train_retain"], p["train_forget"], p["test_forget"]), leak="low"),
        "salun_svc_non_members": share(
            ~by_svc(p["train_retain"][: len(p["test_retain"])], p["test_retain"], p["train_forget"]), leak="low"
        ),
        "ssd_entropy_members": share(
            taken(entropy, *(values(part, "entropy") for part in ("train_retain", "test", "train_forget"))), leak="high"
        ),
    }


def _spread(side: np.ndarray, fraction: float) -> np.ndarray:
    """A fraction of the rows of `(n, 1)`, evenly spaced."""
    number = max(round(len(side) * fraction), 1)
    return side[np.arange(number) * len(side) // number]


def _some(side: Answers, most: int, rng: np.random.Generator) -> Answers:
    chosen = rng.permutation(len(side[1]))[:most]
    return side[0][chosen], side[1][chosen]
