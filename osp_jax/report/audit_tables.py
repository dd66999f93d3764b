"""The audit's evidence as table rows, by question; rows are as in `tables.py`."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from osp_jax.report.answers import asked, measures
from osp_jax.report.formats import NOTHING, duration, percent, text
from osp_jax.report.measure_words import attack_label, gap, label, only_describes_a_layer, shown
from osp_jax.report.nouns import noun, spelled_out
from osp_jax.report.tables import MODELS, Rows
from osp_jax.report.verdicts import in_words, verdict

COMPARED = ("original", "unlearned", "retrained")
RATES = (0.001, 0.01, 0.1)
_MOST_STEPS = 6


def evidence(evaluation: dict[str, Any], question: str) -> Rows:
    """Each measure of every model with its 95% interval, the gap to the retrained one, and what that says."""
    named, kind = _by_model(evaluation, question), noun(evaluation)
    rows = [["Measure", *(MODELS[key] for key in COMPARED), "Gap to retrained", "Verdict", "n"]]
    for name in _names(named.values()):
        if only_describes_a_layer(name):
            continue
        found = [named[key].get(name) for key in COMPARED]
        counts = dict.fromkeys(f"{m['n']:,}" for m in found if m and m.get("n") is not None)
        compared = gap(name, *found[1:]), in_words(verdict(question, *found[1:]), found[1])
        rows.append([label(name, kind), *(shown(name, m, kind=kind) for m in found), *compared, " / ".join(counts)])
    return rows if len(rows) > 1 else []


def layer_changes(evaluation: dict[str, Any], question: str) -> Rows:
    """Measures that only describe each layer, in a table of their own because they are many."""
    named = _by_model(evaluation, question)
    named = {key: found for key, found in named.items() if found}
    rows = [["Measure", *(MODELS[key] for key in named)]]
    for name in filter(only_describes_a_layer, _names(named.values())):
        rows.append([label(name), *(shown(name, found.get(name)) for found in named.values())])
    return rows if len(rows) > 1 else []


def roc_numbers(evaluation: dict[str, Any]) -> Rows:
    """The share of training images that each attack finds, at a few rates of false alarms."""
    curves = curves_of(evaluation, "roc")
    rows = [["Attack", "Model", *(f"Found at {100 * rate:g}% false alarms" for rate in RATES)]]
    for attack in _names(curves.values()):
        for key, found in curves.items():
            if curve := found.get(attack):
                rows.append([attack_label(attack), MODELS[key], *(percent(_found_at(curve, rate)) for rate in RATES)])
    return rows if len(rows) > 1 else []


def _found_at(curve: dict[str, list[float]], rate: float) -> float | None:
    return max((t for f, t in zip(curve["fpr"], curve["tpr"], strict=True) if f <= rate), default=None)


def relearning_numbers(evaluation: dict[str, Any]) -> Rows:
    """Accuracy on unseen forgotten images after some of the steps, by setting."""
    curves = curves_of(evaluation, "relearning")
    rows = [["Setting", "Steps", *(MODELS[key] for key in curves)]]
    for setting in _names(curves.values()):
        found = [dict(zip(c["steps"], c["accuracy"], strict=True)) for c in _curves(curves, setting)]
        steps = sorted({step for curve in found for step in curve})
        for place in np.unique(np.linspace(0, len(steps) - 1, min(_MOST_STEPS, len(steps))).astype(int)):
            cells = [percent(curve.get(steps[place])) for curve in found]
            rows.append([label(setting, noun(evaluation)), f"{steps[place]:,}", *cells])
    return rows if len(rows) > 1 else []


def _curves(curves: dict[str, Any], setting: str) -> list[dict[str, list[float]]]:
    return [found.get(setting) or {"steps": [], "accuracy": []} for found in curves.values()]


def cka_numbers(evaluation: dict[str, Any]) -> Rows:
    """Likeness of each layer to the original and to the retrained model."""
    curves = curves_of(evaluation, "cka")
    columns = [
        (f"{MODELS[key]} to the {other}", found[other])
        for other in ("original", "retrained")
        for key, found in curves.items()
        if key != other and found.get(other)
    ]
    rows = [["Layer", *(title for title, _ in columns)]]
    for layer in _names(values for _, values in columns):
        rows.append([layer, *(_number(values.get(layer)) for _, values in columns)])
    return rows if len(rows) > 1 else []


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def audit_record(evaluation: dict[str, Any]) -> Rows:
    """The time and the settings of each question."""
    audit = evaluation.get("audit") or {}
    seconds, settings, kind = audit.get("seconds") or {}, audit.get("settings") or {}, noun(evaluation)
    rows = [["Question of the audit", "Time", "Settings"]]
    for question in dict.fromkeys([*seconds, *settings]):
        used = settings.get(question) or {}
        if kind == "text":  # no inversion was run
            used = {name: value for name, value in used.items() if not name.startswith("inversion_")}
        settled = spelled_out(text(used), kind) or NOTHING
        rows.append([asked(evaluation, question).text, duration(seconds.get(question)), settled])
    return rows if len(rows) > 1 else []


def curves_of(evaluation: dict[str, Any], kind: str) -> dict[str, Any]:
    """One kind of curve of the models that have it, by model."""
    found = {key: ((evaluation.get(key) or {}).get("curves") or {}).get(kind) for key in COMPARED}
    return {key: curves for key, curves in found.items() if curves}


def _by_model(evaluation: dict[str, Any], question: str) -> dict[str, Any]:
    return {key: measures(evaluation, key).get(question, {}) for key in COMPARED}


def _names(named: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for found in named for name in found))
