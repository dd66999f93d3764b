"""The figures of a comparison by method, and their tables, from the JSON that `experiments.benchmark` writes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from osp_jax.audit.measure import half_width
from osp_jax.comparison.questions import ATTACK, HEAD, PROBE, STEPS
from osp_jax.report.formats import NOTHING, duration
from osp_jax.report.method_names import method_name
from osp_jax.report.nouns import noun

Rows = list[list[str]]

YARDSTICK, TIME_UNIT = "retrain", "osp"
# (question, measure) of a cell.
MEMBERSHIP = ("membership", ATTACK)
PROBED, REFITTED = ("inside", PROBE), ("inside", HEAD)
_RELEARNING = ("relearning", STEPS)
ACCURACY = [
    "Method",
    "Forget accuracy",
    "worst",
    "Retained accuracy",
    "change, points",
    "Gap to retrain, forget",
    "retained",
]
INSIDE = [
    "Method",
    "Membership, gap",
    "Linear probe, gap",
    "New head, gap",
    "Relearned, steps",
    "against retrain",
    "Average gap",
]
COST = ["Cold", "Warm", f"Warm, times {TIME_UNIT}", "Extra memory"]


class Figure(NamedTuple):
    """Mean, and half the 95% interval (None for a single value), of `values`."""

    mean: float
    half: float | None
    values: list[float]


def figure_of(values: Sequence[float | None]) -> Figure | None:
    """The figure of some values; None where there is none."""
    known = [float(v) for v in values if v is not None]
    if not known:
        return None
    return Figure(float(np.mean(known)), half_width(known) if len(known) > 1 else None, known)


def summarise(results: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """By method, the original first, over the requests of a kind.

    Figures `forget`, `retain` (fractions), `change`, `forget_gap`, `retain_gap` (points), `seen`, `cold`, `warm`
    (seconds), `ratio` (of the medians of warm times), `memory` (bytes), each None where unknown; `cells` and `errors`.

    Where the models were asked what they still know: `membership`, `probe`, `head` (points to the retrained model),
    `steps` of relearning (text), `relearning` (as a share of the retrained model's steps, 1 at most) and `average_gap`
    (points; the mean of the sizes of all gaps but that of relearning, as SalUn takes it).
    """
    cells = [cell for cell in results["cells"] if cell["kind"] == kind]
    accuracy = {
        (c["seed"], c["request"], c["method"]): (
            c["accuracy"]["test_forget_accuracy"],
            c["accuracy"]["test_retain_accuracy"],
        )
        for c in cells
        if "accuracy" in c
    }

    def against(other: str, cell: dict[str, Any], side: int) -> float | None:
        mine, its = (accuracy.get((cell["seed"], cell["request"], method)) for method in (cell["method"], other))
        return 100 * (mine[side] - its[side]) if mine and its else None

    retrained = {(c["seed"], c["request"]): c for c in cells if c["method"] == YARDSTICK}

    def gaps(cell: dict[str, Any]) -> list[float | None]:
        """Of membership, probe and new head, in points."""
        its = retrained.get((cell["seed"], cell["request"]), {})
        values = [[value_of(of, *name) for name in (MEMBERSHIP, PROBED, REFITTED)] for of in (cell, its)]
        return [None if None in pair else 100 * (pair[0] - pair[1]) for pair in zip(*values, strict=True)]

    def average_gap(cell: dict[str, Any]) -> float | None:
        found = [against(YARDSTICK, cell, 0), against(YARDSTICK, cell, 1), *gaps(cell)]
        return None if None in found else float(np.mean(np.abs(found)))

    def relearning(cell: dict[str, Any]) -> float | None:
        mine, its = (steps_of(of) for of in (cell, retrained.get((cell["seed"], cell["request"]), {})))
        return None if not (mine and its) else min(1.0, mine[0] / its[0]) if its[0] else None

    def summary(method: str) -> dict[str, Any]:
        own = [cell for cell in cells if cell["method"] == method]
        done = [cell for cell in own if "accuracy" in cell]
        seconds = [cell.get("seconds", {}) for cell in done]
        trials = results["tuning"].get(method, [])
        cold = [s.get("cold") for s in (*trials[:1], *seconds)]
        peaks = [part.get("peak_bytes") for part in (*trials, *done)]
        return {
            "forget": figure_of([cell["accuracy"]["test_forget_accuracy"] for cell in done]),
            "retain": figure_of([cell["accuracy"]["test_retain_accuracy"] for cell in done]),
            "change": figure_of([against("original", cell, 1) for cell in done]),
            "forget_gap": figure_of([against(YARDSTICK, cell, 0) for cell in done]),
            "retain_gap": figure_of([against(YARDSTICK, cell, 1) for cell in done]),
            **{
                name: figure_of([gaps(cell)[number] for cell in done])
                for number, name in enumerate(("membership", "probe", "head"))
            },
            "steps": _steps([steps_of(cell) for cell in done]),
            "relearning": figure_of([relearning(cell) for cell in done]),
            "average_gap": figure_of([average_gap(cell) for cell in done]),
            "seen": figure_of([sum(cell["seen"].values()) if "seen" in cell else None for cell in done]),
            "cold": max((c for c in cold if c is not None), default=None),
            "warm": _median([s.get("warm") for s in seconds]),
            "memory": max((peak for peak in peaks if peak is not None), default=None),
            "cells": len(own),
            "errors": [f"{cell['request']}: {cell['error']}" for cell in own if "error" in cell],
        }

    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    first = [m for m in ("original", *results["methods"]) if m in methods]
    found = {method: summary(method) for method in [*first, *(m for m in methods if m not in first)]}
    unit = found.get(TIME_UNIT, {}).get("warm")
    return {m: {**s, "ratio": s["warm"] / unit if s["warm"] and unit else None} for m, s in found.items()}


def kinds(results: dict[str, Any]) -> list[str]:
    """The groups of requests, single classes first."""
    found = dict.fromkeys(cell["kind"] for cell in results["cells"])
    return sorted(found, key=lambda kind: (kind != "single", kind))


def tables(results: dict[str, Any], kind: str) -> list[Rows]:
    """The tables of one group of requests: accuracies, what models still know of the class, and costs. A row for each
    method, the header first."""
    accuracy, inside, cost = [ACCURACY], [INSIDE], [["Method", f"{noun(results).capitalize()}s seen", *COST]]
    options = {cell["method"]: cell.get("options") for cell in results["cells"]}
    for method, figures in summarise(results, kind).items():
        shown = method_name(method, options.get(method))
        if figures["forget"] is None and figures["retain"] is None:
            accuracy.append([shown, "failed", *[NOTHING] * (len(ACCURACY) - 2)])
            continue
        own = method in ("original", YARDSTICK)
        accuracy.append([
            shown,
            _percent(figures["forget"]),
            f"{100 * max(figures['forget'].values):.2f}%" if figures["forget"] else NOTHING,
            _percent(figures["retain"]),
            NOTHING if method == "original" else _points(figures["change"]),
            NOTHING if own else _points(figures["forget_gap"]),
            NOTHING if own else _points(figures["retain_gap"]),
        ])  # fmt: skip
        if figures["steps"]:
            inside.append([
                shown,
                *(_points(None if method == YARDSTICK else figures[what]) for what in ("membership", "probe", "head")),
                figures["steps"],
                f"{figures['relearning'].mean:.2f}" if figures["relearning"] and method != YARDSTICK else NOTHING,
                f"{figures['average_gap'].mean:.2f}" if figures["average_gap"] and not own else NOTHING,
            ])  # fmt: skip
        if method != "original":
            cost.append([
                shown,
                f"{figures['seen'].mean:,.0f}" if figures["seen"] else NOTHING,
                duration(figures["cold"]),
                duration(figures["warm"]),
                f"{figures['ratio']:,.{0 if figures['ratio'] >= 10 else 1}f}" if figures["ratio"] else NOTHING,
                f"{figures['memory'] / 1e6:,.0f} MB" if figures["memory"] is not None else NOTHING,
            ])  # fmt: skip
    return [table for table in (accuracy, inside, cost) if len(table) > 1]


def asked_inside(results: dict[str, Any]) -> bool:
    """Whether the models were asked what they still know of the class."""
    return any(cell.get("measures") for cell in results["cells"])


def failures(results: dict[str, Any], kind: str) -> list[str]:
    """A sentence for each method that failed on a request."""
    return [
        f"{method} failed on {len(s['errors'])} of {s['cells']} requests ({s['errors'][0]})."
        for method, s in summarise(results, kind).items()
        if s["errors"]
    ]


def settings(results: dict[str, Any]) -> Rows:
    """The settings of each method, how many were tried, and the score of the chosen ones."""
    rows = [["Method", "Settings other than its defaults", "Tried", "Score of the defaults", "of the chosen"]]
    chosen = {cell["method"]: cell["options"] for cell in results["cells"] if "options" in cell}
    for method in [m for m in results["methods"] if m in chosen]:
        tried = results["tuning"].get(method, [])
        defaults = tried[0]["options"] if tried else chosen[method]
        changed = [f"{k}={v}" for k, v in chosen[method].items() if v != defaults.get(k)]
        scores = [trial.get("score") for trial in tried]
        best = [trial.get("score") for trial in tried if trial["options"] == chosen[method]]
        known = [f"{s:.4f}" if s is not None else "failed" for s in (*scores[:1], *best[:1])]
        name = method_name(method, chosen[method])
        rows.append([name, ", ".join(changed) or NOTHING, str(len(tried) or NOTHING), *(known or [NOTHING] * 2)])
    return rows


def value_of(cell: dict[str, Any], question: str, name: str) -> float | None:
    """The value of a measure of a cell; None where it has none."""
    return cell.get("measures", {}).get(question, {}).get(name, {}).get("value")


def steps_of(cell: dict[str, Any]) -> tuple[int, bool] | None:
    """(steps of relearning, whether the goal was reached in them); None where that was not asked."""
    question, name = _RELEARNING
    found = cell.get("measures", {}).get(question, {}).get(name)
    if not found:
        return None
    return (int(found["never"]), False) if "never" in found else (int(found["value"]), True)


def _steps(found: Sequence[tuple[int, bool] | None]) -> str | None:
    """The median in words, the lower one of two."""
    known = sorted((not reached, steps) for steps, reached in (one for one in found if one))
    if not known:
        return None
    late, steps = known[(len(known) - 1) // 2]
    return f">{steps}" if late else str(steps)


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def _percent(figure: Figure | None) -> str:
    if figure is None:
        return NOTHING
    return f"{100 * figure.mean:.2f}%" + ("" if figure.half is None else f" ± {100 * figure.half:.2f}")


def _points(figure: Figure | None) -> str:
    if figure is None:
        return NOTHING
    return f"{figure.mean:+z.2f}" + ("" if figure.half is None else f" ± {figure.half:.2f}")
