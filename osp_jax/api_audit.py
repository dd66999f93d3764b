"""The public audit: measures what an unlearned model still knows, and makes the report.

audit = osp_jax.audit(model, result.model, (images, labels, test_images, test_labels), request=result.report)
audit.to_html("report.html")
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import linen as nn

from osp_jax.api import PadMode, Result
from osp_jax.api_arguments import check_fits, given_preparation
from osp_jax.audit.accuracy import accuracy_report, without_logits
from osp_jax.audit.run import LEVELS, settings_of
from osp_jax.audit.run import audit as ask
from osp_jax.audit.subject import Subject, images_of
from osp_jax.data.given import dataset_of_arrays
from osp_jax.data.sources import Dataset
from osp_jax.data.splits import without_classes
from osp_jax.forward import predict_logits
from osp_jax.methods.parts.door import check_model
from osp_jax.model import Model, parameters_of
from osp_jax.report.page import report_html, report_markdown
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.replacing import write_text


@dataclasses.dataclass(frozen=True)
class Audit:
    """The result of an audit: `report` is JSON-ready, with the fields of `eval.json`."""

    report: dict[str, Any]

    def to_html(self, path: str | Path) -> None:
        """Writes the report as one self-contained page. Raises `OSError` if that fails."""
        write_text(Path(path), report_html(self.report))

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Returns the report as Markdown, and writes it to `path` if one is given."""
        text = report_markdown(self.report)
        if path is not None:
            write_text(Path(path), text)
        return text


def audit(
    model: Model,
    unlearned: Model,
    data: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | Dataset,
    *,
    reference: Model | None = None,
    request: Mapping[str, Any] | None = None,
    level: Literal["none", "quick", "full"] = "quick",
    name: str = "",
    pad: int = 0,
    flip: bool = False,
    cutout: int = 0,
    pad_mode: PadMode = "reflect",
) -> Audit:
    """Measures what an unlearned model still knows, against the original and, if given, a retrained reference.

        audit = osp_jax.audit(model, result.model, (images, labels, test_images, test_labels), request=result.report)
        audit.report["unlearned"]["test_forget_accuracy"]
        audit.to_html("report.html")

    It measures accuracy, membership attacks, relearning, probes, feature similarity and class recovery. Attacks with
    shadow models train many models by the recipe of the original; `experiments.eval` runs them.

    Args:
      model: the model before the request.
      unlearned: the model after it; the audit covers the classes that `unlearned` has forgotten and `model` has not.
      data: `(train_images, train_labels, test_images, test_labels)`, uint8 `(n, h, w, c)` and int `(n,)`, or an
        `osp_jax.data.sources.Dataset`. Training images are those of `model`, of all its classes.
      reference: a model retrained without the classes.
      request: `report` of the request, shown on the page.
      level: 'none' measures accuracy only; 'full' uses more images and repeats, and attacks that train.
      name: name of the network, shown on the page.
      pad, flip, cutout, pad_mode: augmentation for relearning, as in `unlearn`.

    Returns:
      `report`, `to_html` and `to_markdown`.

    Raises:
      InputError: the models have different classes, no class was forgotten between them, data have the wrong type or
        shape, or there are too few images of the forgotten classes.
    """
    _check_models(model, unlearned, reference)
    forget = tuple(sorted({*unlearned.forgotten} - {*model.forgotten}))
    if not forget:
        raise InputError("unlearned has forgotten no class that model has; give the models before and after a request")
    if level not in ("none", *LEVELS):
        raise unknown("level", level, ("none", *LEVELS))
    dataset = dataset_of_arrays(data, model.class_names)
    for split in (dataset.train, dataset.test):
        check_fits(model, split)
    preparation = given_preparation(model, pad, flip, cutout, pad_mode)
    train, test = (without_classes(split.labels, model.forgotten) for split in (dataset.train, dataset.test))
    models = {"original": model, "unlearned": unlearned, **({"retrained": reference} if reference else {})}

    def answers(of: Model) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (predict_logits(of, split, indices), split.labels[indices])
            for split, indices in ((dataset.train, train), (dataset.test, test))
        ]

    found = {key: answers(of) for key, of in models.items()}
    hidden = [(without_logits(logits, forget), labels) for logits, labels in found["original"]]
    reports = {key: accuracy_report(of[0], of[1], forget) for key, of in {**found, "logit_masked": hidden}.items()}
    record = None
    if level != "none":
        asked = LEVELS[level]
        subjects = {key: Subject(of, preparation._replace(mean=of.mean, std=of.std)) for key, of in models.items()}
        images = images_of(dataset, train, forget, asked.images, seed=0)
        measured, seconds = ask(subjects, images, asked, answers=found)
        reports = {key: report | measured.get(key, {}) for key, report in reports.items()}
        record = {"level": level, "models": len(models), "seconds": seconds, "settings": settings_of(asked)}
    request = dict(request or {})
    return Audit(
        {
            "dataset": _about(dataset, train, test),
            "model": {"name": name or _network_name(model), "parameters": parameters_of(model)},
            "forget": list(forget),
            "method": request.get("method"),
            **reports,
            "audit": record,
            "channels": request.pop("channels", {}),
            "unlearn": request or None,
            "provenance": provenance(0),
        }
    )


def _check_models(model: Any, unlearned: Any, reference: Any) -> None:
    if isinstance(unlearned, Result):
        raise InputError("unlearned is the result of a request; give its model (result.model)")
    named = {"model": model, "unlearned": unlearned}
    for what, of in (named | ({"reference": reference} if reference is not None else {})).items():
        check_model(of, what)
        if of.class_names != model.class_names:
            raise InputError(f"{what} has other classes than model; give models of the same classes")


def _about(dataset: Dataset, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "variant": dataset.variant,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "num_train": len(train),
        "num_test": len(test),
    }


def _network_name(model: Model) -> str:
    module = getattr(model.apply, "module", None)
    return type(module).__name__ if isinstance(module, nn.Module) else getattr(model.apply, "__name__", "network")
