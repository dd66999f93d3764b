"""The table of the whole study: a row a network, data set and method, 'not run' where a figure is missing."""

from collections.abc import Mapping, Sequence
from typing import Any

from osp_jax.report.audits import linear_probe, new_head, value_of
from osp_jax.report.formats import duration, percent

NOT_RUN = "not run"
HEADER = (
    "Data",
    "Network",
    "Device",
    "Accuracy before",
    "Method",
    "Forgotten, mean",
    "worst class",
    "Others, change",
    "worst class",
    "Others, to retrained",
    "U-LiRA, gap",
    "Linear probe, gap",
    "New head, gap",
    "Warm request",
)


def paper_rows(
    entries: Sequence[str], results: Mapping[str, Mapping[str, Any]], methods: Sequence[str]
) -> list[list[str]]:
    """Rows under `HEADER`.

    Args:
      entries: names as in `configs/paper/default.py`, '<data>_<network>'.
      results: by entry 'sweep' and 'audit', as their `results.json` have them; either may be missing.
      methods: those to show.
    """
    rows = []
    for entry in entries:
        sweep, audit = (results.get(entry, {}).get(kind) for kind in ("sweep", "audit"))
        data, network = entry.rsplit("_", 1)
        if sweep is None:
            rows.append([data, network, *[NOT_RUN] * 2, "all", *[NOT_RUN] * 9])
            continue
        about = [sweep["dataset"]["variant"], network, sweep["provenance"]["device"], percent(sweep["accuracy"])]
        rows += [[*about, name, *_swept(sweep, name), *_audited(audit, name), _warm(sweep, name)] for name in methods]
    return rows


def _swept(sweep: Mapping[str, Any], method: str) -> list[str]:
    """Forget accuracy, and change of the retained one, mean and worst over all classes."""
    if method not in sweep["options"]:
        return [NOT_RUN] * 4
    forget = [row[method]["forget_accuracy"] for row in sweep["classes"]]
    change = [row[method]["retain_accuracy"] - row["original"]["retain_accuracy"] for row in sweep["classes"]]
    return [percent(_mean(forget)), percent(max(forget)), _signed(_mean(change)), _signed(min(change))]


def _audited(audit: Mapping[str, Any] | None, method: str) -> list[str]:
    """Retained accuracy, U-LiRA, probe and new head against the retrained model, means over the audited classes."""
    requests = [] if audit is None else [request["models"] for request in audit["requests"].values()]
    pairs = [(models[method], models["retrained"]) for models in requests if method in models]
    taken = (
        lambda model: model["test_retain_accuracy"],
        lambda model: value_of(model, "membership", "u_lira_auc"),
        linear_probe,
        new_head,
    )
    found = [[(of(mine), of(its)) for mine, its in pairs] for of in taken]
    gaps = [[mine - its for mine, its in values if None not in (mine, its)] for values in found]
    retain, auc, probe, head = (_mean(gap) if gap else None for gap in gaps)
    return [_signed(retain), NOT_RUN if auc is None else f"{auc:+.3f}", _signed(probe, 1), _signed(head, 1)]


def _warm(sweep: Mapping[str, Any], method: str) -> str:
    if method not in sweep["options"]:
        return NOT_RUN
    seconds = sorted(row[method]["warm_seconds"] for row in sweep["classes"])
    return duration(seconds[len(seconds) // 2])


def _signed(share: float | None, digits: int = 2) -> str:
    return NOT_RUN if share is None else f"{100 * share:+z.{digits}f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
