"""Runs all questions of an audit on the original, the unlearned and the retrained model."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from osp_jax.audit import recovery, relearn
from osp_jax.audit.accuracy import closeness, predictions_of
from osp_jax.audit.difference import with_differences
from osp_jax.audit.measure import Measure, mean, no_value
from osp_jax.audit.membership import NOT_FINITE, Answers, membership, scores, usable
from osp_jax.audit.probes import probes
from osp_jax.audit.representation import representation
from osp_jax.audit.shadow.statistics import ShadowSets, ratio_attacks
from osp_jax.audit.subject import Images, Look, Subject, look, stages_of
from osp_jax.forward import predict_logits
from osp_jax.methods.parts.fresh import fresh_variables

PARTS = ("train_forget", "train_retain", "test_forget", "test_retain")
MAP_POINTS = 1000


class Level(NamedTuple):
    """The extent of an audit: `images` per part, the settings of each question, and whether every stage is probed.

    `protocol_images`: images to fit an SVC of other groups' membership protocols on; None: all, as in their code.
    """

    images: int
    every_stage: bool
    relearning: relearn.Settings
    recovery: recovery.Settings
    training: bool  # whether to run recovery attacks that train
    protocol_images: int | None = None


LEVELS = {
    "quick": Level(
        images=500,
        every_stage=False,
        relearning=relearn.Settings(counts=(50,), layers=("all_layers",), steps=100),
        recovery=recovery.Settings(),
        training=False,
        protocol_images=10_000,
    ),
    "full": Level(
        images=1000,
        every_stage=True,
        relearning=relearn.Settings(draws=3),
        recovery=recovery.Settings(),
        training=True,
    ),
}


def audit(
    subjects: Mapping[str, Subject],
    images: Images,
    level: Level,
    shadows: ShadowSets | None = None,
    on_work: Callable[[str], None] = lambda _: None,
    answers: Mapping[str, Sequence[Answers]] | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """`measures` (by question and name) and `curves` by model, and the seconds of each question.

    Each measure has its `difference` from that of the retrained model, if there is one (`difference.py`). If the
    outputs of a network are not finite, its measures have no value and give the reason.

    Args:
      subjects: 'original', 'retrained' if available, and any number of unlearned models under other names.
      shadows: for the likelihood-ratio attacks; the names in `requests` are those of the unlearned models.
      answers: (logits, labels) by model on all images of `images.train` and on all test images, which the membership
        protocols of other groups need; None: they are computed.
      on_work: called with a short description for each of the `pieces(subjects, shadows)` pieces of work.

    Raises:
      InputError: the forgotten classes have too few images.
    """
    found: dict[str, dict[str, Any]] = {name: {"measures": {}, "curves": {}} for name in subjects}
    seconds: dict[str, float] = {}

    @contextmanager
    def asking(question: str, name: str) -> Iterator[tuple[dict[str, dict[str, Measure]], dict[str, Any]]]:
        on_work(f"{question}: {name}")
        start = time.perf_counter()
        yield found[name]["measures"], found[name]["curves"]
        seconds[question] = seconds.get(question, 0.0) + time.perf_counter() - start

    looks = {}
    for name, subject in subjects.items():
        with asking("features", name):
            looks[name] = {part: look(subject, images, part) for part in PARTS}
    random = _random(subjects["original"], images)
    stages = list(looks["original"]["test_forget"].features)
    last = _last_stage(subjects["original"], images, stages)
    right = {name: {part: _accuracy(found) for part, found in of_model.items()} for name, of_model in looks.items()}
    finite = {name: _all_finite(of_model) for name, of_model in looks.items()}
    axes = _axes(looks["original"], last) if finite["original"] else None

    for name, subject in subjects.items():
        mine = looks[name]
        with asking("membership", name) as (measures, curves):
            sample = {part: (mine[part].logits, mine[part].labels) for part in PARTS}
            of_all = answers[name] if answers else _answers(subject, images)
            measures["membership"], curves["roc"] = membership(
                sample, whole=_by_part(of_all, images.forget), most_of_all=level.protocol_images
            )
        with asking("relearning", name) as (measures, curves):
            settings = level.relearning
            measures["relearning"], curves["relearning"] = relearn.relearning(
                subject, images, right["original"]["test_forget"], settings
            )
        with asking("probes", name) as (measures, curves):
            probed = [*(s for s in stages if s != last), last] if level.every_stage else [last]
            if finite[name]:
                measures["probes"] = probes(mine, probed)
            else:
                measures["probes"] = _without_values(found, "probes")
            if finite[name] and axes is not None:
                curves["map"] = _map(mine, last, axes)
        with asking("representation", name) as (measures, curves):
            known = [other for other in _others(subjects) if finite[other]]
            others = {other: (looks[other]["test_forget"], subjects[other].model) for other in known}
            if finite[name] and "original" in others:
                measures["representation"], curves["cka"] = representation(
                    mine["test_forget"], subject.model, others, random, last
                )
            else:
                measures["representation"] = _without_values(found, "representation")
        with asking("recovery", name) as (measures, _):
            measures["recovery"] = recovery.recovery(
                subject, images, subjects["original"], level.recovery, training=level.training
            )
    if shadows:
        start = time.perf_counter()
        for name, attacks in ratio_attacks(shadows, images.forget, on_shadow=on_work).items():
            for attack, (measures, roc) in attacks.items():
                found[name]["measures"]["membership"] |= measures
                found[name]["curves"]["roc"][attack] = roc
        seconds["shadow models"] = time.perf_counter() - start
    for name, of_model in found.items():
        measures = of_model["measures"]
        entropy = mean(-scores(looks[name]["test_forget"].logits, looks[name]["test_forget"].labels)["entropy"])
        measures["accuracy"] = {"entropy_of_forgotten": entropy}
        if "retrained" in found:
            yardstick = found["retrained"]["measures"]
            measures["relearning"] |= relearn.anamnesis(measures["relearning"], yardstick["relearning"])
            members = [m["membership"]["salun_svc_non_members"]["value"] for m in (measures, yardstick)]
            gap = None if None in members else members[0] - members[1]
            measures["accuracy"] |= closeness(right[name], right["retrained"], [gap])
    compared = with_differences({name: of_model["measures"] for name, of_model in found.items()})
    return {name: {**of_model, "measures": compared[name]} for name, of_model in found.items()}, seconds


def pieces(subjects: Mapping[str, Subject], shadows: ShadowSets | None = None) -> int:
    """The number of pieces of work in an audit of these models."""
    return 6 * len(subjects) + (len(shadows.every.keep) * len(shadows.requests) if shadows else 0)


def settings_of(level: Level, shadows: ShadowSets | None = None) -> dict[str, Any]:
    """The settings of an audit by question, JSON-ready."""
    return {
        "images": {"a part": level.images, "of the protocols": level.protocol_images or "all"},
        "relearning": level.relearning._asdict(),
        "recovery": level.recovery._asdict() if level.training else {},
        **({"shadow models": {"number": len(shadows.every.keep)}} if shadows else {}),
    }


def _others(subjects: Mapping[str, Subject]) -> list[str]:
    return [name for name in ("original", "retrained") if name in subjects]


def _accuracy(found: Look) -> float:
    return float((predictions_of(found.logits) == found.labels).mean())


def _all_finite(looks: Mapping[str, Look]) -> bool:
    """Whether a model's features and its logits, except masked ones, are finite."""
    return all(
        usable(look.logits).all() and all(np.isfinite(features).all() for features in look.features.values())
        for look in looks.values()
    )


