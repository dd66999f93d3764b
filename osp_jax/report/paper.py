"""The table of the whole study: a row for each network, data set and method; 'not run' where a figure is missing."""

from collections.abc import Mapping, Sequence
from typing import Any

from osp_jax.report.audits import linear_probe, mean_gap, new_head, retain_accuracy, value_of
from osp_jax.report.formats import duration, percent
from osp_jax.report.sweep import swept

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
    entries: Sequence[str], results: Mapping[str, Mapping[str, dict[str, Any]]], methods: Sequence[str]
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
        for name in methods:
            found = swept(sweep, name) if name in sweep["options"] else None
            rows.append([*about, name, *_accuracies(found), *_audited(audit, name), _warm(found)])
    return rows


def _accuracies(found: Mapping[str, float] | None) -> list[str]:
    if found is None:
        return [NOT_RUN] * 4
    forget = [percent(found[key]) for key in ("forget", "forget_worst")]
    return forget + [_signed(found[key]) for key in ("change", "change_worst")]


def _audited(audit: dict[str, Any] | None, method: str) -> list[str]:
    """Retained accuracy, U-LiRA, probe and new head against the retrained model, means over the audited classes."""
    taken = (retain_accuracy, lambda model: value_of(model, "membership", "u_lira_auc"), linear_probe, new_head)
    gaps = [None if audit is None else mean_gap(audit, method, "retrained", of) for of in taken]
    retain, auc, probe, head = gaps
    return [_signed(retain), NOT_RUN if auc is None else f"{auc:+.3f}", _signed(probe, 1), _signed(head, 1)]


def _warm(found: Mapping[str, float] | None) -> str:
    return NOT_RUN if found is None else duration(found["warm"])


def _signed(share: float | None, digits: int = 2) -> str:
    return NOT_RUN if share is None else f"{100 * share:+z.{digits}f}"
