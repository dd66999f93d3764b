"""The questions of a comparison to every model: its accuracies, and its remaining knowledge of the class.

They are those of `osp_jax.audit`, with fewer images and steps, so that hundreds of models can be evaluated. Measures
are interpreted relative to those of the retrained model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from osp_jax.audit.accuracy import accuracy_report
from osp_jax.audit.measure import PARTS, Measure, no_value
from osp_jax.audit.membership import NOT_FINITE, membership, usable
from osp_jax.audit.probes import new_head, probes
from osp_jax.audit.relearn import Settings, relearning
from osp_jax.audit.subject import Images, Look, Subject, look_at, stages_of, whole_parts
from osp_jax.data.sources import Dataset
from osp_jax.data.splits import per_class_sample

# Names of measures by question.
ATTACK = "logistic_auc"
PROBE = "linear_probe"
HEAD = "new_head_forget_accuracy"
STEPS = "steps_to_half"

_COUNT = 50  # training images of each class for relearning
_BATCH = 32
_WATCHED = 150  # forgotten test images to evaluate relearning on
_HALF = 0.5


def comparison_images(
    dataset: Dataset, train: np.ndarray, forget: tuple[int, ...], *, test_images: int, train_images: int
) -> Images:
    """The images of a comparison, shared by all models.

    Args:
      train: indices int32 `(n,)` of the training images of the original.
      forget: class numbers; all their test images are used.
      test_images: number of test images of each other class; 0: all.
      train_images: approximate number of training images per side, the same of each class.
    """
    parts = {}
    for part, labels, chosen in whole_parts(dataset, train, forget):
        most = train_images if part.startswith("train") else test_images * len(np.unique(labels[chosen]))
        whole = part == "test_forget" or (part == "test_retain" and not test_images)
        parts[part] = chosen if whole else per_class_sample(labels, chosen, most, seed=0)
    return Images(dataset, forget, train, parts)


def looks_of(subject: Subject, images: Images) -> dict[str, Look]:
    """The outputs of a model for each part of `images`; the parts of a split are evaluated together."""
    looks = {}
    for name, split in (("train", images.dataset.train), ("test", images.dataset.test)):
        sides = [f"{name}_{side}" for side in ("forget", "retain")]
        found = look_at(subject, split, np.concatenate([images.parts[side] for side in sides]))
        first = len(images.parts[sides[0]])
        for side, rows in zip(sides, (slice(first), slice(first, None)), strict=True):
            features = {stage: values[rows] for stage, values in found.features.items()}
            looks[side] = Look(found.logits[rows], found.labels[rows], features)
    return looks


def accuracies(looks: Mapping[str, Look], forget: tuple[int, ...]) -> dict[str, Any]:
    """`accuracy_report` of these images, without the confusion matrix."""
    splits = []
    for name in ("train", "test"):
        sides = [looks[f"{name}_{side}"] for side in ("forget", "retain")]
        splits.append(tuple(np.concatenate([getattr(side, what) for side in sides]) for what in ("logits", "labels")))
    report = accuracy_report(*splits, forget)
    del report["confusion"], report["measures"]
    return report


def measures(
    subject: Subject, looks: Mapping[str, Look], images: Images, *, original_accuracy: float, steps: int
) -> dict[str, dict[str, Measure]]:
    """Membership, probe, new head and relearning measures of one model, by question and name, JSON-ready.

    Args:
      original_accuracy: accuracy of the original on the forgotten test images; relearning stops at half of it.
      steps: most steps of relearning.
    """
    last = stages_of(subject.model, images.dataset.image_shape).features
    finite = all(usable(look.logits).all() and np.isfinite(look.features[last]).all() for look in looks.values())
    answers = {part: (look.logits, look.labels) for part, look in looks.items()}
    attacks, _ = membership(answers)
    if finite:
        inside = {PROBE: probes(looks, [last])[f"linear_{last}"], **new_head(looks, last)}
    else:
        inside = {name: no_value(NOT_FINITE, leak="high") for name in (PROBE, HEAD)}
    watched = images._replace(parts={"test_forget": images.parts["test_forget"][:_WATCHED]})
    settings = Settings(counts=(_COUNT,), layers=("all_layers",), steps=steps, batch_size=_BATCH)
    again, curves = relearning(subject, watched, original_accuracy, settings, until=_HALF)
    name = f"all_layers_{_COUNT}_images"
    found = {
        "membership": attacks,
        "inside": inside,
        "relearning": {STEPS: again[f"{name}_to_50_percent"]},
    }
    kept = {q: {n: {k: v for k, v in m.items() if k != PARTS} for n, m in named.items()} for q, named in found.items()}
    return {**kept, "curve": curves[name]}
