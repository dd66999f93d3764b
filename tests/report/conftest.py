"""A made-up evaluation with the structure of `eval.json`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from osp_jax.report import report_html
from tests.report.made_up_audit import made_up_audit

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _model(rng: np.random.Generator, classes: int, forget: list[int], gone: bool, images: int = 90) -> dict[str, Any]:
    confusion = np.zeros((classes, classes), dtype=int)
    for true in range(classes):
        likes = rng.dirichlet(np.full(classes, 0.2))
        likes = 0.14 * likes + 0.86 * np.eye(classes)[true]
        if gone and true in forget:
            likes = np.where(np.isin(range(classes), forget), 0, 0.05 / classes + rng.dirichlet(np.full(classes, 0.3)))
        elif gone:
            likes = np.where(np.isin(range(classes), forget), 0, likes)
        confusion[true] = rng.multinomial(images, likes / likes.sum())
    hits = confusion.diagonal()
    others = [index for index in range(classes) if index not in forget]
    return {
        "train_retain_accuracy": 0.9871,
        "train_forget_accuracy": (0.0 if gone else 0.9812) if forget else None,
        "test_retain_accuracy": float(hits[others].sum() / confusion[others].sum()),
        "test_forget_accuracy": float(hits[forget].sum() / confusion[forget].sum()) if forget else None,
        "per_class": (hits / images).tolist(),
        "confusion": confusion.tolist(),
        "forgotten_predictions": {
            str(index): {str(answer): n / images for answer, n in enumerate(confusion[index].tolist()) if n}
            for index in forget
        },
        "measures": {},
    }


def make_evaluation(classes: int = 10, forget: tuple[int, ...] = (3,), layers: int = 5) -> dict[str, Any]:
    rng, forget = np.random.default_rng(classes), list(forget)
    names = list(CIFAR) if classes == 10 else [f"class {index}" for index in range(classes)]
    evaluation: dict[str, Any] = {
        "dataset": {
            "name": "cifar10",
            "variant": "cifar10 (TFDS 3.0.2)",
            "class_names": names,
            "image_shape": [32, 32, 3],
            "num_train": 50000,
            "num_test": 90 * classes,
        },
        "model": {"name": "resnet8", "parameters": 78042},
        "forget": forget,
        "method": "osp-fit",
        "original": _model(rng, classes, forget, gone=False),
        "provenance": {
            "command": "python -m experiments.eval --workdir=runs/demo/unlearned --reference=runs/demo/retrained",
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "seed": 0,
            "versions": {"jax": "0.10.2", "flax": "0.12.1"},
            "device": "cpu (2 cores)",
            "python": "3.11.7",
            "time": "2026-11-21T10:00:00Z",
        },
    }
    if not forget:
        return evaluation
    for key in ("unlearned", "retrained", "logit_masked"):
        evaluation[key] = _model(rng, classes, forget, gone=True)
    for model in ("original", "unlearned", "retrained"):
        evaluation[model] |= made_up_audit(rng, model)
    evaluation["audit"] = {
        "level": "full",
        "seconds": {"membership": 3.21, "relearning": 64.0, "probes": 8.5, "representation": 1.9, "recovery": 20.4},
        "settings": {"relearning": {"steps": 200, "learning_rate": 0.01}, "recovery": {}},
    }
    evaluation["channels"], masked = {}, {}
    for layer in range(layers):
        score = rng.gamma(0.7, 1.0, size=16 * 2 ** min(layer, 5))
        factor = np.where(score > np.quantile(score, 0.8), 1 / (1 + score), 1.0)
        name = f"stage{layer + 1}_block0/bn2"
        evaluation["channels"][name] = {"score": score.tolist(), "factor": factor.tolist()}
        masked[name] = int((factor < 1).sum())
    evaluation["unlearn"] = {
        "method": "osp-fit",
        "options": {"ratio": 0.2, "strength": 1.0},
        "forget": forget,
        "original": "runs/demo/model",
        "seconds": {"statistics": 0.0123, "compile": 0.51, "cold": 0.83, "warm_median": 0.00041, "warm_p95": 0.00063},
        "data_seen": {
            "request": {"train": dict.fromkeys(map(str, range(classes)), 0)},
            "statistics": {"train": dict.fromkeys(map(str, range(classes)), 5000)},
        },
        "masked_channels": masked,
        "parameters_changed": 2 * sum(masked.values()),
    }
    return evaluation


@pytest.fixture(scope="session")
def evaluate() -> Iterator[Callable[..., dict[str, Any]]]:
    return make_evaluation


@pytest.fixture(scope="session")
def default_page() -> str:
    """The page of the made-up evaluation as it is; drawing takes seconds."""
    return report_html(make_evaluation())
