"""A made-up audit of one model, with the structure of `eval.json`: measures of every question, and curves.

The original knows the class, the unlearned model a little of it, the retrained one nothing.
"""

from typing import Any

import numpy as np

LAYERS = ["stem/norm", *(f"stage{stage}_block{block}/norm2" for stage in (1, 2, 3) for block in (0, 1))]
LEFT = {"original": 1.0, "unlearned": 0.4, "retrained": 0.0}


def made_up_audit(rng: np.random.Generator, model: str) -> dict[str, Any]:
    left = LEFT[model]

    def measure(value: float | None, leak: str | None, half: float | None = None, n: int | None = 180, **more) -> dict:
        ends = None if half is None or value is None else [max(0.0, value - half), min(1.0, value + half)]
        return {"value": value, "ci95": ends, "n": n, "leak": leak, **more}

    def steps(value: int | None) -> dict:
        return measure(value, "low", n=3) if value else measure(None, "low", n=3, never=200)

    membership = {
        "confidence_auc": measure(0.5 + 0.2 * left, "high", 0.05),
        "entropy_auc": measure(0.5 + 0.21 * left, "high", 0.05),
        "modified_entropy_auc": measure(0.5 + 0.22 * left, "high", 0.04),
        "logistic_balanced_accuracy": measure(0.5 + 0.1 * left, "high", 0.1),
        "loss_tpr_at_1_percent_fpr": measure(0.01 + 0.05 * left, "high", 0.03),
        "loss_tpr_at_0_1_percent_fpr": measure(None, "high"),
        "u_lira_auc": measure(0.51 + 0.4 * left, "high", 0.04),
        "salun_svc_non_members": measure(0.95 - 0.9 * left, "low", 0.03),
    }
    never = left < 0.2
    relearning = {
        "all_layers_5_images_to_50_percent": steps(int(60 - 50 * left)),
        "all_layers_5_images_to_95_percent": steps(None if never else int(170 - 160 * left)),
        "all_layers_50_images_to_50_percent": steps(int(20 - 4 * left)),
        "head_only_50_images_to_95_percent": steps(None if left < 0.5 else 12),
        "all_layers_fewest_images_to_95_percent": measure(5 if not never else 50, "low"),
        "anamnesis_5_images": measure(None if never else 1 - 0.9 * left, "low"),
    }
    probes = {
        **{f"linear_{layer}": measure(0.6 + 0.05 * i + 0.03 * left, "high", 0.02) for i, layer in enumerate(LAYERS)},
        f"knn_{LAYERS[-1]}": measure(0.8 + 0.1 * left, "high", 0.02),
        "new_head_forget_accuracy": measure(0.62 + 0.2 * left, "high", 0.03),
        "new_head_retain_accuracy": measure(0.86, None, 0.01),
    }
    representation = {
        f"cka_to_original_{LAYERS[-1]}": measure(0.4 + 0.6 * left, "high", 0.05 if left < 1 else None),
        f"cka_to_retrained_{LAYERS[-1]}": measure(1 - 0.6 * left, None, 0.05),
        "js_divergence_to_original": measure(0.5 - 0.5 * left, "low", 0.02),
        "zrf": measure(0.82 - 0.3 * left, "low", 0.02),
        **{f"weight_distance_{layer}": measure(0.9 - 0.8 * left, None, n=None) for layer in LAYERS},
        "a_measure_of_tomorrow": measure(0.0123, None),
    }
    recovery = {
        "rescaled_forget_accuracy": measure(0.9 * left, "high", 0.04),
        "int8_forget_accuracy": measure(0.0, "high", 0.02),
        "inversion_recognised": measure(0.5 * left, "high", 0.08),
    }
    accuracy = {
        "entropy_of_forgotten": measure(0.9 - 0.8 * left, None, 0.05),
        "tug_of_war": measure(1 - 0.9 * left, None, n=None),
    }
    measures = {
        "accuracy": accuracy,
        "membership": membership,
        "relearning": relearning,
        "probes": probes,
        "representation": representation,
        "recovery": recovery,
    }
    return {"measures": measures, "curves": _curves(rng, left)}


def _curves(rng: np.random.Generator, left: float) -> dict[str, Any]:
    fpr = np.concatenate([[0], np.geomspace(1e-3, 1, 150)])
    steps = [0, 1, 2, 3, 5, 10, 20, 40, 80, 120, 160, 200]
    forgotten = np.arange(900) < 90
    places = rng.normal(size=(900, 2)) * 2 + forgotten[:, None] * [7 * left, 5 * left]
    alike = {layer: 1 - (1 - left) * 0.1 * i for i, layer in enumerate(LAYERS)}

    def learned(rate: float) -> list[float]:
        return [0.9 * (1 - np.exp(-step * rate * (0.1 + left))) for step in steps]

    powers = {"loss": 1 - 0.5 * left, "u_lira": 1 - 0.75 * left}
    rates = {"all_layers_5_images": 0.05, "all_layers_50_images": 0.3, "head_only_50_images": 0.02}
    return {
        "roc": {name: {"fpr": fpr.tolist(), "tpr": (fpr**power).tolist()} for name, power in powers.items()},
        "relearning": {setting: {"steps": steps, "accuracy": learned(rate)} for setting, rate in rates.items()},
        "cka": {"original": alike, "retrained": {layer: 1 - 0.12 * left * i for i, layer in enumerate(LAYERS)}},
        "map": {"x": places[:, 0].tolist(), "y": places[:, 1].tolist(), "forgotten": forgotten.tolist()},
    }
