"""Probes of every stage, and a new head on the last: do the features still encode the class?

A probe is fitted on training images and scored on test images. A network that never saw the class also separates it to
some degree: only the excess over the retrained network's figure was learned from the class and kept.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from osp_jax.audit.measure import Measure, balanced, share
from osp_jax.audit.subject import Look

NEIGHBOURS = 10


def probes(looks: Mapping[str, Look], stages: Sequence[str], *, most: int = 1000) -> dict[str, Measure]:
    """Balanced accuracy of forgotten against retained by stage and probe, and the accuracies of a refitted head.

    Args:
      looks: looks of one model, by part.
      stages: the names of features to probe; the last is the new head's input.
      most: training images per side to fit a probe on.
    """
    measures = {}
    for stage in stages:
        for name, predict in (("linear", _linear), ("knn", _nearest)):
            measures[f"{name}_{stage}"] = _probe(looks, stage, predict, most)
    return measures | new_head(looks, stages[-1], most=most)


def new_head(looks: Mapping[str, Look], stage: str, *, most: int = 1000) -> dict[str, Measure]:
    """Test accuracies of a multinomial logistic regression on all classes, fitted on the features of a stage."""
    train = [_first(looks[f"train_{side}"], stage, most) for side in ("forget", "retain")]
    labels = np.concatenate([looks[f"train_{side}"].labels[:most] for side in ("forget", "retain")])
    head = _regression().fit(np.concatenate(train), labels)

    def accuracy(side: str) -> Measure:
        look = looks[f"test_{side}"]
        return share(head.predict(look.features[stage]) == look.labels, leak="high" if side == "forget" else None)

    return {f"new_head_{side}_accuracy": accuracy(side) for side in ("forget", "retain")}


def _probe(looks, stage, predict, most) -> Measure:
    number = min(most, *(len(looks[f"train_{side}"].labels) for side in ("forget", "retain")))
    train = [_first(looks[f"train_{side}"], stage, number) for side in ("forget", "retain")]
    asked = [looks[f"test_{side}"].features[stage] for side in ("forget", "retain")]
    found = predict(np.concatenate(train), np.repeat([1, 0], number), np.concatenate(asked))
    forgotten, retained = np.split(found, [len(asked[0])])
    return balanced(forgotten == 1, retained == 0)


def _linear(features: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return _regression().fit(features, truth).predict(asked)


def _nearest(features: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(features)))
    return make_pipeline(StandardScaler(), neighbours).fit(features, truth).predict(asked)


def _regression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))


def _first(look: Look, stage: str, number: int) -> np.ndarray:
    return look.features[stage][:number]