def _without_values(found: Mapping[str, dict[str, Any]], question: str) -> dict[str, Measure]:
    """The measures of a question, as another model has them, without values."""
    named = next((of["measures"][question] for of in found.values() if of["measures"].get(question)), {})
    return {name: no_value(NOT_FINITE, leak=measure["leak"]) for name, measure in named.items()}


def _answers(subject: Subject, images: Images) -> list[Answers]:
    """(logits, labels) on all training images and on all test images."""
    asked = (
        (images.dataset.train, images.train),
        (images.dataset.test, np.arange(len(images.dataset.test.labels), dtype=np.int32)),
    )
    return [(predict_logits(subject.model, split, indices), split.labels[indices]) for split, indices in asked]


def _by_part(answers: Sequence[Answers], forget: tuple[int, ...]) -> dict[str, Answers]:
    parts = {}
    for split, (logits, labels) in zip(("train", "test"), answers, strict=True):
        gone = np.isin(labels, list(forget))
        for side, chosen in (("forget", gone), ("retain", ~gone)):
            parts[f"{split}_{side}"] = logits[chosen], labels[chosen]
    return parts


def _random(original: Subject, images: Images) -> Look | None:
    """The look of an untrained network of the same kind on the forgotten test images; None if the model has no
    `init`."""
    model = original.model
    if model.init is None:
        return None
    fresh = model.replace(variables=fresh_variables(model, images.dataset.image_shape, jax.random.key(0)))
    return look(original._replace(model=fresh), images, "test_forget")


def _last_stage(subject: Subject, images: Images, stages: list[str]) -> str:
    """The stage that the head reads; the last stage if the head reads something else."""
    return stages_of(subject.model, images.dataset.image_shape).features


def _axes(looks: Mapping[str, Look], stage: str) -> tuple[np.ndarray, np.ndarray]:
    """Centre and first two principal axes of the original's features of test images, shared by all models' maps."""
    features = np.concatenate([looks["test_forget"].features[stage], looks["test_retain"].features[stage]])
    centre = features.mean(0)
    return centre, np.linalg.svd(features - centre, full_matrices=False)[2][:2]


def _map(looks: Mapping[str, Look], stage: str, axes: tuple[np.ndarray, np.ndarray]) -> dict[str, list]:
    centre, directions = axes
    sides = [looks[f"test_{side}"].features[stage][: MAP_POINTS // 2] for side in ("forget", "retain")]
    points = (np.concatenate(sides) - centre) @ directions.T
    forgotten = np.repeat([True, False], [len(side) for side in sides])
    return {"x": points[:, 0].tolist(), "y": points[:, 1].tolist(), "forgotten": forgotten.tolist()}
