"""The rows of a comparison for a paper, the smallest average gap to the retrained network first."""

from collections.abc import Mapping
from typing import Any

from osp_jax.report.comparison_tables import YARDSTICK, Figure, summarise
from osp_jax.report.deviations import DEVIATIONS
from osp_jax.report.formats import NOTHING, duration
from osp_jax.report.method_names import method_name

HEADER = (
    "Method",
    "Forgotten",
    "Others",
    "Others, to retrained",
    "Membership",
    "Linear probe",
    "New head",
    "Relearning",
    "Average gap",
    "Cold",
    "Warm",
    "Prepared",
    "Images",
)
DIFFERS = "Differs from its paper"
_FIRST = ("original", YARDSTICK)


def ranked_rows(
    results: dict[str, Any], prepared: Mapping[str, float], *, differences: bool = False
) -> list[list[str]]:
    """Rows under `HEADER`, and under `DIFFERS` with `differences`: the original and the retrained network, then methods
    by their average gap. Accuracies and changes are means, with the worst request in brackets.

    Args:
      prepared: seconds of a warm request that was prepared, by method.
    """
    found = summarise(results, "single")
    options = {cell["method"]: cell.get("options") for cell in results["cells"]}
    rows = []
    for name in [*(first for first in _FIRST if first in found), *ranked(found)]:
        row = [method_name(name, options.get(name)), *_figures(name, found[name]), *_costs(name, found[name], prepared)]
        rows.append([*row, DEVIATIONS.get(name, "")] if differences else row)
    return rows


def ranked(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The methods of `summarise`, the smallest average gap to the retrained network first."""
    return sorted((name for name in found if name not in _FIRST), key=lambda name: _rank(found[name]))


def _rank(figures: Mapping[str, Any]) -> float:
    gap = figures["average_gap"]
    return float("inf") if gap is None else gap.mean


def _figures(name: str, figures: Mapping[str, Any]) -> list[str]:
    if figures["forget"] is None:
        return ["failed", *[NOTHING] * 7]
    retrained = name == YARDSTICK
    points = [None if retrained else figures[what] for what in ("retain_gap", "membership", "probe", "head")]
    again = None if retrained else figures["relearning"]
    gap = None if name in _FIRST else figures["average_gap"]
    return [
        f"{100 * figures['forget'].mean:.1f}% ({100 * max(figures['forget'].values):.1f}%)",
        NOTHING if name == "original" or figures["change"] is None else _with_worst(figures["change"]),
        *(NOTHING if figure is None else f"{figure.mean:+z.1f}" for figure in points),
        NOTHING if again is None else f"{again.mean:.2f}",
        NOTHING if gap is None else f"{gap.mean:.1f}",
    ]


def _with_worst(change: Figure) -> str:
    return f"{change.mean:+z.1f} ({min(change.values):+z.1f})"


def _costs(name: str, figures: Mapping[str, Any], prepared: Mapping[str, float]) -> list[str]:
    if name == "original":
        return [NOTHING] * 4
    seen = f"{figures['seen'].mean:,.0f}" if figures["seen"] else NOTHING
    return [duration(figures["cold"]), duration(figures["warm"]), duration(prepared.get(name)), seen]
