"""The tables of exact heads: accuracy and cost of requests, and comparison with a refit."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from osp_jax.report.formats import NOTHING
from osp_jax.report.tables import markdown_table

HEADER = [
    "Network",
    "Head for",
    "Features",
    "Test accuracy",
    "Forgotten, worst class",
    "Others, mean change",
    "Class, prepared, CPU / wall ms",
    "Class, not prepared",
    "One image",
    "100 images",
    "Preparing all, wall s",
    "Bytes a class",
]
LEFT_HEADER = [
    "Network",
    "Request",
    "Difference of the weights",
    "Gaps of 0 within their interval",
    "U-LiRA",
    "U-LiRA, not forgotten",
]


def row(results: dict[str, Any]) -> list[str]:
    """The row of one network, under `HEADER`."""
    classes, seconds = results["classes"], results["seconds"]
    changes = [each["others_after"] - each["others_before"] for each in classes]
    timed = [seconds[name] for name in ("class_prepared", "class", "images_1", "images_100")]
    return [
        results["network"],
        results["dataset"],
        f"{results['features']:,}",
        f"{results['test_accuracy']['value']:.2%}",
        f"{max(each['forgotten_after'] for each in classes):.2%}",
        f"{100 * mean(changes):+.2f} points",
        *(f"{_milliseconds(taken['cpu'])} / {_milliseconds(taken['wall'])}" for taken in timed),
        f"{seconds['prepare_all']:.1f}",
        f"{sum(results['bytes_a_class'].values()) / 1e6:.1f} MB",
    ]


def left_rows(results: dict[str, Any]) -> list[list[str]]:
    """One row per audited request, under `LEFT_HEADER`."""
    areas = {each["request"]: each for each in results.get("u_lira", ())}
    audits = {f"class {each['class']}": each for each in results.get("audit", ())}
    found = []
    for name in dict.fromkeys([*audits, *areas]):
        audit, area = audits.get(name), areas.get(name)
        gaps = [gap for gap in audit["gaps"] if gap["gap"] is not None] if audit else []
        inside = [gap for gap in gaps if abs(gap["gap"]) <= 1e-12 or _holds_zero(gap["gap_ci95"])]
        weights = audit["weights"] if audit else area["largest_weight_difference"]
        cells = [_interval(area[key]) for key in ("u_lira_auc", "u_lira_auc_hidden")] if area else [NOTHING, NOTHING]
        within = f"{len(inside)} of {len(gaps)}" if gaps else NOTHING
        found.append([results["network"], name, f"{weights:.1e}", within, *cells])
    return found


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """Both tables, with the selected settings and the effect of 100 removals."""
    chosen = "; ".join(_settings(each) for each in found)
    words = [
        f"On {found[0]['provenance']['device']}, medians of warm requests. Chosen on held-out images: {chosen}.",
        markdown_table(HEADER, [row(each) for each in found]),
        markdown_table(LEFT_HEADER, [cells for each in found for cells in left_rows(each)]),
    ]
    if removals := [max(each["removals"]["differences"]) for each in found if "removals" in each]:
        words.append(f"After 100 requests for images in either of two orders, and a class: {max(removals):.1e}.")
    return "\n\n".join(words)


def _settings(results: dict[str, Any]) -> str:
    chosen = results["settings"]
    words = f"{chosen['stages']} stages, {chosen['random_features']} random features, ridge {chosen['ridge']:g}"
    return f"{results['network']} {words}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.01 else f"{1e3 * seconds:.2f}"


def _holds_zero(interval: Sequence[float] | None) -> bool:
    return interval is not None and interval[0] <= 0 <= interval[1]


def _interval(found: dict[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['value']:.4f} [{low:.4f}, {high:.4f}]"
