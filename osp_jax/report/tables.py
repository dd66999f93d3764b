"""The report's table rows, from the evaluation's JSON: Markdown and HTML render the same strings.

A table is a list of rows of plain text, the first row its header; an empty list means there is nothing to show.
"""

from collections.abc import Iterable
from typing import Any

from osp_jax.audit.measure import wilson
from osp_jax.report.formats import DASH, NOTHING, duration, markdown_table, percent, points, text
from osp_jax.report.nouns import noun

Rows = list[list[str]]

MODELS = {"original": "Original", "unlearned": "Unlearned", "retrained": "Retrained", "logit_masked": "Logit masked"}
MOST_CLASSES = 20  # above this, a table or figure shows the classes that changed most
_STEPS = {
    "statistics": "Collecting the class statistics (once per model)",
    "compile": "Compiling",
    "cold": "First request, compilation included",
    "warm_median": "Request, once compiled: median",
    "warm_p95": "Request, once compiled: 95th percentile",
}


def class_name(evaluation: dict[str, Any], index: int | str) -> str:
    names = evaluation["dataset"]["class_names"]
    return str(names[int(index)]) if int(index) < len(names) else str(index)


def models(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The evaluated models by key, the original first."""
    return {key: evaluation[key] for key in MODELS if evaluation.get(key)}


def retained(evaluation: dict[str, Any]) -> list[int]:
    return [index for index in range(len(evaluation["original"]["per_class"])) if index not in evaluation["forget"]]


def image_counts(model: dict[str, Any], classes: Iterable[int]) -> tuple[int, int]:
    """(test images of these classes that were recognised, all of them)"""
    rows = [(index, model["confusion"][index]) for index in classes] if model.get("confusion") else []
    return sum(row[index] for index, row in rows), sum(sum(row) for _, row in rows)


def interval(counts: tuple[int, int]) -> str:
    """The 95% interval, in percent, of (hits, images); empty where there is no image."""
    return DASH.join(f"{100 * bound:.1f}" for bound in wilson(*counts)) if counts[1] else ""


def _measured(fraction: float | None, counts: tuple[int, int]) -> str:
    return percent(fraction) + (f" ({interval(counts)})" if fraction is not None and counts[1] else "")


def accuracy_table(evaluation: dict[str, Any]) -> Rows:
    """Every model's accuracy, test accuracies with their Wilson interval."""
    found, forget, others = models(evaluation), evaluation["forget"], retained(evaluation)
    if not forget:
        model = found["original"]
        test = _measured(model["test_retain_accuracy"], image_counts(model, others))
        return [["Model", "Test", "Train"], [MODELS["original"], test, percent(model["train_retain_accuracy"])]]
    rows = [["Model", "Test, forgotten", "Test, retained", "Change, points", "Train, forgotten", "Train, retained"]]
    for key, label in MODELS.items():
        if model := found.get(key):
            change = points(model["test_retain_accuracy"], found["original"]["test_retain_accuracy"])
            rows.append([
                label,
                _measured(model["test_forget_accuracy"], image_counts(model, forget)),
                _measured(model["test_retain_accuracy"], image_counts(model, others)),
                NOTHING if key == "original" else change,
                percent(model["train_forget_accuracy"]),
                percent(model["train_retain_accuracy"]),
            ])  # fmt: skip
        else:
            rows.append([label, "not run", *[NOTHING] * 4])
    return rows


def shown_classes(evaluation: dict[str, Any], most: int = 15) -> list[int]:
    """All classes; of many, the forgotten ones and the retained ones that changed most (or score lowest)."""
    before, others = evaluation["original"]["per_class"], retained(evaluation)
    if len(before) <= MOST_CLASSES:
        return list(range(len(before)))
    after = evaluation["unlearned"]["per_class"] if evaluation.get("unlearned") else None
    key = (lambda i: -abs((after[i] or 0) - (before[i] or 0))) if after else (lambda i: before[i] or 0)
    return [*evaluation["forget"][:most], *sorted(others, key=key)[:most]]


def class_table(evaluation: dict[str, Any]) -> Rows:
    """Test accuracy class by class for every model."""
    found = models(evaluation)
    rows = [["Class", *(MODELS[key] for key in found)]]
    for index in shown_classes(evaluation):
        mark = " (forgotten)" if index in evaluation["forget"] else ""
        rows.append([class_name(evaluation, index) + mark, *(percent(m["per_class"][index]) for m in found.values())])
    return rows


def destinations(evaluation: dict[str, Any], most: int = 5) -> Rows:
    """The answers of each model to the forgotten classes' test images: the unlearned model's most frequent ones."""
    found = models(evaluation)
    rows = [[f"{noun(evaluation).capitalize()}s of", "Taken for", *(MODELS[key] for key in found)]]
    for index in evaluation["forget"] if "unlearned" in found else []:
        shares = {key: (m.get("forgotten_predictions") or {}).get(str(index)) or {} for key, m in found.items()}
        for answer in sorted(shares["unlearned"], key=lambda a: (-shares["unlearned"][a], int(a)))[:most]:
            cells = [percent(share.get(answer, 0.0) if share else None) for share in shares.values()]
            rows.append([class_name(evaluation, index), class_name(evaluation, answer), *cells])
    return rows if len(rows) > 1 else []


def channel_table(evaluation: dict[str, Any]) -> Rows:
    """The number of channels of each layer, and how many were turned down."""
    rows = [["Layer", "Channels", "Turned down", "Lowest factor"]]
    for layer, channels in (evaluation.get("channels") or {}).items():
        factor = channels["factor"]
        if masked := sum(value < 1 for value in factor):
            rows.append([layer, str(len(factor)), str(masked), f"{min(factor):.3g}"])
    if len(rows) == 1:
        masked_channels = (evaluation.get("unlearn") or {}).get("masked_channels") or {}
        rows = [["Layer", "Turned down"], *([layer, str(count)] for layer, count in masked_channels.items())]
    return rows if len(rows) > 1 else []


def timing(evaluation: dict[str, Any]) -> Rows:
    """The time of each step of the request."""
    seconds = (evaluation.get("unlearn") or {}).get("seconds") or {}
    rows = [[_STEPS.get(step, step), duration(value)] for step, value in seconds.items()]
    return [["Step", "Time"], *rows] if rows else []


def data_seen(evaluation: dict[str, Any]) -> Rows:
    """The number of forgotten and retained images that each phase read."""
    forget = set(map(str, evaluation["forget"]))
    rows = [["Phase", f"{noun(evaluation).capitalize()}s from", "Forgotten", "Retained"]]
    for phase, splits in ((evaluation.get("unlearn") or {}).get("data_seen") or {}).items():
        for split, counts in (splits or {NOTHING: {}}).items():
            gone = sum(count for index, count in counts.items() if index in forget)
            rows.append([phase, split, f"{gone:,}", f"{sum(counts.values()) - gone:,}"])
    return rows if len(rows) > 1 else []


def provenance(evaluation: dict[str, Any]) -> Rows:
    """What is needed to reproduce the numbers."""
    data, model, unlearn = evaluation["dataset"], evaluation["model"], evaluation.get("unlearn") or {}
    facts = {
        "data": data.get("variant") or data["name"],
        f"{noun(evaluation)}s": f"{data['num_train']:,} train, {data['num_test']:,} test",
        f"{noun(evaluation)} shape": " x ".join(map(str, data["image_shape"])),
        "classes": len(data["class_names"]),
        "model": f"{model['name']}, {model['parameters']:,} parameters",
        "forgotten": ", ".join(f"{index} ({class_name(evaluation, index)})" for index in evaluation["forget"]),
        "method": evaluation.get("method") if evaluation["forget"] else None,
        "options": unlearn.get("options"),
        "audit": (evaluation.get("audit") or {}).get("level"),
        "original model": unlearn.get("original"),
        "parameters changed": unlearn.get("parameters_changed"),
        **(evaluation.get("provenance") or {}),
    }
    return [["Item", "Value"], *([key.capitalize(), text(value)] for key, value in facts.items() if _given(value))]


def _given(value: Any) -> bool:
    return value is not None and value != "" and value != {}


def markdown(rows: Rows) -> str:
    """`markdown_table` of rows whose first is the header."""
    return markdown_table(rows[0], rows[1:])
